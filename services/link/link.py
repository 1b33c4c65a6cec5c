"""Links: what they may lead to, and what they are at an instant."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from uuid import UUID

from services.link.once import digest_of

MOST_IN_ONE_CALL = 10_000
GROUP = 500


class LinkState(Enum):
    """What a link is at an instant."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"
    PORTAL_INACTIVE = "portal_inactive"


@dataclass(frozen=True)
class Link:
    """A secret token that leads to a portal page."""

    link_id: UUID
    agency_id: UUID
    portal_id: UUID
    page: str
    client_id: UUID | None
    message_id: UUID | None
    expire_time: datetime | None
    revoke_time: datetime | None
    token_hash: bytes
    key_version: int
    create_time: datetime
    revision: int
    portal_open: bool


@dataclass(frozen=True)
class LinkDraft:
    """A link as it was asked for; its shape is right, what it names may not exist."""

    portal_id: UUID
    page: str
    client_id: UUID | None
    message_id: UUID | None
    expire_time: datetime | None
    request_id: UUID | None

    def digest(self) -> bytes:
        """Returns what tells this content from any other under the same request id."""
        return digest_of("link", self.portal_id, self.page, self.client_id, self.message_id, self.expire_time)


@dataclass(frozen=True)
class PortalPages:
    """What a link needs to know of its portal; an external one has no pages."""

    portal_id: UUID
    slugs: frozenset[str]


@dataclass(frozen=True)
class Surroundings:
    """Everything that exists, and that the caller may see, among what some drafts name."""

    portals: dict[UUID, PortalPages]
    clients: frozenset[UUID]
    # The client of each message.
    messages: dict[UUID, UUID]
    own_clients_only: bool


@dataclass(frozen=True)
class Refusal:
    """Why a link is not made."""

    reason: str
    message: str
    field: str


def state_of(link: Link, now: datetime) -> LinkState:
    """Returns what a link is: of several, the first of revoked, expired, portal inactive counts."""
    if link.revoke_time is not None:
        return LinkState.REVOKED
    if link.expire_time is not None and link.expire_time <= now:
        return LinkState.EXPIRED
    return LinkState.ACTIVE if link.portal_open else LinkState.PORTAL_INACTIVE


def refusal_of(draft: LinkDraft, around: Surroundings, now: datetime) -> Refusal | None:
    """Returns why a link cannot be made, or None."""
    portal = around.portals.get(draft.portal_id)
    if portal is None:
        return Refusal("PORTAL_UNKNOWN", "there is no such portal", "link.portal")
    if draft.page and draft.page not in portal.slugs:
        return Refusal("PAGE_UNKNOWN", "the portal has no such page", "link.page")
    if around.own_clients_only and draft.client_id is None:
        return Refusal("SHARED_LINK_REFUSED", "you may make links only for clients of your own", "link.client")
    if draft.client_id is not None and draft.client_id not in around.clients:
        return Refusal("CLIENT_UNKNOWN", "there is no such client", "link.client")
    if draft.message_id is not None:
        if draft.message_id not in around.messages:
            return Refusal("MESSAGE_UNKNOWN", "there is no such message", "link.message")
        if around.messages[draft.message_id] != draft.client_id:
            return Refusal("MESSAGE_OF_OTHER_CLIENT", "the message is not to the client of the link", "link.message")
    if draft.expire_time is not None and draft.expire_time <= now:
        return Refusal("EXPIRE_TIME_PAST", "the expiry must be in the future", "link.expire_time")
    return None
