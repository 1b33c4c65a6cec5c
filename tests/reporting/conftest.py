"""The reporting process as it runs, with a real auth beside it; and short ways to put opens and copies into it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from opennotice.auth.v1 import auth_pb2_grpc
from opennotice.enrichment.v1 import events_pb2
from opennotice.link.v1 import link_pb2, link_pb2_grpc
from opennotice.reporting.v1 import reporting_pb2, reporting_pb2_grpc

import services.auth.__main__ as auth_main
import services.link.__main__ as link_main
import services.reporting.__main__ as reporting_main
from services.auth.settings import Settings as AuthSettings
from services.chassis.bus import Bus
from services.chassis.postgres import Database as Pool
from services.chassis.serve import CLIENT_OPTIONS, Process
from services.chassis.settings import Address
from services.link.settings import Settings as LinkSettings
from services.link.token import parse_keys
from services.reporting.arrivals import store as arrivals_store
from services.reporting.arrivals.events import read_open
from services.reporting.copies import store as copies_store
from services.reporting.copies.events import read_entry
from services.reporting.settings import Settings
from tests.auth.conftest import add_cast
from tests.cast import DANA, Person
from tests.fix_postgres import Database
from tests.fix_rpc import Keyring, free_address
from tests.reporting.sample import a_pack


@pytest.fixture
async def ingest(database: Database) -> AsyncIterator[Pool]:
    pool = Pool(database.url("reporting", "ingest"), name="test")
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
async def serve(database: Database) -> AsyncIterator[Pool]:
    pool = Pool(database.url("reporting", "serve"), name="test")
    await pool.open()
    yield pool
    await pool.close()


PutOpens = Callable[..., Awaitable[None]]
PutEntries = Callable[..., Awaitable[None]]


@pytest.fixture
def put_opens(ingest: Pool) -> PutOpens:
    """Stores explained opens as the consumer does."""

    async def put(*items: events_pb2.OpenEnriched) -> None:
        async with ingest.transaction() as conn:
            await arrivals_store.insert_opens(conn, [read_open(item) for item in items])

    return put


@pytest.fixture
def put_entries(ingest: Pool) -> PutEntries:
    """Stores entries of link's directory as the consumer does."""

    async def put(*entries: link_pb2.DirectoryEntry) -> None:
        found = [read_entry(entry) for entry in entries]
        async with ingest.transaction() as conn:
            await copies_store.put(conn, [copy for copy, _ in found])
            await copies_store.put_deliveries(conn, [one for _, deliveries in found for one in deliveries])

    return put


@asynccontextmanager
async def connected(nats_url: str, *streams: str) -> AsyncIterator[Bus]:
    """Holds a connection that publishes to some streams or reads from them."""
    bus = Bus(nats_url, "test", streams)
    running = asyncio.create_task(bus.run())
    async with asyncio.timeout(10):
        await bus.connected()
    yield bus
    await bus.close()
    running.cancel()


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    """A connection as enrichment and link hold it."""
    async with connected(nats_url, "ENRICHMENT", "LINK") as bus:
        yield bus


@dataclass
class Reporting:
    """The running process, spoken to through its stub."""

    stub: Any
    keyring: Keyring
    process: Process

    async def list(self, who: Person = DANA, page_size: int = 0, **filter: Any) -> list[str]:
        """Returns the names of the opens on the first page of a filter."""
        return [found.name for found in (await self.page(who, page_size=page_size, **filter)).opens]

    async def page(
        self, who: Person = DANA, *, page_size: int = 0, page_token: str = "", **filter: Any
    ) -> reporting_pb2.ListOpensResponse:
        """Returns one page of a filter."""
        request = reporting_pb2.ListOpensRequest(
            filter=reporting_pb2.OpenFilter(**filter), page_size=page_size, page_token=page_token
        )
        answer: reporting_pb2.ListOpensResponse = await self.stub.ListOpens(request, metadata=self.as_(who))
        return answer

    async def export(self, who: Person = DANA, **filter: Any) -> Sequence[reporting_pb2.ExportOpensResponse]:
        """Returns all parts of an export."""
        request = reporting_pb2.ExportOpensRequest(filter=reporting_pb2.OpenFilter(**filter))
        return [part async for part in self.stub.ExportOpens(request, metadata=self.as_(who))]

    def as_(self, who: Person) -> tuple[tuple[str, str], ...]:
        """Returns the metadata of a call by a person."""
        return self.keyring.as_person(who)


