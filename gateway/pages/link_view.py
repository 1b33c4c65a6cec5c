"""Links as pages show them, and the choices of where a new one leads."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from opennotice.link.v1 import link_pb2

from gateway import words
from gateway.pages import labels
from gateway.pages.labels import Label
from gateway.pages.open_search import Option
from gateway.pages.open_view import opens_href
from gateway.pages.times import Moment, Zone

# What stands between a portal and a page in one choice; neither may contain it.
_JOIN = "#"


@dataclass(frozen=True)
class LinkItem:
    """One link in a list."""

    id: str
    href: str
    client_href: str
    portal: str
    page: str
    state: Label
    created: Moment
    expires: Moment | None
    expired: bool
    revoked: Moment | None
    opens_href: str


def item_of(link: link_pb2.Link, portals: Mapping[str, str], zone: Zone) -> LinkItem:
    """Returns a link for a list; `portals` leads from names to what staff call them."""
    state = words.LINK_STATE.word(link.state) or ""
    return LinkItem(
        id=words.id_of(link.name) or "",
        href=f"/{link.name}",
        client_href=f"/{link.client}" if link.client else "",
        portal=portals.get(link.portal, "Portal"),
        page=link.page,
        state=labels.LINK_STATE_LABELS.get(state, labels.UNKNOWN),
        created=zone.at(link, "create_time"),
        expires=zone.maybe(link, "expire_time"),
        expired=state == "expired",
        revoked=zone.maybe(link, "revoke_time"),
        opens_href=opens_href(link=link.name),
    )


def targets_of(portals: Iterable[link_pb2.Portal]) -> list[Option]:
    """Returns where a new link may lead: each active portal, and each page of a hosted one."""
    options = []
    for portal in portals:
        if not portal.active:
            continue
        options.append(Option(portal.name, portal.display_name))
        options += [
            Option(f"{portal.name}{_JOIN}{page.slug}", f"{portal.display_name} – {page.title}")
            for page in portal.pages[1:]
        ]
    return options


def split_target(target: str) -> tuple[str, str]:
    """Returns the portal and the page of a choice."""
    portal, _, page = target.partition(_JOIN)
    return portal, page
