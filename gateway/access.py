"""Who is asking, and may they: session cookie or API key to signed identity, one guard for every route.

Every handler declares `permission="opens:read"` (or a word of this module) or `public=True`. A route that declares
nothing keeps the gateway from starting, and would be refused if it did start.
"""

import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from litestar import Litestar, Request, Response
from litestar.connection import ASGIConnection
from litestar.datastructures import Cookie
from litestar.di import NamedDependency
from litestar.handlers import BaseRouteHandler
from opennotice.audit.v1 import audit_pb2
from opennotice.auth.v1 import auth_pb2
from opennotice.identity.v1 import identity_pb2

from gateway import csrf
from gateway.clients import PAGE_SECONDS, SIGN_IN_SECONDS, Calls, Connections
from gateway.settings import GatewaySettings
from services.chassis import log
from services.chassis.access import PERMISSIONS, SIGNED_IN
from services.chassis.address import client_address
from services.chassis.clock import now, to_proto
from services.chassis.errors import PermissionDenied, ServiceError, Unauthenticated
from services.chassis.identity import Caller, Checker, Exchanger
from services.chassis.names import new_id

API_PREFIX = "/api/"
SESSION_PREFIX = "ons_"
# What auth makes is shorter; anything longer is not worth a call (and must not become one).
LONGEST_CREDENTIAL = 128
_VISITOR = "visitor"

_log = log.get(__name__)


class RouteWithoutRule(Exception):
    """A handler says nothing, or nonsense, about who may call it; the gateway must not start."""


@dataclass(frozen=True)
class Visitor:
    """Who a request comes from, proved by a session or an API key."""

    caller: Caller
    identity_token: str
    credential: str
    kind: Literal["session", "api_key"]

    @property
    def seconds_left(self) -> float:
        """How long the services accept the identity."""
        return (self.caller.expire_time - datetime.now(UTC)).total_seconds()


