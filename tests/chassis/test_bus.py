"""Events: committed with their change, moved by JetStream, taken in once, never lost on the way."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from opennotice.auth.v1 import auth_pb2, events_pb2
from opennotice.link.v1 import events_pb2 as link_events_pb2
from opennotice.tracking.v1 import events_pb2 as tracking_events_pb2
from prometheus_client import REGISTRY

from services.chassis import consumer as consumer_module
from services.chassis import outbox
from services.chassis.bus import STREAMS, Bus, subject_for
from services.chassis.consumer import Consumer, Received
from services.chassis.dead_letters import DeadLetters
from services.chassis.errors import Unavailable
from services.chassis.names import new_id
from services.chassis.outbox import Relay
from services.chassis.postgres import Database as Pool


def agency_changed(name: str) -> events_pb2.AgencyChanged:
    return events_pb2.AgencyChanged(event_id=str(new_id()), agency=auth_pb2.Agency(display_name=name))


async def kept(relay: Relay) -> None:
    """Runs a relay as the frame does: it ends when a stream goes under its hands, and is started again."""
    while True:
        try:
            await relay.run()
        except NatsError:
            await asyncio.sleep(0.05)


async def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    """Waits until a condition holds."""
    async with asyncio.timeout(seconds):
        while not (await found if asyncio.iscoroutine(found := condition()) else found):
            await asyncio.sleep(0.02)


def consumer(bus: Bus, pool: Pool, handle: Any) -> Consumer[events_pb2.AgencyChanged]:
    return Consumer(
        bus,
        stream="AUTH",
        durable="test-agency-changed-v1",
        message=events_pb2.AgencyChanged,
        handle=handle,
        dead_letters=DeadLetters(pool, "frame"),
    )


def test_the_subject_is_derived_from_the_message() -> None:
    assert subject_for(tracking_events_pb2.OpensRecorded.DESCRIPTOR) == "opennotice.tracking.v1.opens.recorded"
    assert subject_for(link_events_pb2.DirectoryChanged.DESCRIPTOR) == "opennotice.link.v1.directory.changed"


async def test_a_committed_event_arrives(bus: Bus, pool: Pool) -> None:
    seen: list[str] = []

    async def handle(batch: list[Received[events_pb2.AgencyChanged]]) -> None:
        seen.extend(received.message.agency.display_name for received in batch)

    relay = Relay(pool, bus, "frame")
    tasks = [asyncio.create_task(kept(relay)), asyncio.create_task(consumer(bus, pool, handle).run())]
    async with pool.transaction() as conn:
        await outbox.add(conn, "frame", agency_changed("kept"), new_id())
    with pytest.raises(RuntimeError):
        async with pool.transaction() as conn:
            await outbox.add(conn, "frame", agency_changed("rolled back"), new_id())
            raise RuntimeError
    relay.wake()
    await until(lambda: seen)
    await asyncio.sleep(0.3)
    assert seen == ["kept"]
    async with pool.transaction() as conn:
        assert await (await conn.execute("select count(*) from frame.outbox")).fetchone() == (0,)
    for task in tasks:
        task.cancel()


async def test_the_same_event_id_is_stored_once_by_the_stream(bus: Bus) -> None:
    message = agency_changed("once")
    for _ in range(5):
        await bus.publish(message, message.event_id)
    assert (await bus.js.stream_info("AUTH")).state.messages == 1


async def test_a_bad_event_does_not_stop_the_others_and_is_kept(
    bus: Bus, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.chassis.consumer._RETRY_SECONDS", (0.05, 0.05, 0.05, 0.05))
    seen: list[str] = []

    async def handle(batch: list[Received[events_pb2.AgencyChanged]]) -> None:
        if any(received.message.agency.display_name == "poison" for received in batch):
            raise ValueError("cannot take this one")
        seen.extend(received.message.agency.display_name for received in batch)

    for name in ("a", "poison", "b"):
        await bus.publish(agency_changed(name), str(new_id()))
    await bus.client.publish("opennotice.auth.v1.agency.changed", b"\xff garbage")
    letters = DeadLetters(pool, "frame")
    task = asyncio.create_task(consumer(bus, pool, handle).run())

    async def two_are_kept() -> bool:
        return await letters.count() == 2

    await until(two_are_kept, 20)
    assert sorted(set(seen)) == ["a", "b"]
    async with pool.transaction() as conn:
        rows = await (
            await conn.execute("select payload, error, attempts from frame.dead_letters order by attempts")
        ).fetchall()
    assert rows[0][0] == b"\xff garbage"
    assert "cannot take this one" in rows[1][1]
    assert rows[1][2] == 5
    info = await bus.js.consumer_info("AUTH", "test-agency-changed-v1")
    await until(lambda: _nothing_waits(bus))
    assert info.config.max_deliver == -1
    task.cancel()


def test_an_event_that_is_refused_is_set_aside_within_a_minute() -> None:
    assert len(consumer_module._RETRY_SECONDS) == consumer_module._ATTEMPTS_BEFORE_DEAD_LETTER - 1
    # Each try also waits for its turn.
    assert sum(consumer_module._RETRY_SECONDS) <= 50


async def _nothing_waits(bus: Bus) -> bool:
    info = await bus.js.consumer_info("AUTH", "test-agency-changed-v1")
    return info.num_ack_pending == 0 and info.num_pending == 0


@pytest.mark.parametrize(
    "fault",
    [
        psycopg.OperationalError("the server closed the connection"),
        psycopg.errors.DiskFull("could not extend file"),
        psycopg.errors.TooManyConnections("sorry, too many clients already"),
    ],
    ids=lambda fault: type(fault).__name__,
)
async def test_absence_of_the_store_never_makes_a_dead_letter(
    bus: Bus, pool: Pool, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    monkeypatch.setattr("services.chassis.consumer._RETRY_SECONDS", (0.02,))
    tries = 0
    done = False

    async def handle(batch: list[Received[events_pb2.AgencyChanged]]) -> None:
        nonlocal tries, done
        tries += 1
        if tries < 9:
            raise fault
        done = True

    await bus.publish(agency_changed("x"), str(new_id()))
    task = asyncio.create_task(consumer(bus, pool, handle).run())
    await until(lambda: done, 20)
    assert await DeadLetters(pool, "frame").count() == 0
    task.cancel()


async def test_what_takes_too_long_together_is_taken_in_one_by_one(bus: Bus, pool: Pool) -> None:
    """Given back it would come again together, for ever."""
    seen: list[str] = []
    sizes: list[int] = []

    async def handle(batch: list[Received[events_pb2.AgencyChanged]]) -> None:
        sizes.append(len(batch))
        async with pool.transaction() as conn:
            await conn.execute("set local statement_timeout = '500ms'")
            await conn.execute("select pg_sleep(%s)", (0.3 * len(batch),))
        seen.extend(received.message.agency.display_name for received in batch)

    for name in ("a", "b", "c"):
        await bus.publish(agency_changed(name), str(new_id()))
    task = asyncio.create_task(consumer(bus, pool, handle).run())
    await until(lambda: seen == ["a", "b", "c"])
    await until(lambda: _nothing_waits(bus))
    assert sizes == [3, 1, 1, 1]
    task.cancel()


async def test_a_deleted_stream_is_made_again_and_filled_from_the_outbox(bus: Bus, pool: Pool) -> None:
    relay = Relay(pool, bus, "frame", keep=timedelta(days=1))
    task = asyncio.create_task(kept(relay))
    async with pool.transaction() as conn:
        await outbox.add(conn, "frame", agency_changed("a"), new_id())
    relay.wake()

    async def stored() -> bool:
        return bool((await bus.js.stream_info("AUTH")).state.messages == 1)

    await until(stored)
    await bus.js.delete_stream("AUTH")
    await bus._declare(STREAMS["AUTH"])
    await until(stored)
    task.cancel()


def not_taken() -> float:
    """Returns how often NATS did not take an event."""
    return REGISTRY.get_sample_value("opennotice_events_not_taken_total") or 0.0


async def test_a_full_stream_takes_nothing_new_which_is_counted_and_loses_nothing(bus: Bus, pool: Pool) -> None:
    await bus.publish(agency_changed("there"), "there")
    room = STREAMS["AUTH"].config()
    room.max_bytes = 400
    await bus.js.update_stream(room)
    before = not_taken()
    task = asyncio.create_task(kept(Relay(pool, bus, "frame")))
    for number in range(5):
        async with pool.transaction() as conn:
            await outbox.add(conn, "frame", agency_changed(f"{number}" * 100), new_id())
    await until(lambda: not_taken() >= before + 5)
    full = (await bus.js.stream_info("AUTH")).state
    assert full.first_seq == 1, "what was there had to make room"
    assert full.messages < 6
    assert bus.is_connected

    await bus._declare(STREAMS["AUTH"])

    async def stored() -> bool:
        return bool((await bus.js.stream_info("AUTH")).state.messages == 6)

    await until(stored)
    task.cancel()


async def test_the_relay_waits_for_nats_without_failing_and_goes_on_at_once(
    bus: Bus, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = True
    monkeypatch.setattr(Bus, "is_connected", property(lambda bus: not away))
    relay = Relay(pool, bus, "frame")
    task = asyncio.create_task(relay.run())
    async with pool.transaction() as conn:
        await outbox.add(conn, "frame", agency_changed("a"), new_id())
    relay.wake()
    await asyncio.sleep(1)
    assert not task.done()
    away = False

    async def stored() -> bool:
        return bool((await bus.js.stream_info("AUTH")).state.messages == 1)

    await until(stored, 1)
    task.cancel()


async def test_a_stream_that_was_changed_by_hand_is_corrected(bus: Bus) -> None:
    config = STREAMS["AUTH"].config()
    config.max_age = 60
    config.duplicate_window = 30
    await bus.js.update_stream(config)
    await bus._declare(STREAMS["AUTH"])
    assert (await bus.js.stream_info("AUTH")).config.max_age == 14 * 24 * 3600


async def test_a_stream_that_another_process_made_anew_is_filled_from_the_outbox(
    bus: Bus, nats_url: str, pool: Pool
) -> None:
    relay = Relay(pool, bus, "frame", keep=timedelta(days=1))
    task = asyncio.create_task(kept(relay))
    async with pool.transaction() as conn:
        await outbox.add(conn, "frame", agency_changed("a"), new_id())
    relay.wake()

    async def stored() -> bool:
        return bool((await bus.js.stream_info("AUTH")).state.messages == 1)

    await until(stored)
    await bus.js.delete_stream("AUTH")
    reader = Bus(nats_url, "reader", ["AUTH"])
    running = asyncio.create_task(reader.run())
    await reader.connected()
    await bus._declare(STREAMS["AUTH"])
    await until(stored)
    await reader.close()
    running.cancel()
    task.cancel()


async def keep_running(bus: Bus) -> None:
    """Starts the bus again as the frame does."""
    while True:
        with contextlib.suppress(Unavailable):
            await bus.run()
        await asyncio.sleep(0.05)


@pytest.fixture
async def kept_bus(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bus]:
    monkeypatch.setattr("services.chassis.bus._LOOK_SECONDS", 0.1)
    bus = Bus(nats_url, "test", ["AUTH"])
    running = asyncio.create_task(keep_running(bus))
    async with asyncio.timeout(10):
        await bus.connected()
    yield bus
    running.cancel()
    await bus.close()


async def test_a_connection_that_the_library_closed_is_made_anew(kept_bus: Bus, pool: Pool) -> None:
    read: list[str] = []

    async def handle(batch: list[Received[events_pb2.AgencyChanged]]) -> None:
        read.extend(one.message.agency.display_name for one in batch)

    first = kept_bus.client
    # The server answers with an error and hangs up; the library then never connects again.
    first._transport.write(b"NONSENSE\r\n")  # type: ignore[union-attr]
    await until(lambda: first.is_closed)
    await until(lambda: kept_bus.is_connected)
    await kept_bus.publish(agency_changed("x"), str(new_id()))
    task = asyncio.create_task(consumer(kept_bus, pool, handle).run())
    await until(lambda: read == ["x"])
    task.cancel()


async def test_a_connection_that_nobody_mends_is_given_up(kept_bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.chassis.bus._MENDING_SECONDS", 0.3)
    first = kept_bus.client
    first._process_disconnect()
    first._status = Client.RECONNECTING
    await until(lambda: kept_bus.is_connected and kept_bus.client is not first)
