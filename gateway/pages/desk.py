"""A request as a page sees it: who asks, the services on their behalf, their agency's name and time zone."""

import time
from dataclasses import dataclass
from typing import Any

from litestar import Request, Response
from litestar.di import NamedDependency
from litestar.response import Redirect, Template
from opennotice.auth.v1 import auth_pb2

from gateway import notes, rendering
from gateway.access import Visitor, visitor_of
from gateway.clients import Calls
from gateway.pages.forms import Form
from gateway.pages.times import Zone
from services.chassis.clock import now
from services.chassis.errors import DeadlineExceeded, Unavailable

# How long a changed time zone or agency name may be shown as it was.
AGENCY_SECONDS = 5.0
# A service that does not answer; a page that can show the rest shows the rest.
AWAY = (Unavailable, DeadlineExceeded)


@dataclass(frozen=True)
class Agency:
    """What every page says about the agency."""

    display_name: str
    zone: str


@dataclass(frozen=True)
class Desk:
    """What a page handler is given as `desk`."""

    request: Request[Any, Any, Any]
    visitor: Visitor
    calls: Calls
    zone: Zone

    def may(self, permission: str) -> bool:
        """Tells whether the caller holds a permission; for what a page shows, never for what is done."""
        return permission in self.visitor.caller.permissions

    @property
    def own_only(self) -> bool:
        """Whether the caller sees only clients whose officer they are."""
        return self.visitor.caller.own_clients_only

    def page(self, template: str, *, status: int = 200, form: Form | None = None, **view: Any) -> Template:
        """Renders a page of this agency, with what is wrong in its form."""
        view |= {"form": form, "problems": form.problems if form else []}
        return page(self.request, template, status=422 if form and form.problems else status, **view)

    def rows(self, template: str, **view: Any) -> str:
        """Renders a fragment that goes into a stream."""
        engine = self.request.app.template_engine
        assert engine is not None
        return str(engine.get_template(template).render(view))

    def done(self, href: str, note: str) -> Response[Any]:
        """Answers a change: see the page at `href`, which says what was done."""
        answer = Redirect(href, status_code=303)
        notes.leave(self.request, answer, note)
        return answer


async def provide_desk(
    request: Request[Any, Any, Any], visitor: NamedDependency[Visitor], calls: NamedDependency[Calls]
) -> Desk:
    """Gives a handler its `desk`."""
    agency = await _agency(request, visitor, calls)
    return Desk(request, visitor, calls, Zone(agency.time_zone))


def page(request: Request[Any, Any, Any], template: str, *, status: int = 200, **view: Any) -> Template:
    """Renders any page; asks no service, as the reason for an error page may be that one is away."""
    visitor = visitor_of(request)
    _, known = _kept(request).get(str(visitor.caller.agency_id) if visitor else "", (0.0, None))
    agency = Agency(known.display_name, Zone(known.time_zone).described(now())) if known else None
    return rendering.page(request, template, status=status, **({"agency": agency, "problems": []} | view))


async def _agency(request: Request[Any, Any, Any], visitor: Visitor, calls: Calls) -> auth_pb2.Agency:
    """Returns the caller's agency, asked for at most every few seconds: each page shows its name and time zone."""
    kept, key = _kept(request), str(visitor.caller.agency_id)
    asked_at, agency = kept.get(key, (0.0, None))
    if agency is None or time.monotonic() - asked_at > AGENCY_SECONDS:
        agency = await calls.ask(calls.auth.GetAgency, auth_pb2.GetAgencyRequest())
        kept[key] = (time.monotonic(), agency)
    return agency


def _kept(request: Request[Any, Any, Any]) -> dict[str, tuple[float, auth_pb2.Agency | None]]:
    """Returns the agencies asked for lately; one entry for each agency of this install."""
    state = request.app.state
    if "agencies" not in state:
        state.agencies = {}
    kept: dict[str, tuple[float, auth_pb2.Agency | None]] = state.agencies
    return kept
