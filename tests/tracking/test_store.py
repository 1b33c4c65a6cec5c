"""The tables of raw opens: who may do what, where rows go, and what is never taken."""

import asyncio
from datetime import UTC, date, datetime
from uuid import UUID

import psycopg
import pytest

from services.chassis.clock import from_milliseconds
from services.chassis.names import millisecond_of, new_id
from services.tracking.store.opens import (
    RawOpen,
    insert_opens,
    make_partitions,
    opens_by_id,
    opens_without_month,
    outbox_size,
)
from tests.cast import FIRST_COURT, OTHER_COURT
from tests.fix_postgres import Database


def an_open(agency_id: UUID = FIRST_COURT) -> RawOpen:
    """Makes an open of this moment."""
    open_id = new_id()
    return RawOpen(open_id, millisecond_of(open_id), agency_id, new_id(), b"record")


async def store_all(database: Database, opens: list[RawOpen]) -> None:
    """Stores opens as the recorder does."""
    async with await psycopg.AsyncConnection.connect(database.url("tracking", "ingest"), autocommit=True) as conn:
        await insert_opens(conn, opens, new_id(), "subject", "type", b"pack")


async def test_the_same_open_again_changes_nothing(database: Database) -> None:
    opens = [an_open() for _ in range(3)]
    await store_all(database, opens)
    await store_all(database, [*opens, opens[0]])
    with psycopg.connect(database.admin_url) as conn:
        rows = conn.execute("select open_id, opened_at, record from tracking.raw_opens order by 1").fetchall()
    assert rows == sorted((raw.open_id, from_milliseconds(raw.opened_ms), b"record") for raw in opens)


async def test_an_instant_that_is_not_the_one_in_the_id_is_refused(database: Database) -> None:
    right = an_open()
    wrong = RawOpen(right.open_id, right.opened_ms + 1, right.agency_id, right.link_id, right.record)
    with pytest.raises(psycopg.errors.CheckViolation):
        await store_all(database, [wrong])


@pytest.mark.parametrize("milliseconds", [0, 1, 999, 1_700_000_000_123, 2_000_000_000_001, 4_102_444_799_999])
async def test_every_instant_of_an_id_is_understood_to_the_millisecond(database: Database, milliseconds: int) -> None:
    open_id = UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62)
    await store_all(database, [RawOpen(open_id, milliseconds, FIRST_COURT, new_id(), b"record")])


@pytest.mark.parametrize("use", ["serve", "ingest"])
@pytest.mark.parametrize(
    "statement",
    [
        "update tracking.raw_opens set record = 'y'",
        "delete from tracking.raw_opens",
        "truncate tracking.raw_opens",
        "alter table tracking.raw_opens add column x int",
        "drop table tracking.raw_opens",
        "delete from tracking.raw_opens_default",
    ],
)
def test_no_role_of_tracking_can_change_what_was_recorded(database: Database, use: str, statement: str) -> None:
    with (
        psycopg.connect(database.url("tracking", use)) as conn,
        pytest.raises(psycopg.errors.InsufficientPrivilege),
    ):
        conn.execute(statement.encode())


async def test_a_call_sees_the_opens_of_its_agency_only(database: Database) -> None:
    mine, theirs = an_open(FIRST_COURT), an_open(OTHER_COURT)
    await store_all(database, [mine, theirs])
    with psycopg.connect(database.url("tracking", "serve")) as conn:
        assert conn.execute("select open_id from tracking.raw_opens").fetchall() == []
        conn.execute("select set_config('app.agency', %s, true)", (str(FIRST_COURT),))
        assert conn.execute("select open_id from tracking.raw_opens").fetchall() == [(mine.open_id,)]


async def test_partitions_are_made_ahead_once_and_hold_their_month(database: Database) -> None:
    url = database.url("tracking", "ingest")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as conn:
        assert await make_partitions(conn, date(2031, 11, 30)) == 4
        assert await make_partitions(conn, date(2031, 11, 30)) == 0
        moment = int(datetime(2032, 1, 1, tzinfo=UTC).timestamp()) * 1000
        raw = RawOpen(UUID(int=moment << 80 | 7 << 76 | 2 << 62), moment, FIRST_COURT, new_id(), b"record")
        await insert_opens(conn, [raw], new_id(), "subject", "type", b"pack")
        assert await opens_without_month(conn) == 0
        assert await outbox_size(conn) == 1
    with psycopg.connect(database.admin_url) as admin:
        found = admin.execute("select count(*) from tracking.raw_opens_2032_01").fetchone()
    assert found == (1,)


async def test_an_open_that_fits_no_month_is_kept_and_told(database: Database) -> None:
    moment = int(datetime(2060, 1, 1, tzinfo=UTC).timestamp()) * 1000
    raw = RawOpen(UUID(int=moment << 80 | 7 << 76 | 2 << 62), moment, FIRST_COURT, new_id(), b"record")
    await store_all(database, [raw])
    async with await psycopg.AsyncConnection.connect(database.url("tracking", "ingest"), autocommit=True) as conn:
        assert await opens_without_month(conn) == 1


async def test_a_month_gets_its_partition_though_opens_came_before_it(database: Database) -> None:
    # As after a month during which no process ran, or a clock that was ahead for a while.
    moment = int(datetime(2031, 12, 5, tzinfo=UTC).timestamp()) * 1000
    raw = RawOpen(UUID(int=moment << 80 | 7 << 76 | 2 << 62), moment, FIRST_COURT, new_id(), b"record")
    await store_all(database, [raw])
    async with await psycopg.AsyncConnection.connect(database.url("tracking", "ingest"), autocommit=True) as conn:
        assert await make_partitions(conn, date(2031, 11, 30)) == 4
        assert await opens_without_month(conn) == 0
    await store_all(database, [raw])
    with psycopg.connect(database.admin_url) as admin:
        assert admin.execute("select open_id from tracking.raw_opens_2031_12").fetchall() == [(raw.open_id,)]
        assert admin.execute("select count(*) from tracking.raw_opens").fetchone() == (1,)


async def test_opens_are_seen_while_they_move_into_their_month(database: Database) -> None:
    """A reader that came meanwhile did not see them: it had read the list of partitions before it waited."""
    moment = int(datetime(2031, 12, 5, tzinfo=UTC).timestamp()) * 1000
    raw = RawOpen(UUID(int=moment << 80 | 7 << 76 | 2 << 62), moment, FIRST_COURT, new_id(), b"record")
    await store_all(database, [raw])
    url = database.url("tracking", "ingest")
    async with (
        await psycopg.AsyncConnection.connect(url) as mover,
        await psycopg.AsyncConnection.connect(url) as reader,
    ):
        assert await make_partitions(mover, date(2031, 11, 30)) == 4
        reading = asyncio.create_task(opens_by_id(reader, [raw.open_id]))
        # Long enough for the reader to come to its lock.
        await asyncio.sleep(0.5)
        await mover.commit()
        assert await reading == [raw]