class Gate:
    """Decides for each request who is asking and whether they may."""

    def __init__(self, settings: GatewaySettings, connections: Connections, checker: Checker) -> None:
        self._settings = settings
        self._connections = connections
        self._checker = checker
        self._exchanger = Exchanger(partial(self._exchange, passive=False), checker)
        self._passive = Exchanger(partial(self._exchange, passive=True), checker)

    @property
    def cookie_name(self) -> str:
        """The session cookie. Browsers keep a __Host- cookie only over https, which loopback need not have."""
        return "__Host-opennotice" if self._settings.secure else "opennotice"

    def address_of(self, request: ASGIConnection[Any, Any, Any, Any]) -> str:
        """Returns the address that counts for a request."""
        peer = request.client.host if request.client else ""
        return client_address(peer, request.headers.getall("x-forwarded-for", []), self._settings.trusted_proxies)

    async def identify(self, credential: str, kind: Literal["session", "api_key"], source_address: str) -> Visitor:
        """Returns who holds a credential; raises Unauthenticated when it is not good (any more)."""
        if not 0 < len(credential) <= LONGEST_CREDENTIAL or not credential.isascii():
            raise Unauthenticated("CREDENTIAL_UNKNOWN", "the session or key is not known")
        token = await self._exchanger.token_for(credential, source_address)
        return Visitor(self._checker.check(token), token, credential, kind)

    async def still_there(self, visitor: Visitor, source_address: str) -> Visitor:
        """Returns a visitor with a fresh identity; raises Unauthenticated when the session or key has ended.

        Nobody did anything: a page that is merely open must not keep a session from ending for idleness.
        """
        token = await self._passive.token_for(visitor.credential, source_address)
        return Visitor(self._checker.check(token), token, visitor.credential, visitor.kind)

    async def admit(self, request: Request[Any, Any, Any], handler: BaseRouteHandler) -> None:
        """Lets a request pass to its handler, or raises; leaves who is asking in the state of the request."""
        is_public = handler.opt.get("public") is True
        visitor = await self._visitor_of(request, required=not is_public)
        request.state[_VISITOR] = visitor
        if not is_public:
            assert visitor is not None
            _check_permission(handler.opt.get("permission"), visitor.caller)
        if request.method not in csrf.SAFE_METHODS:
            await self._check_forgery(request, visitor)

    async def _visitor_of(self, request: Request[Any, Any, Any], *, required: bool) -> Visitor | None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        source_address = self.address_of(request)
        if request.url.path.startswith(API_PREFIX) and scheme:
            # A session is a browser's; sent as a key it would go round the check for forged requests.
            if scheme.lower() != "bearer" or key.strip().startswith(SESSION_PREFIX):
                raise Unauthenticated("CREDENTIAL_UNKNOWN", "send authorization: Bearer <api key>")
            return await self.identify(key.strip(), "api_key", source_address)
        session = request.cookies.get(self.cookie_name, "")
        if session.startswith(SESSION_PREFIX):
            try:
                return await self.identify(session, "session", source_address)
            except ServiceError:
                # A public page (sign-in) must show with an old cookie, and with auth away.
                if required:
                    raise
        if required:
            raise Unauthenticated("CREDENTIAL_MISSING", "sign in, or send authorization: Bearer <api key>")
        return None

    async def _check_forgery(self, request: Request[Any, Any, Any], visitor: Visitor | None) -> None:
        if visitor is not None and visitor.kind == "api_key":
            return
        why = csrf.foreign_origin(request)
        if why is None and visitor is not None:
            why = await csrf.token_fault(request, self._settings.cookie_key, visitor.credential)
        if why is not None:
            await self._record_forgery(request, visitor, why)
            raise PermissionDenied(
                "CSRF_REFUSED", "this form is out of date or was not sent by this site; load the page again"
            )

    async def _record_forgery(self, request: Request[Any, Any, Any], visitor: Visitor | None, why: str) -> None:
        """Tells the audit log; the request is refused either way, also while auth is away."""
        if visitor is None:
            return
        action = audit_pb2.Action(
            action_id=str(new_id()),
            act_time=to_proto(now()),
            agency_id=str(visitor.caller.agency_id or ""),
            actor=visitor.caller.subject,
            actor_display_name=visitor.caller.display_name,
            verb="request.forge",
            outcome=audit_pb2.OUTCOME_REFUSED,
            source_address=self.address_of(request),
            details={"method": request.method, "path": request.url.path[:200], "reason": why},
        )
        calls = self._connections.as_gateway()
        try:
            await calls.ask(calls.auth.RecordAction, auth_pb2.RecordActionRequest(action=action))
        except ServiceError as error:
            _log.warning("a refused request could not be written to the audit log", reason=error.reason)

    def signature(self, visitor: Visitor | None, text: str) -> str:
        """Signs what a browser keeps for us; it counts only in the session it was made in."""
        session = visitor.credential if visitor else ""
        return hmac.new(self._settings.cookie_key.encode(), f"{session}|{text}".encode(), hashlib.sha256).hexdigest()

    def csrf_token(self, visitor: Visitor | None) -> str:
        """Returns the token for the forms of a page; empty where nobody is signed in."""
        if visitor is None or visitor.kind != "session":
            return ""
        return csrf.token_for(self._settings.cookie_key, visitor.credential)

    async def sign_in(self, request: Request[Any, Any, Any], email: str, password: str) -> auth_pb2.Session:
        """Opens a session; raises Unauthenticated SIGN_IN_REFUSED or PermissionDenied ACCOUNT_LOCKED."""
        calls = self._connections.as_gateway()
        asked = auth_pb2.SignInRequest(email=email, password=password, source_address=self.address_of(request))
        return await calls.ask(calls.auth.SignIn, asked, seconds=SIGN_IN_SECONDS)

    async def sign_out(self, request: Request[Any, Any, Any]) -> None:
        """Ends the session of a request, here at once and everywhere within seconds."""
        session = request.cookies.get(self.cookie_name, "")
        if session.startswith(SESSION_PREFIX) and len(session) <= LONGEST_CREDENTIAL:
            calls = self._connections.as_gateway()
            try:
                await calls.ask(calls.auth.SignOut, auth_pb2.SignOutRequest(token=session))
            finally:
                self._exchanger.forget(session)
                self._passive.forget(session)

    def cookie(self, name: str, value: str, seconds: int | None = None) -> Cookie:
        """Builds a cookie that scripts cannot read and other sites cannot send along with a post."""
        return Cookie(
            key=name,
            value=value,
            max_age=seconds,
            path="/",
            httponly=True,
            secure=self._settings.secure,
            samesite="lax",
        )

    def keep_session(self, response: Response[Any], session: auth_pb2.Session) -> None:
        """Gives the browser its session. The cookie ends with the browser; auth ends the session earlier."""
        response.set_cookie(self.cookie(self.cookie_name, session.token))

    def drop_session(self, response: Response[Any]) -> None:
        """Takes the session from the browser."""
        response.set_cookie(self.cookie(self.cookie_name, "", 0))

    async def _exchange(self, credential: str, source_address: str, *, passive: bool) -> str:
        calls = self._connections.as_gateway()
        asked = identity_pb2.IssueIdentityRequest(credential=credential, source_address=source_address, passive=passive)
        return (await calls.ask(self._connections.identity.IssueIdentity, asked, seconds=PAGE_SECONDS)).token


