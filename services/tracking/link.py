"""What tracking knows of the things visitors ask for, and what a link is at an instant. Pure."""

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from uuid import UUID


class State(Enum):
    """What a link is at an instant."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"
    PORTAL_INACTIVE = "portal_inactive"


@dataclass(frozen=True, slots=True)
class Link:
    """A link: where it leads, whom it is for, how long it works."""

    token_hash: bytes
    revision: int
    link_id: UUID
    portal_id: UUID
    page: str
    client_id: UUID | None
    message_id: UUID | None
    expire_ms: int | None
    revoked: bool


@dataclass(frozen=True, slots=True)
class Redirect:
    """A trackable link to any address."""

    token_hash: bytes
    revision: int
    agency_id: UUID
    redirect_id: UUID
    target_uri: str
    active: bool


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a hosted portal, as link rendered it."""

    slug: str
    title: str
    html: str


@dataclass(frozen=True, slots=True)
class Portal:
    """A portal without its pages' texts; `slugs` and `titles` go together, in order."""

    portal_id: UUID
    revision: int
    agency_id: UUID
    hosted: bool
    target_uri: str
    active: bool
    slugs: tuple[str, ...]
    titles: tuple[str, ...]

    def slug_of(self, link: Link, asked: str | None) -> str | None:
        """Returns the page a visit is for, None when there is no such page.

        A link whose page was taken away leads to the first one: a client is better served by the portal's start than
        by nothing.
        """
        if not self.hosted:
            return "" if asked is None else None
        if asked is not None:
            return asked if asked in self.slugs else None
        if link.page in self.slugs:
            return link.page
        return self.slugs[0] if self.slugs else None


def state_of(link: Link, portal: Portal, now_ms: int) -> State:
    """Returns the state of a link; where several hold, the first of revoked, expired, portal inactive counts."""
    if link.revoked:
        return State.REVOKED
    if link.expire_ms is not None and link.expire_ms <= now_ms:
        return State.EXPIRED
    return State.ACTIVE if portal.active else State.PORTAL_INACTIVE


@lru_cache(maxsize=4096)
def location_of(target_uri: str) -> bytes | None:
    """Returns a target as the value of a Location header, None when it cannot be one.

    Link checks targets when they are made; this is the last gate before a visitor's browser follows one.
    """
    if not target_uri.startswith(("https://", "http://")) or len(target_uri) > 4_000:
        return None
    if any(ord(character) <= 32 or ord(character) == 127 or character == "\\" for character in target_uri):
        return None
    # A browser percent-encodes what is not ASCII the same way; a header cannot carry it.
    return "".join(char if char < "\x80" else _percent(char) for char in target_uri).encode("ascii")


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode(errors="replace"))
