"""One's own account: the password."""

from typing import Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.response import Template
from opennotice.auth.v1 import auth_pb2

from gateway.clients import SIGN_IN_SECONDS
from gateway.pages.desk import Desk
from gateway.pages.forms import MENDABLE, Form, read_form
from services.chassis.errors import PermissionDenied, Unauthenticated

_REFUSALS = {"PASSWORD_WRONG": "current_password", "PASSWORD_REFUSED": "new_password"}
_NAMES = {"current_password": "current_password", "new_password": "new_password"}


@get("/account/password", permission="signed-in", include_in_schema=False)
async def show_password(desk: NamedDependency[Desk]) -> Template:
    """Shows the form."""
    return desk.page("account/password.html", form=Form())


@post("/account/password", permission="signed-in", include_in_schema=False)
async def change_password(desk: NamedDependency[Desk]) -> Response[Any]:
    """Changes the caller's own password."""
    form = await read_form(desk.request, *_NAMES, "repeated_password")
    form.need("current_password", "Enter the password that you use now.")
    form.need("new_password", "Enter a new password.")
    if form.value("new_password") != form.value("repeated_password"):
        form.add("repeated_password", "The two new passwords differ. Type the new one again.")
    if not form.problems:
        asked = auth_pb2.ChangePasswordRequest(
            current_password=form.value("current_password"),
            new_password=form.value("new_password"),
            # The session that goes on; all others end.
            session_token=desk.visitor.credential,
        )
        try:
            await desk.calls.ask(desk.calls.auth.ChangePassword, asked, seconds=SIGN_IN_SECONDS)
            return desk.done("/opens", "Your password was changed. Your other sessions have ended.")
        except (*MENDABLE, PermissionDenied, Unauthenticated) as error:
            if isinstance(error, PermissionDenied | Unauthenticated) and error.reason not in _REFUSALS:
                raise
            form.refuse(error, _NAMES, _REFUSALS)
    return desk.page("account/password.html", form=form)