def _check_permission(permission: object, caller: Caller) -> None:
    if permission == SIGNED_IN:
        return
    if not isinstance(permission, str) or permission not in caller.permissions:
        raise PermissionDenied("PERMISSION_MISSING", f"this needs the permission {permission}")


async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """The one guard of the application."""
    assert isinstance(connection, Request)
    await gate_of(connection).admit(connection, handler)


def gate_of(request: ASGIConnection[Any, Any, Any, Any]) -> Gate:
    """Returns the gate that the application was made with."""
    gate: Gate = request.app.state.gate
    return gate


def visitor_of(request: ASGIConnection[Any, Any, Any, Any]) -> Visitor | None:
    """Returns who sent a request; None where nobody is signed in, and before the guard ran."""
    visitor: Visitor | None = request.scope.get("state", {}).get(_VISITOR)
    return visitor


async def provide_visitor(request: Request[Any, Any, Any]) -> Visitor:
    """Gives a handler the `visitor`; a handler that is public has to ask `visitor_of` instead."""
    visitor = visitor_of(request)
    if visitor is None:
        raise Unauthenticated("CREDENTIAL_MISSING", "sign in first")
    return visitor


async def provide_caller(visitor: NamedDependency[Visitor]) -> Caller:
    """Gives a handler the `caller`."""
    return visitor.caller


async def provide_calls(request: Request[Any, Any, Any], visitor: NamedDependency[Visitor]) -> Calls:
    """Gives a handler the services on behalf of its caller, as `calls`."""
    connections: Connections = request.app.state.connections
    return connections.calls(visitor.identity_token)


def check_every_route(app: Litestar) -> None:
    """Raises RouteWithoutRule, naming them, when handlers do not say who may call them."""
    wrong = sorted(
        {
            f"{route.path} ({handler.fn.__name__})"
            for route in app.routes
            for handler in getattr(route, "route_handlers", [getattr(route, "route_handler", None)])
            if handler is not None and not _has_rule(handler) and handler.fn.__name__ != "options_handler"
        }
    )
    if wrong:
        raise RouteWithoutRule(f"no permission= or public=True on: {', '.join(wrong)}")


def _has_rule(handler: BaseRouteHandler) -> bool:
    permission = handler.opt.get("permission")
    if handler.opt.get("public") is True:
        return permission is None
    return permission == SIGNED_IN or permission in PERMISSIONS