def settings_of(name: str, database: Database, nats_url: str, keyring: Keyring) -> dict[str, Any]:
    frame = keyring.settings(name)
    return {
        "probe_bind": frame.probe_bind,
        "identity_key": frame.identity_key,
        "identity_trust": frame.identity_trust,
        "log_level": frame.log_level,
        "serve_database_url": database.url(name, "serve"),
        "ingest_database_url": database.url(name, "ingest"),
        "nats_url": nats_url,
        "paging_key": keyring.paging_key,
        "grpc_bind": free_address(),
    }


@pytest.fixture
async def auth_address(database: Database, nats_url: str, keyring: Keyring) -> AsyncIterator[Address]:
    """Runs auth, with everybody of the cast in it, and gives its address."""
    seed = Pool(database.url("auth", "serve"), name="test")
    await seed.open()
    await add_cast(seed, "no password fits")
    await seed.close()
    settings = AuthSettings(
        **settings_of("auth", database, nats_url, keyring), directory_database_url=database.url("auth", "directory")
    )
    process = Process("auth", settings)
    await auth_main.wire(process)
    yield settings.grpc_bind
    await process._end()


@pytest.fixture
async def auth(auth_address: Address) -> AsyncIterator[Any]:
    """Gives the stub of auth."""
    async with grpc.aio.insecure_channel(str(auth_address), options=CLIENT_OPTIONS) as channel:
        yield auth_pb2_grpc.AuthServiceStub(channel)


@pytest.fixture
def link_address() -> Address:
    """Gives where link answers, when a test runs it."""
    return free_address()


@pytest.fixture
async def link(
    database: Database, nats_url: str, keyring: Keyring, auth_address: Address, link_address: Address
) -> AsyncIterator[Any]:
    """Runs link and gives its stub."""
    settings = LinkSettings(
        **settings_of("link", database, nats_url, keyring) | {"grpc_bind": link_address},
        auth_address=auth_address,
        directory_database_url=database.url("link", "directory"),
        token_keys=parse_keys("bGlua3Mgb2YgdGVzdHMgYXJlIG1hZGUgZnJvbSB0aGlzIQ=="),
        public_url="https://l.court.example",
    )
    process = Process("link", settings)
    await link_main.wire(process)
    async with grpc.aio.insecure_channel(str(link_address), options=CLIENT_OPTIONS) as channel:
        yield link_pb2_grpc.LinkServiceStub(channel)
    await process._end()


StartReporting = Callable[[], Awaitable[Reporting]]


@pytest.fixture
async def start_reporting(
    database: Database, nats_url: str, keyring: Keyring, auth_address: Address, link_address: Address
) -> AsyncIterator[StartReporting]:
    """Gives a function that starts a reporting process as its `__main__` does."""
    running: list[tuple[Process, grpc.aio.Channel]] = []

    async def start() -> Reporting:
        settings = Settings(
            **settings_of("reporting", database, nats_url, keyring),
            auth_address=auth_address,
            link_address=link_address,
            directory_database_url=database.url("reporting", "directory"),
        )
        process = Process("reporting", settings)
        await reporting_main.wire(process)
        channel = grpc.aio.insecure_channel(str(settings.grpc_bind), options=CLIENT_OPTIONS)
        running.append((process, channel))
        return Reporting(reporting_pb2_grpc.ReportingServiceStub(channel), keyring, process)

    yield start
    for process, channel in running:
        await channel.close()
        await process._end()


@pytest.fixture
async def reporting(start_reporting: StartReporting) -> Reporting:
    """Runs reporting. Link is away unless the test asks for it."""
    return await start_reporting()


@pytest.fixture
def publish_opens(bus: Bus) -> PutOpens:
    """Publishes explained opens as enrichment does, in one pack."""

    async def publish(*items: events_pb2.OpenEnriched) -> None:
        pack = a_pack(items)
        await bus.publish(pack, pack.batch_id)

    return publish
