"""Portals and redirects: the places that links lead to."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.link.page import MOST_PAGES, Page
from services.link.wording import Fault, check_text

LONGEST_DISPLAY_NAME = 200
EXTERNAL = "external"
HOSTED = "hosted"


@dataclass(frozen=True)
class Portal:
    """A named place that links lead to."""

    portal_id: UUID
    agency_id: UUID
    display_name: str
    kind: str
    target_uri: str
    # None for a hosted portal, whose pages are shown by OpenNotice itself.
    target_host: str | None
    # Whether the agency's list of hosts allows the target now; kept by the consumer of the agency's settings.
    target_allowed: bool
    active: bool
    create_time: datetime
    update_time: datetime
    revision: int

    @property
    def open_to_visitors(self) -> bool:
        """Whether its links lead anywhere: switched on, and not to a host that the agency has ruled out."""
        return self.active and self.target_allowed


@dataclass(frozen=True)
class Redirect:
    """A trackable link to any allowed address."""

    redirect_id: UUID
    agency_id: UUID
    display_name: str
    target_uri: str
    target_host: str
    target_allowed: bool
    active: bool
    token_hash: bytes
    key_version: int
    create_time: datetime
    update_time: datetime
    revision: int

    @property
    def open_to_visitors(self) -> bool:
        """Whether it leads anywhere: switched on, and not to a host that the agency has ruled out."""
        return self.active and self.target_allowed


def check_display_name(value: str, field: str, fault: Fault) -> None:
    """Notes a fault unless the text can be what staff call a thing."""
    check_text(value, field, LONGEST_DISPLAY_NAME, fault)


def check_kind_fits(kind: str, target_uri: str, page_count: int, field: str, fault: Fault) -> None:
    """Notes a fault unless a portal has what its kind needs and nothing else."""
    if kind == HOSTED:
        if target_uri:
            fault(f"{field}.target_uri", "must be empty for a hosted portal")
        if not 1 <= page_count <= MOST_PAGES:
            fault(f"{field}.pages", f"must be 1 to {MOST_PAGES} pages for a hosted portal")
    elif page_count:
        fault(f"{field}.pages", "must be empty for an external portal")


def page_exists(pages: Sequence[Page], slug: str) -> bool:
    """Whether a link may name the page; no name means the first page, which every hosted portal has."""
    return not slug or any(page.slug == slug for page in pages)
