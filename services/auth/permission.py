"""Rules about permissions: what each role and each API key may do."""

from collections.abc import Collection
from enum import StrEnum

from services.chassis.access import PERMISSIONS


class Role(StrEnum):
    """What a user is in the agency."""

    ADMIN = "admin"
    MANAGER = "manager"
    SUPERVISOR = "supervisor"
    CLERK = "clerk"
    AUDITOR = "auditor"


# Stands in a key's scopes for every permission there is, also those that later releases add.
ALL = "all"

_ADMIN = PERMISSIONS
_MANAGER = _ADMIN - {"agency:write", "api-keys:read", "api-keys:write", "audit:read", "users:write"}
_SUPERVISOR = _MANAGER - {"portals:write", "redirects:write", "users:read"}
_CLERK = frozenset(
    {
        "clients:read",
        "clients:write",
        "links:read",
        "links:reveal",
        "links:write",
        "messages:read",
        "messages:write",
        "opens:read",
        "portals:read",
    }
)
_AUDITOR = frozenset(permission for permission in PERMISSIONS if permission.endswith(":read"))

_OF_ROLE: dict[Role, frozenset[str]] = {
    Role.ADMIN: _ADMIN,
    Role.MANAGER: _MANAGER,
    Role.SUPERVISOR: _SUPERVISOR,
    Role.CLERK: _CLERK,
    Role.AUDITOR: _AUDITOR,
}


def permissions_of(role: Role) -> frozenset[str]:
    """Returns what a user with a role may do."""
    return _OF_ROLE[role]


def of_scopes(scopes: Collection[str]) -> frozenset[str]:
    """Returns what an API key may do; a scope that this release does not know gives nothing."""
    return PERMISSIONS if ALL in scopes else PERMISSIONS & frozenset(scopes)


def unknown_scopes(scopes: Collection[str]) -> list[str]:
    """Returns the scopes that name no permission."""
    return sorted(set(scopes) - PERMISSIONS - {ALL})


def holds(held: Collection[str], wanted: Collection[str]) -> bool:
    """Whether one who holds some permissions may give others: only what they have themselves."""
    return frozenset(wanted) <= frozenset(held)


def sees_own_clients_only(role: Role) -> bool:
    """Whether a role sees only the clients whose officer the user is."""
    return role is Role.CLERK
