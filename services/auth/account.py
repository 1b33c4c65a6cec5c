"""Rules about accounts: when failed sign-ins lock one, and which changes of a user are refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from services.auth.permission import Role

# Five in fifteen minutes, and only an administrator unlocks: what CJIS asks for (AC-7).
TRIES = 5
WINDOW = timedelta(minutes=15)


@dataclass(frozen=True)
class User:
    """A person who may sign in."""

    user_id: UUID
    agency_id: UUID
    email: str
    display_name: str
    role: Role
    disabled: bool
    password_hash: str
    lock_time: datetime | None
    sign_in_time: datetime | None
    create_time: datetime
    revision: int

    @property
    def name(self) -> str:
        """The resource name."""
        return f"users/{self.user_id}"


@dataclass(frozen=True)
class Try:
    """One password given for an account: under way, or found wrong."""

    try_time: datetime
    failed: bool


def may_try(tries: Sequence[Try], now: datetime) -> bool:
    """Whether one more password may be evaluated.

    Those under way count like failures: a hundred sent at once must not all be evaluated before the first is counted.
    """
    return sum(now - earlier.try_time < WINDOW for earlier in tries) < TRIES


def locks(tries: Sequence[Try], now: datetime) -> bool:
    """Whether the failures so far lock the account."""
    return sum(earlier.failed and now - earlier.try_time < WINDOW for earlier in tries) >= TRIES


def change_fault(before: User, after: User, *, own: bool, other_admins: int) -> str | None:
    """Returns the reason to refuse a change of role or standing, or None.

    Nobody changes their own, so that no slip of the hand shuts out the one who made it; and an agency keeps an active
    administrator, because nobody else could appoint the next one.
    """
    changed = (before.role, before.disabled) != (after.role, after.disabled)
    if changed and own:
        return "OWN_ACCOUNT"
    was_admin = before.role is Role.ADMIN and not before.disabled
    stays_admin = after.role is Role.ADMIN and not after.disabled
    if was_admin and not stays_admin and not other_admins:
        return "LAST_ADMIN"
    return None
