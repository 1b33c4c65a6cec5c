"""The people, agencies and keys that tests talk about.

Two agencies that must never see each other. In the first one work Dana (Admin), Morgan (Manager), Sam (Supervisor),
Alice (Clerk) and Bob (Auditor); in the other one Charlie (Admin there), who must see nothing of the first.
"""

from dataclasses import dataclass
from uuid import UUID

FIRST_COURT = UUID("01890000-0000-7000-8000-00000000000a")
OTHER_COURT = UUID("01890000-0000-7000-8000-00000000000b")

_READS = frozenset(
    {"clients:read", "links:read", "messages:read", "opens:read", "portals:read", "redirects:read"}
)  # fmt: skip
_WRITES = frozenset({"clients:write", "delivery:write", "links:reveal", "links:write", "messages:write"})
_SUPERVISOR = _READS | _WRITES | {"opens:export"}
_MANAGER = _SUPERVISOR | {"portals:write", "redirects:write", "users:read"}
_ADMIN = _MANAGER | {"agency:write", "api-keys:read", "api-keys:write", "audit:read", "users:write"}
_CLERK = frozenset(
    {"clients:read", "clients:write", "links:read", "links:reveal", "links:write", "messages:read", "messages:write"}
) | {"opens:read", "portals:read"}
_AUDITOR = _READS | {"api-keys:read", "audit:read", "users:read"}


@dataclass(frozen=True)
class Person:
    """Somebody who calls."""

    name: str
    display_name: str
    agency_id: UUID
    role: str
    permissions: frozenset[str]

    @property
    def own_clients_only(self) -> bool:
        """Clerks see only the clients whose officer they are."""
        return self.role == "clerk"


def _person(number: int, display_name: str, agency: UUID, role: str, permissions: frozenset[str]) -> Person:
    return Person(f"users/01890000-0000-7000-8000-0000000001{number:02d}", display_name, agency, role, permissions)


DANA = _person(1, "Dana Reyes", FIRST_COURT, "admin", _ADMIN)
MORGAN = _person(2, "Morgan Lee", FIRST_COURT, "manager", _MANAGER)
SAM = _person(3, "Sam Okafor", FIRST_COURT, "supervisor", _SUPERVISOR)
ALICE = _person(4, "Alice Novak", FIRST_COURT, "clerk", _CLERK)
BOB = _person(5, "Bob Lind", FIRST_COURT, "auditor", _AUDITOR)
CHARLIE = _person(6, "Charlie Wong", OTHER_COURT, "admin", _ADMIN)
EVERYBODY = (DANA, MORGAN, SAM, ALICE, BOB, CHARLIE)
