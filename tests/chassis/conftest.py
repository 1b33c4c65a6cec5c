"""A schema with what every service has for its events, and a connection that publishes and reads them."""

import asyncio
from collections.abc import AsyncIterator

import psycopg
import pytest

from services.chassis.bus import Bus
from services.chassis.postgres import Database as Pool
from tests.fix_postgres import Database

FRAME = """
create schema frame;
create table frame.outbox (
    id bigint generated always as identity primary key, event_id uuid not null, subject text not null,
    message_type text not null, payload bytea not null, create_time timestamptz not null default now(),
    publish_time timestamptz
);
create table frame.dead_letters (
    id bigint generated always as identity primary key, consumer text not null, subject text not null,
    message_type text not null, payload bytea not null, error text not null, attempts int not null,
    create_time timestamptz not null default now()
);
"""


@pytest.fixture
async def pool(database: Database) -> AsyncIterator[Pool]:
    """Gives a pool of the superuser, with the tables of the frame."""
    with psycopg.connect(database.admin_url, autocommit=True) as conn:
        conn.execute(FRAME)
    pool = Pool(database.admin_url, name="test")
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    """Gives a connection that is there for the time of a test."""
    bus = Bus(nats_url, "test", ["AUTH"])
    running = asyncio.create_task(bus.run())
    async with asyncio.timeout(10):
        await bus.connected()
    yield bus
    await bus.close()
    running.cancel()
