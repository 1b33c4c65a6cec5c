"""Sign-in and sign-out."""

from typing import Any

from litestar import Request, Response, get, post
from litestar.response import Redirect, Template

from gateway.access import gate_of, visitor_of
from gateway.errors import SIGN_IN_PATH, local_path
from gateway.pages.desk import page
from gateway.pages.forms import Form, read_form
from services.chassis.errors import InvalidArgument, PermissionDenied, Unauthenticated

_REFUSED = "The e-mail address or the password is wrong. After five failures in 15 minutes the account is locked."
_LOCKED = "This account is locked after failed sign-ins. Ask the administrator of your agency to unlock it."


@get(SIGN_IN_PATH, public=True, include_in_schema=False)
async def show_sign_in(request: Request[Any, Any, Any]) -> Response[Any]:
    """Shows the sign-in page; who is signed in already goes on."""
    wanted = local_path(request.query_params.get("next"))
    if visitor_of(request) is not None:
        return Redirect(wanted, status_code=303)
    return _page(request, Form({"next": wanted}))


@post(SIGN_IN_PATH, public=True, include_in_schema=False)
async def sign_in(request: Request[Any, Any, Any]) -> Response[Any]:
    """Opens a session and leads to where the person wanted to go."""
    form = await read_form(request, "email", "password", "next")
    form.need("email", "Enter your e-mail address.")
    form.need("password", "Enter your password.")
    if form.problems:
        return _page(request, form)
    gate = gate_of(request)
    try:
        session = await gate.sign_in(request, form.value("email"), form.value("password"))
    except (Unauthenticated, InvalidArgument):
        # What is wrong with it is not told apart: that would tell which addresses exist.
        form.add("email", _REFUSED)
        return _page(request, form, status=401)
    except PermissionDenied:
        form.add("", _LOCKED)
        return _page(request, form, status=403)
    answer = Redirect(local_path(form.value("next")), status_code=303)
    gate.keep_session(answer, session)
    return answer


@post("/sign-out", permission="signed-in", include_in_schema=False)
async def sign_out(request: Request[Any, Any, Any]) -> Response[Any]:
    """Ends the session, here and everywhere."""
    await read_form(request)
    gate = gate_of(request)
    await gate.sign_out(request)
    answer = Redirect(SIGN_IN_PATH, status_code=303)
    gate.drop_session(answer)
    return answer


def _page(request: Request[Any, Any, Any], form: Form, *, status: int = 200) -> Template:
    shown = 422 if form.problems and status == 200 else status
    return page(request, "sign_in.html", status=shown, form=form, problems=form.problems)
