"""An event that ends the process which reads it does so twice, and never takes another one along."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from opennotice.auth.v1 import events_pb2
from psycopg.conninfo import conninfo_to_dict

from services.chassis import consumer as consumer_module
from services.chassis import dead_letters as letters_module
from services.chassis.bus import Bus
from services.chassis.consumer import Consumer, Received
from services.chassis.dead_letters import DeadLetters, InDoubt
from services.chassis.errors import Unavailable
from services.chassis.names import new_id
from services.chassis.postgres import Database as Pool
from tests.chassis.mortal import DEADLY, DURABLE
from tests.chassis.test_bus import _nothing_waits, agency_changed, consumer, until
from tests.fix_postgres import Database, as_url
from tests.gate import Gate

ROOT = Path(__file__).resolve().parents[2]
LETTERS = "select id, payload, error, attempts from frame.dead_letters order by id"


async def rows(pool: Pool, query: str) -> list[Any]:
    """Returns what a query finds."""
    async with pool.transaction() as conn:
        return await (await conn.execute(query.encode())).fetchall()


async def publish(bus: Bus, *names: str) -> None:
    """Publishes an event for each name."""
    for name in names:
        await bus.publish(agency_changed(name), str(new_id()))


async def leave_unanswered(bus: Bus, count: int) -> None:
    """Takes events as a process does that ends before it answers."""
    reader = await bus.js.pull_subscribe_bind(consumer=DURABLE, stream="AUTH")
    assert len(await reader.fetch(count, timeout=5)) == count
    await reader.unsubscribe()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has events come again soon that were left without an answer."""
    monkeypatch.setattr(consumer_module, "_ACK_WAIT_SECONDS", 0.5)
    monkeypatch.setattr(consumer_module, "_RETRY_SECONDS", (0.05,) * 4)
    monkeypatch.setattr(consumer_module, "_LINGER_SECONDS", 0.3)
    monkeypatch.setattr(letters_module, "_DOUBT_SECONDS", 1.0)


async def test_an_event_that_kills_its_reader_is_set_aside_before_it_is_read_a_third_time(
    bus: Bus, pool: Pool, nats_url: str, database: Database
) -> None:
    await publish(bus, "before", DEADLY.decode(), "after")
    with psycopg.connect(database.admin_url, autocommit=True) as conn:
        conn.execute("create table frame.seen (name text)")
    ends: list[int] = []
    while not any("quarantined" in row[2] for row in await rows(pool, LETTERS)):
        assert len(ends) < 4
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.chassis.mortal", nats_url, database.admin_url, cwd=ROOT
        )

        async def over(child: asyncio.subprocess.Process = child) -> bool:
            letters = await rows(pool, LETTERS)
            return child.returncode is not None or any("quarantined" in row[2] for row in letters)

        await until(over, 30)
        if child.returncode is not None:
            ends.append(child.returncode)
    await until(lambda: _nothing_waits(bus), 20)
    child.kill()
    await child.wait()
    assert ends == [-signal.SIGKILL] * 2
    # What was in its company, and what stood behind it, came through.
    assert set(await rows(pool, "select name from frame.seen")) == {("before",), ("after",)}
    ((_, payload, error, attempts),) = await rows(pool, LETTERS)
    assert events_pb2.AgencyChanged.FromString(payload).agency.display_name == DEADLY.decode()
    assert ("twice" in error, attempts) == (True, 2)


async def test_what_was_left_and_does_no_harm_is_taken_in_and_nothing_stays(bus: Bus, pool: Pool) -> None:
    seen: list[str] = []
    held: list[Any] = []

    async def handle(batch: list[Received[events_pb2.AgencyChanged]]) -> None:
        held.append([row[3] for row in await rows(pool, LETTERS)])
        seen.extend(one.message.agency.display_name for one in batch)

    reader = consumer(bus, pool, handle)
    await reader._declare()
    await publish(bus, "a", "b")
    await leave_unanswered(bus, 2)
    task = asyncio.create_task(reader.run())
    await until(lambda: len(seen) == 2)
    await until(lambda: _nothing_waits(bus))

    async def released() -> bool:
        return await rows(pool, LETTERS) == []

    await until(released)
    # Each alone, and kept while it was in hand.
    assert held == [[1], [1]]
    assert sorted(seen) == ["a", "b"]
    task.cancel()


