"""The tables of enrichment, on real PostgreSQL."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from services.chassis.postgres import Database as Pool
from services.enrichment import store
from services.enrichment.store import Agency, WaitingPack
from tests.cast import FIRST_COURT, OTHER_COURT
from tests.fix_postgres import Database

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
START = (datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))


@pytest.fixture
async def ingest(database: Database) -> AsyncIterator[Pool]:
    """Gives the role of consumers."""
    pool = Pool(database.url("enrichment", "ingest"), name="test")
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
async def serve(database: Database) -> AsyncIterator[Pool]:
    """Gives the role that answers calls."""
    pool = Pool(database.url("enrichment", "serve"), name="test")
    await pool.open()
    yield pool
    await pool.close()


def waiting(number: int, moment: datetime = NOON) -> WaitingPack:
    """Returns a pack that waits."""
    return WaitingPack(UUID(int=number), moment, bytes([number]))


async def test_an_older_state_of_an_agency_changes_nothing(ingest: Pool) -> None:
    for networks, revision in ((["10.0.0.0/8"], 2), (["192.0.2.0/24"], 1), ([], 2)):
        async with ingest.transaction() as conn:
            await store.save_agencies(conn, [Agency(FIRST_COURT, networks, revision)])
    async with ingest.transaction() as conn:
        assert await store.list_agencies(conn) == [Agency(FIRST_COURT, ["10.0.0.0/8"], 2)]


async def test_a_call_sees_its_own_agency_only(ingest: Pool, serve: Pool) -> None:
    async with ingest.transaction() as conn:
        await store.save_agencies(conn, [Agency(FIRST_COURT, ["10.0.0.0/8"], 1), Agency(OTHER_COURT, [], 1)])
    async with serve.transaction(FIRST_COURT) as conn:
        assert await store.get_agency(conn, FIRST_COURT) == Agency(FIRST_COURT, ["10.0.0.0/8"], 1)
        assert await store.get_agency(conn, OTHER_COURT) is None
        assert [agency.agency_id for agency in await store.list_agencies(conn)] == [FIRST_COURT]
    async with serve.transaction() as conn:
        assert await store.list_agencies(conn) == []


@pytest.mark.parametrize("table", ["waiting_packs", "dead_letters"])
async def test_no_call_reaches_what_belongs_to_several_agencies(serve: Pool, table: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with serve.transaction(FIRST_COURT) as conn:
            await conn.execute(f"select 1 from enrichment.{table}".encode())


async def test_packs_wait_in_order_once_each_and_are_forgotten(ingest: Pool) -> None:
    packs = [waiting(1), waiting(2, NOON + timedelta(seconds=1)), waiting(3, NOON + timedelta(seconds=1))]
    async with ingest.transaction() as conn:
        for pack in [*reversed(packs), WaitingPack(UUID(int=1), NOON + timedelta(days=1), b"again")]:
            await store.add_waiting_pack(conn, pack)
    async with ingest.transaction() as conn:
        assert await store.take_waiting_packs(conn, START, 2) == packs[:2]
        assert await store.take_waiting_packs(conn, (packs[1].receive_time, packs[1].batch_id), 2) == packs[2:]
        await store.delete_waiting_packs(conn, [UUID(int=1), UUID(int=9)])
    async with ingest.transaction() as conn:
        assert await store.take_waiting_packs(conn, START, 9) == packs[1:]
        assert await store.delete_waiting_packs_before(conn, NOON + timedelta(seconds=1)) == 0
        assert await store.delete_waiting_packs_before(conn, NOON + timedelta(seconds=2)) == 2


async def test_two_replicas_take_different_packs(ingest: Pool) -> None:
    async with ingest.transaction() as conn:
        for number in (1, 2):
            await store.add_waiting_pack(conn, waiting(number))
    async with ingest.transaction() as one, ingest.transaction() as other:
        assert await store.take_waiting_packs(one, START, 1) == [waiting(1)]
        assert await store.take_waiting_packs(other, START, 1) == [waiting(2)]
