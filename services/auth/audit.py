"""Writes the lines of auth's own acts into the audit log: with the act, or after it when it is refused."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from services.auth import store
from services.auth.action import Action, storable
from services.chassis import clock
from services.chassis.errors import AlreadyExists, FailedPrecondition, NotFound, PermissionDenied
from services.chassis.identity import Caller
from services.chassis.names import new_id
from services.chassis.postgres import Connection, Database

_REFUSALS = (AlreadyExists, FailedPrecondition, NotFound, PermissionDenied)


async def write(
    conn: Connection,
    caller: Caller,
    agency_id: UUID | None,
    verb: str,
    target: str,
    *,
    outcome: str = "done",
    **details: str,
) -> None:
    """Adds the line of an act; when it cannot be written the act is rolled back with it."""
    line = Action(
        action_id=new_id(),
        agency_id=agency_id,
        act_time=clock.now(),
        actor=caller.subject,
        actor_display_name=caller.display_name,
        verb=verb,
        target=target,
        outcome=outcome,
        source_address=caller.source_address,
        details=details,
    )
    await store.add_action(conn, storable(line))


@asynccontextmanager
async def transaction(database: Database, caller: Caller, verb: str, target: str = "") -> AsyncIterator[Connection]:
    """Opens a transaction in the caller's agency; an act that is refused inside it leaves a line that says so.

    The line has a transaction of its own, because that of the act is rolled back.
    """
    try:
        async with database.transaction(caller.agency) as conn:
            yield conn
    except _REFUSALS as refusal:
        async with database.transaction(caller.agency) as conn:
            await write(conn, caller, caller.agency, verb, target, outcome="refused", reason=refusal.reason)
        raise
