"""The one connection that writes opens: found warm by the next write, never two of them, none left behind."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from services.chassis.names import millisecond_of, new_id
from services.tracking.store.opens import RawOpen
from services.tracking.writer import Away, Refused, Writer
from tests.cast import FIRST_COURT
from tests.fix_postgres import Database, as_url
from tests.gate import Gate

LIMIT_SECONDS = 0.3


@pytest.fixture
def gate(database: Database) -> Iterator[Gate]:
    """Gives the way to PostgreSQL."""
    gate = Gate(int(str(conninfo_to_dict(database.admin_url)["port"])))
    yield gate
    gate.end()


@pytest.fixture
async def writer(database: Database, gate: Gate) -> AsyncIterator[Writer]:
    """Gives a writer that takes this way."""
    url = as_url(database.url("tracking", "ingest"), host="127.0.0.1", port=str(gate.port))
    writer = Writer(url, "subject", "type")
    yield writer
    await writer.close()


def an_open(*, wrong_ms: int = 0) -> RawOpen:
    """Makes an open of this moment."""
    open_id = new_id()
    return RawOpen(open_id, millisecond_of(open_id) + wrong_ms, FIRST_COURT, new_id(), b"record")


async def write(writer: Writer, raw: RawOpen) -> str:
    """Writes one open and returns how that ended."""
    try:
        await writer.insert([raw], str(new_id()), b"pack", limit_seconds=LIMIT_SECONDS)
    except (Away, Refused) as error:
        return type(error).__name__
    return "stored"


def processes(database: Database) -> list[int]:
    """Returns the server's process of each connection of a writer."""
    with psycopg.connect(database.admin_url) as conn:
        query = (
            "select pid from pg_stat_activity"
            " where application_name = 'opennotice-tracking-opens' and datname = current_database() order by pid"
        )
        return [row[0] for row in conn.execute(query).fetchall()]


async def until_there_are(database: Database, count: int) -> list[int]:
    """Waits for a number of connections, and whether it stays."""
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        found = await asyncio.to_thread(processes, database)
        if len(found) == count:
            await asyncio.sleep(0.3)
            if await asyncio.to_thread(processes, database) == found:
                return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"not {count} connections but {found}")


def stored(database: Database) -> set[object]:
    """Returns the opens that are there."""
    with psycopg.connect(database.admin_url) as conn:
        return {row[0] for row in conn.execute("select open_id from tracking.raw_opens").fetchall()}


async def test_a_connection_that_takes_longer_than_a_write_serves_the_next_one(
    writer: Writer, gate: Gate, database: Database
) -> None:
    """As on a remote server with TLS, or on a loaded machine: else no write would ever find one."""
    # Several ways there and back until one is signed in.
    gate.delay(0.04)
    opens = [an_open() for _ in range(4)]
    assert await write(writer, opens[0]) == "Away"
    (process,) = await until_there_are(database, 1)
    assert [await write(writer, raw) for raw in opens[1:]] == ["stored"] * 3
    assert await until_there_are(database, 1) == [process]
    assert stored(database) == {raw.open_id for raw in opens}


async def test_of_several_that_come_late_one_stays(writer: Writer, gate: Gate, database: Database) -> None:
    gate.hold()
    opens = [an_open() for _ in range(4)]
    assert [await write(writer, raw) for raw in opens[:3]] == ["Away"] * 3
    gate.open()
    # Made while those of before come too.
    assert await write(writer, opens[3]) == "stored"
    (process,) = await until_there_are(database, 1)
    assert await write(writer, an_open()) == "stored"
    assert await until_there_are(database, 1) == [process]
    assert {raw.open_id for raw in opens} < stored(database)


async def test_writes_at_the_same_time_leave_one_connection(writer: Writer, database: Database) -> None:
    ends = await asyncio.gather(*(write(writer, an_open()) for _ in range(3)))
    assert ends == ["stored"] * 3
    await until_there_are(database, 1)


async def test_one_that_was_cut_or_holds_something_open_is_not_kept(
    writer: Writer, gate: Gate, database: Database
) -> None:
    assert await write(writer, an_open()) == "stored"
    gate.cut_next_answer()
    assert await write(writer, an_open()) == "Away"
    await until_there_are(database, 0)

    async def leave_open(conn: psycopg.AsyncConnection[object]) -> None:
        await conn.execute("begin")

    await writer._do(leave_open, 5)
    await until_there_are(database, 0)
    assert await write(writer, an_open()) == "stored"


async def test_a_refusal_costs_no_connection(writer: Writer, database: Database) -> None:
    assert await write(writer, an_open()) == "stored"
    (process,) = await until_there_are(database, 1)
    assert await write(writer, an_open(wrong_ms=1)) == "Refused"
    assert await write(writer, an_open()) == "stored"
    assert await until_there_are(database, 1) == [process]


async def test_nothing_is_left_when_it_is_closed_while_a_connection_is_made(
    writer: Writer, gate: Gate, database: Database
) -> None:
    gate.hold()
    assert await write(writer, an_open()) == "Away"
    waiting = asyncio.create_task(write(writer, an_open()))
    await asyncio.sleep(0)
    await writer.close()
    gate.open()
    await waiting
    await until_there_are(database, 0)
