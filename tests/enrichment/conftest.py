"""Enrichment as its process runs it: wired by its own `__main__`, on real PostgreSQL and NATS."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from opennotice.enrichment.v1 import events_pb2
from opennotice.tracking.v1 import events_pb2 as tracking_events_pb2

from services.chassis import clock
from services.chassis.bus import Bus
from services.chassis.consumer import Consumer, Received
from services.chassis.dead_letters import DeadLetters
from services.chassis.names import new_id
from services.chassis.postgres import Database as Pool
from services.chassis.serve import Process
from services.chassis.settings import Address
from services.enrichment import __main__ as enrichment
from services.enrichment.settings import Settings
from tests.cast import FIRST_COURT
from tests.fix_postgres import Database
from tests.fix_rpc import Keyring, free_address

IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
    "Version/17.5 Mobile/15E148 Safari/604.1"
)


async def until(condition: Callable[[], Any], seconds: float = 20) -> None:
    """Waits until a condition holds."""
    async with asyncio.timeout(seconds):
        while not (await found if asyncio.iscoroutine(found := condition()) else found):
            await asyncio.sleep(0.02)


def opened(**changes: Any) -> tracking_events_pb2.OpenRecorded:
    """Returns an open of the first court as tracking tells it."""
    values: dict[str, Any] = {
        "open_id": str(new_id()),
        "open_time": clock.to_proto(datetime(2026, 11, 23, 9, 30, tzinfo=UTC)),
        "agency_id": str(FIRST_COURT),
        "kind": tracking_events_pb2.OPEN_KIND_PORTAL,
        "link_id": str(new_id()),
        "method": "GET",
        "status": 200,
        "ip_address": "73.162.1.1",
        "user_agent": IPHONE,
        "accept_language": "es-MX,es;q=0.9",
    }
    return tracking_events_pb2.OpenRecorded(**{**values, **changes})


def packed(*opens: tracking_events_pb2.OpenRecorded) -> tracking_events_pb2.OpensRecorded:
    """Returns a pack of opens."""
    return tracking_events_pb2.OpensRecorded(batch_id=str(new_id()), opens=opens)


@dataclass
class Outside:
    """What stands around enrichment: the bus it reads from, and everything it published."""

    bus: Bus
    pool: Pool
    published: list[events_pb2.OpensEnriched] = field(default_factory=list)

    async def send(self, pack: tracking_events_pb2.OpensRecorded, message_id: str = "") -> None:
        """Sends a pack as tracking does."""
        await self.bus.publish(pack, message_id or pack.batch_id)

    def of(self, batch_id: str) -> list[events_pb2.OpensEnriched]:
        """Returns what was published for one pack, in order."""
        return [pack for pack in self.published if pack.batch_id == batch_id]

    async def answered(self, pack: tracking_events_pb2.OpensRecorded, count: int = 1) -> list[events_pb2.OpenEnriched]:
        """Sends a pack and returns its opens, explained for the last time when there are `count` packs."""
        await self.send(pack)
        await until(lambda: len(self.of(pack.batch_id)) >= count)
        return list(self.of(pack.batch_id)[-1].opens)

    async def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Returns rows of enrichment's own tables."""
        async with self.pool.transaction() as conn:
            return await (await conn.execute(query.encode())).fetchall()


@pytest.fixture
async def outside(database: Database, nats_url: str) -> AsyncIterator[Outside]:
    """Gives what stands around enrichment."""
    bus = Bus(nats_url, "test", ["AUTH", "ENRICHMENT", "TRACKING"])
    pool = Pool(database.url("enrichment", "ingest"), name="test")
    await pool.open()
    around = Outside(bus, pool)

    async def keep(received: list[Received[events_pb2.OpensEnriched]]) -> None:
        around.published += [one.message for one in received]

    reader = Consumer(
        bus,
        stream="ENRICHMENT",
        durable="test-opens-enriched-v1",
        message=events_pb2.OpensEnriched,
        handle=keep,
        dead_letters=DeadLetters(pool, "enrichment"),
    )
    tasks = {asyncio.create_task(bus.run()), asyncio.create_task(reader.run())}
    async with asyncio.timeout(10):
        await bus.connected()
    yield around
    while tasks:
        # Again and again: Python 3.11 may lose a cancellation inside of nats-py.
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=0.5)
    await bus.close()
    await pool.close()


Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start(database: Database, nats_url: str, keyring: Keyring) -> AsyncIterator[Start]:
    """Gives a function that starts enrichment: `await start(ip_data_dir=…, auth_address=…)`; all end with the test."""
    started: list[Process] = []

    async def begin(*, ip_data_dir: Path | None = None, auth_address: Address | None = None) -> Process:
        settings = Settings(
            probe_bind=free_address(),
            identity_key=keyring.private_pem["enrichment"],
            identity_trust=keyring.trust,
            log_level="warning",
            serve_database_url=database.url("enrichment", "serve"),
            ingest_database_url=database.url("enrichment", "ingest"),
            nats_url=nats_url,
            paging_key=keyring.paging_key,
            grpc_bind=free_address(),
            # Nobody listens there: enrichment has to do without auth.
            auth_address=auth_address or free_address(),
            ip_data_dir=ip_data_dir,
        )
        process = Process("enrichment", settings)
        started.append(process)
        await enrichment.wire(process)
        return process

    yield begin
    for process in started:
        await process._end()
