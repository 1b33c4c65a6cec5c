"""Agencies leave as events; what people did at link arrives in the audit log."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from opennotice.audit.v1 import audit_pb2
from opennotice.auth.v1 import auth_pb2, events_pb2
from opennotice.link.v1 import events_pb2 as link_events_pb2

from services.chassis import names
from services.chassis.bus import Bus
from services.chassis.consumer import Consumer, Received
from services.chassis.dead_letters import DeadLetters
from services.chassis.postgres import Database
from tests import cast
from tests.auth.conftest import Auth
from tests.cast import ALICE, BOB, DANA


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    """Gives a connection of another process to NATS."""
    made = Bus(nats_url, "test", ["AUTH", "LINK"])
    running = asyncio.ensure_future(made.run())
    await made.connected()
    yield made
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    await made.close()


async def until(true: Callable[[], bool]) -> None:
    """Waits until something has become true."""
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.05)


def taken(**more: Any) -> link_events_pb2.ActionTaken:
    fields: dict[str, Any] = {
        "action_id": str(names.new_id()),
        "act_time": Timestamp(seconds=1_790_000_000),
        "agency_id": str(cast.FIRST_COURT),
        "actor": ALICE.name,
        "verb": "link.revoke",
        "target": f"links/{names.new_id()}",
        "outcome": audit_pb2.OUTCOME_DONE,
        **more,
    }
    action = audit_pb2.Action(**fields)
    return link_events_pb2.ActionTaken(event_id=str(names.new_id()), action=action)


async def test_a_created_and_a_changed_agency_are_published_in_full(auth: Auth, bus: Bus, ingest: Database) -> None:
    received: list[events_pb2.AgencyChanged] = []

    async def handle(events: list[Received[events_pb2.AgencyChanged]]) -> None:
        received.extend(event.message for event in events)

    consumer = Consumer(
        bus,
        stream="AUTH",
        durable="test-agency-changed-v1",
        message=events_pb2.AgencyChanged,
        handle=handle,
        dead_letters=DeadLetters(ingest, "auth"),
    )
    reading = asyncio.ensure_future(consumer.run())
    wanted = auth_pb2.Agency(display_name="New Court")
    request = auth_pb2.CreateAgencyRequest(agency=wanted, admin_email="root@new.example")
    created = await auth.stub.CreateAgency(request, metadata=auth.by("host"))
    update = auth_pb2.UpdateAgencyRequest(agency=auth_pb2.Agency(staff_networks=["10.1.0.0/16"]))
    changed = await auth.stub.UpdateAgency(update, metadata=auth.by(DANA))
    await until(lambda: len(received) >= 2)
    assert [event.agency for event in received] == [created.agency, changed]
    reading.cancel()


async def test_what_link_says_is_kept_once_in_the_agencys_log(auth: Auth, bus: Bus) -> None:
    first, second = taken(), taken(agency_id=str(cast.OTHER_COURT))
    for event in (first, first, second):
        # Each time as a new message, so that not NATS but the log itself recognizes the repetition.
        await bus.publish(event, str(names.new_id()))
    await until(lambda: len(auth.rows("select 1 from auth.actions")) == 2)
    listed = await auth.stub.ListActions(auth_pb2.ListActionsRequest(verb_prefix="link."), metadata=auth.by(BOB))
    assert list(listed.actions) == [first.action]


async def test_a_wrong_line_does_not_stop_the_others(auth: Auth, bus: Bus) -> None:
    wrong, long, right = taken(verb="revoke"), taken(actor_display_name="x" * 5000), taken(actor="users/\0")
    for event in (wrong, long, right):
        await bus.publish(event, event.event_id)
    await until(lambda: len(auth.rows("select 1 from auth.actions")) == 2)
    kept = {str(row["action_id"]) for row in auth.rows("select action_id from auth.actions")}
    assert kept == {long.action.action_id, right.action.action_id}
