"""Rules about the audit log: what a line must have, and how much of it is kept."""

import re
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

TEXT_LIMIT = 200
ADDRESS_LIMIT = 45
DETAIL_LIMIT = 500
DETAILS_LIMIT = 50
_VERB = re.compile(r"[a-z-]{1,50}\.[a-z-]{1,50}")


@dataclass(frozen=True)
class Action:
    """One line of the audit log."""

    action_id: UUID
    agency_id: UUID | None
    act_time: datetime
    actor: str
    actor_display_name: str
    verb: str
    target: str
    outcome: str
    source_address: str
    details: dict[str, str]


def is_verb(text: str) -> bool:
    """Whether a text is a verb and its object in two words, "link.revoke"."""
    return _VERB.fullmatch(text) is not None


def storable(action: Action) -> Action:
    """Returns a line whose texts fit: a line is never lost because something in it is too long or unprintable."""
    details = list(action.details.items())[:DETAILS_LIMIT]
    return replace(
        action,
        actor=_cut(action.actor, TEXT_LIMIT),
        actor_display_name=_cut(action.actor_display_name, TEXT_LIMIT),
        target=_cut(action.target, TEXT_LIMIT),
        source_address=_cut(action.source_address, ADDRESS_LIMIT),
        details={_cut(key, TEXT_LIMIT): _cut(value, DETAIL_LIMIT) for key, value in details},
    )


def _cut(text: str, limit: int) -> str:
    # PostgreSQL can store every character but this one.
    shown = text.replace("\0", "")
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