async def test_waiting_for_somebody_who_is_away_is_no_end(bus: Bus, pool: Pool) -> None:
    seen: list[int] = []
    failures = iter(range(6))

    async def handle(batch: list[Received[events_pb2.AgencyChanged]]) -> None:
        if next(failures, None) is not None:
            raise Unavailable("STORE_AWAY", "away")
        seen.extend(one.attempts for one in batch)

    reader = consumer(bus, pool, handle)
    await reader._declare()
    await publish(bus, "a")
    await leave_unanswered(bus, 1)
    task = asyncio.create_task(reader.run())
    await until(lambda: seen, 20)
    await until(lambda: _nothing_waits(bus))
    assert seen[0] > 6
    assert await rows(pool, LETTERS) == []
    task.cancel()


async def reading_what_was_left(
    bus: Bus, reader: Consumer[events_pb2.AgencyChanged], until_set: asyncio.Event
) -> asyncio.Task[None]:
    """Starts a reader on an event that another one had left without an answer, and waits for what it does with it."""
    await reader._declare()
    await publish(bus, "a")
    await leave_unanswered(bus, 1)
    task = asyncio.create_task(reader.run())
    async with asyncio.timeout(10):
        await until_set.wait()
    return task


async def test_a_process_that_is_told_to_stop_leaves_nothing_held(bus: Bus, pool: Pool) -> None:
    in_hand = asyncio.Event()

    async def never(_batch: list[Received[events_pb2.AgencyChanged]]) -> None:
        in_hand.set()
        await asyncio.Event().wait()

    reader = consumer(bus, pool, never)
    task = await reading_what_was_left(bus, reader, in_hand)
    assert len(await rows(pool, LETTERS)) == 1
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    assert await rows(pool, LETTERS) == []


EVENT: dict[str, Any] = {"consumer": "c", "subject": "s", "message_type": "t", "payload": b"p", "attempts": 1}


async def test_one_that_only_hung_may_still_take_it_in_after_another_gave_it_up(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = DeadLetters(pool, "frame")
    number = await letters.hold(**EVENT)
    assert number is not None
    with pytest.raises(InDoubt):
        await letters.hold(**EVENT | {"attempts": 2})
    monkeypatch.setattr(letters_module, "_DOUBT_SECONDS", 0)
    assert await letters.hold(**EVENT | {"attempts": 3}) is None
    await letters.release(number, taken=False)
    assert [(row[0], row[3]) for row in await rows(pool, LETTERS)] == [(number, 2)]
    # As after the loss of the acknowledgement: it must not be read then either.
    assert await letters.hold(**EVENT | {"attempts": 4}) is None
    assert [(row[0], row[3]) for row in await rows(pool, LETTERS)] == [(number, 2)]
    await letters.release(number, taken=True)
    assert await rows(pool, LETTERS) == []


async def test_whoever_had_it_gets_a_moment_to_release_it(pool: Pool) -> None:
    letters = DeadLetters(pool, "frame")
    number = await letters.hold(**EVENT)
    assert number is not None
    # However old the letter is: PostgreSQL may have been away since it was written.
    await rows(pool, "update frame.dead_letters set create_time = now() - interval '1 hour' returning id")
    for _ in range(3):
        with pytest.raises(InDoubt):
            await letters.hold(**EVENT)
    await letters.release(number, taken=False)
    assert await rows(pool, LETTERS) == []
    assert await letters.hold(**EVENT) is not None


async def test_a_letter_that_another_reader_doubts_at_the_same_time_is_released(pool: Pool) -> None:
    letters = DeadLetters(pool, "frame")
    number = await letters.hold(**EVENT)
    assert number is not None
    async with pool.transaction() as conn:
        # As a doubting reader does: the letter goes and comes again, with the same number.
        await conn.execute("delete from frame.dead_letters where id = %s", (number,))
        releasing = asyncio.create_task(letters.release(number, taken=False))
        await asyncio.sleep(0.3)
        assert not releasing.done()
        await conn.execute(
            "insert into frame.dead_letters (id, consumer, subject, message_type, payload, error, attempts)"
            " overriding system value values (%s, 'c', 's', 't', 'p', %s, 1)",
            (number, letters_module._IN_DOUBT),
        )
    await releasing
    assert await rows(pool, LETTERS) == []


@pytest.fixture
async def way(database: Database) -> AsyncIterator[tuple[Gate, Pool]]:
    """Gives a way to PostgreSQL that can be shut, and the pool of one who takes it."""
    gate = Gate(int(str(conninfo_to_dict(database.admin_url)["port"])))
    pool = Pool(as_url(database.admin_url, host="127.0.0.1", port=str(gate.port)), name="far", wait_seconds=0.5)
    await pool.open()
    yield gate, pool
    gate.shut()
    await pool.close()
    gate.end()


async def test_an_event_whose_reader_lost_the_store_is_read_by_another(
    bus: Bus, pool: Pool, way: tuple[Gate, Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was wrong with it, and its reader cannot say so before the store is there again."""
    monkeypatch.setattr(letters_module, "_DOUBT_SECONDS", 5.0)
    gate, far = way
    seen: list[str] = []
    gave_back = asyncio.Event()

    async def loses_the_store(_batch: list[Received[events_pb2.AgencyChanged]]) -> None:
        gate.shut()
        gave_back.set()
        raise Unavailable("STORE_AWAY", "away")

    async def handle(batch: list[Received[events_pb2.AgencyChanged]]) -> None:
        seen.extend(one.message.agency.display_name for one in batch)

    first, second = consumer(bus, far, loses_the_store), consumer(bus, pool, handle)
    reading = await reading_what_was_left(bus, first, gave_back)
    gather = consumer_module._gather

    async def gather_for_the_second(reader: Any) -> list[Any]:
        if asyncio.current_task() is not reading:
            return await gather(reader)
        # As when the other is the quicker one each time.
        await asyncio.sleep(0.3)
        return []

    monkeypatch.setattr(consumer_module, "_gather", gather_for_the_second)
    task = asyncio.create_task(second.run())
    await asyncio.sleep(1)
    assert len(await rows(pool, LETTERS)) == 1
    gate.open()
    await until(lambda: seen == ["a"], 20)
    await until(lambda: _nothing_waits(bus))

    async def released() -> bool:
        return await rows(pool, LETTERS) == []

    await until(released)
    reading.cancel()
    task.cancel()


async def test_an_event_whose_reader_is_stopped_while_it_takes_it_in_hand_stays_good(
    bus: Bus, pool: Pool, database: Database
) -> None:
    """The letter is committed all the same, and is about an event that nobody has read."""
    with psycopg.connect(database.admin_url, autocommit=True) as conn:
        # The commit takes its time.
        conn.execute(
            "create function frame.wait() returns trigger language plpgsql as"
            " $$ begin perform pg_sleep(1.5); return null; end $$"
        )
        conn.execute(
            "create constraint trigger wait after insert on frame.dead_letters deferrable initially deferred"
            " for each row execute function frame.wait()"
        )
    seen: list[str] = []

    async def handle(batch: list[Received[events_pb2.AgencyChanged]]) -> None:
        seen.extend(one.message.agency.display_name for one in batch)

    reader = consumer(bus, pool, handle)
    await reader._declare()
    await publish(bus, "a")
    await leave_unanswered(bus, 1)
    task = asyncio.create_task(reader.run())

    async def committing() -> bool:
        query = "select 1 from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()"
        return bool(await rows(pool, query))

    await until(committing)
    # As the frame does it, which has lost a cancellation before.
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.3)
    assert (task.cancelled(), seen) == (True, [])
    assert await rows(pool, LETTERS) == []
