"""Link as it runs: wired by its own __main__, on a real database and a real NATS; auth beside it where a test asks."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import nats
import psycopg
import pytest
from google.protobuf.message import Message
from nats.js.errors import NotFoundError
from opennotice.auth.v1 import auth_pb2_grpc
from opennotice.link.v1 import link_pb2, link_pb2_grpc
from psycopg.rows import dict_row

from services.auth.__main__ import wire as wire_auth
from services.chassis import postgres
from services.chassis.bus import subject_for
from services.chassis.errors import ServiceError, from_rpc_error
from services.chassis.serve import CLIENT_OPTIONS, Process
from services.chassis.settings import Address
from services.link.__main__ import wire
from services.link.settings import Settings
from services.link.token import parse_keys
from tests import cast
from tests.auth.conftest import add_cast, auth_settings
from tests.cast import Person
from tests.fix_postgres import Database
from tests.fix_rpc import Keyring, Metadata, free_address

PUBLIC_URL = "https://l.court.example"
TOKEN_KEY = "bGlua3Mgb2YgdGVzdHMgYXJlIG1hZGUgZnJvbSB0aGlzIQ=="
M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Link:
    """A running link process and the ways to reach it."""

    keyring: Keyring
    database: Database
    nats_url: str
    process: Process
    stub: Any

    def by(self, who: Person | str) -> Metadata:
        """Returns the metadata of a call by a person or a process."""
        return self.keyring.as_person(who) if isinstance(who, Person) else self.keyring.as_process(who)

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """Reads, or changes, the database past every rule, as only a test may."""
        with psycopg.connect(self.database.admin_url, autocommit=True, row_factory=dict_row) as conn:
            cursor = conn.execute(query.encode(), values)
            return cursor.fetchall() if cursor.description else []

    async def portal(self, who: Person = cast.DANA, **fields: Any) -> link_pb2.Portal:
        """Creates a hosted portal with two pages, or as the fields say."""
        given: dict[str, Any] = {
            "display_name": "Hearings",
            "kind": link_pb2.PORTAL_KIND_HOSTED,
            "pages": [
                link_pb2.Page(slug="hearing-details", title="Your hearing", markdown="Bring **this** letter."),
                link_pb2.Page(slug="payment", title="Payment", markdown="Pay before the hearing."),
            ],
        } | fields
        request = link_pb2.CreatePortalRequest(portal=link_pb2.Portal(**given))
        made: link_pb2.Portal = await self.stub.CreatePortal(request, metadata=self.by(who))
        return made

    async def client(self, who: Person = cast.DANA, **fields: Any) -> link_pb2.Client:
        """Creates a client."""
        given = {"display_name": "John Q. Public"} | fields
        request = link_pb2.CreateClientRequest(client=link_pb2.Client(**given))
        made: link_pb2.Client = await self.stub.CreateClient(request, metadata=self.by(who))
        return made

    async def message(self, who: Person = cast.DANA, **fields: Any) -> link_pb2.Message:
        """Creates a message."""
        given = {"channel": link_pb2.CHANNEL_SMS} | fields
        request = link_pb2.CreateMessageRequest(message=link_pb2.Message(**given))
        made: link_pb2.Message = await self.stub.CreateMessage(request, metadata=self.by(who))
        return made

    async def link(self, who: Person = cast.DANA, request_id: str = "", **fields: Any) -> link_pb2.Link:
        """Creates a link."""
        request = link_pb2.CreateLinkRequest(link=link_pb2.Link(**fields), request_id=request_id)
        made: link_pb2.Link = await self.stub.CreateLink(request, metadata=self.by(who))
        return made

    async def redirect(self, who: Person = cast.DANA, **fields: Any) -> link_pb2.Redirect:
        """Creates a redirect."""
        given = {"display_name": "Pay online", "target_uri": "https://pay.court.example/now"} | fields
        request = link_pb2.CreateRedirectRequest(redirect=link_pb2.Redirect(**given))
        made: link_pb2.Redirect = await self.stub.CreateRedirect(request, metadata=self.by(who))
        return made

    async def export(self, feed: link_pb2.Feed.ValueType, after: int = 0) -> list[link_pb2.DirectoryEntry]:
        """Returns every entry of an export that was complete."""
        request = link_pb2.ExportDirectoryRequest(feed=feed, after_revision=after)
        found: list[link_pb2.DirectoryEntry] = []
        complete = False
        async for part in self.stub.ExportDirectory(request, metadata=self.by("tracking")):
            found += part.entries
            complete = part.complete
        assert complete
        return found

    async def heard(self, kind: type[M], enough: Callable[[list[M]], bool]) -> list[M]:
        """Returns the events of a kind from the first on, as soon as there are enough."""
        connection = await nats.connect(self.nats_url)
        found: list[M] = []
        try:
            reader = await _reader(connection, subject_for(kind.DESCRIPTOR))
            async with asyncio.timeout(30):
                while not enough(found):
                    try:
                        messages = await reader.fetch(100, timeout=0.5)
                    except TimeoutError:
                        continue
                    found += [kind.FromString(message.data) for message in messages]
        finally:
            await connection.close()
        return found


async def _reader(connection: Any, subject: str) -> Any:
    """Returns a reader of the stream, which the process may be about to make."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await connection.jetstream().pull_subscribe(subject, stream="LINK")
            except NotFoundError:
                await asyncio.sleep(0.02)


@pytest.fixture
def auth_address() -> Address:
    """Gives where auth answers, or would."""
    return free_address()


@pytest.fixture
async def auth(database: Database, nats_url: str, keyring: Keyring, auth_address: Address) -> AsyncIterator[Any]:
    """Runs auth with the cast in it and gives its stub; asked for before `link`."""
    seed = postgres.Database(database.url("auth", "serve"), name="test")
    await seed.open()
    await add_cast(seed, "no password fits")
    await seed.close()
    process = Process("auth", auth_settings(database, nats_url, keyring, auth_address))
    await wire_auth(process)
    channel = grpc.aio.insecure_channel(str(auth_address), options=CLIENT_OPTIONS)
    yield auth_pb2_grpc.AuthServiceStub(channel)
    await channel.close()
    await process._end()


def link_settings(database: Database, nats_url: str, keyring: Keyring, auth_address: Address) -> Settings:
    """Returns the settings of a link process for a test."""
    common = keyring.settings("link")
    return Settings(
        probe_bind=common.probe_bind,
        identity_key=common.identity_key,
        identity_trust=common.identity_trust,
        log_level="warning",
        serve_database_url=database.url("link", "serve"),
        ingest_database_url=database.url("link", "ingest"),
        directory_database_url=database.url("link", "directory"),
        nats_url=nats_url,
        paging_key=keyring.paging_key,
        grpc_bind=free_address(),
        auth_address=auth_address,
        token_keys=parse_keys(TOKEN_KEY),
        public_url=PUBLIC_URL,
    )


@pytest.fixture
async def link(database: Database, nats_url: str, keyring: Keyring, auth_address: Address) -> AsyncIterator[Link]:
    """Gives a running link process that has heard of both courts, neither of which limits its hosts."""
    settings = link_settings(database, nats_url, keyring, auth_address)
    process = Process("link", settings)
    with psycopg.connect(database.admin_url, autocommit=True) as conn:
        for agency_id in (cast.FIRST_COURT, cast.OTHER_COURT):
            conn.execute("insert into link.agencies values (%s, '{}', 0)", (agency_id,))
    await wire(process)
    channel = grpc.aio.insecure_channel(str(settings.grpc_bind), options=CLIENT_OPTIONS)
    yield Link(keyring, database, nats_url, process, link_pb2_grpc.LinkServiceStub(channel))
    await channel.close()
    await process._end()


async def refusal(call: Awaitable[Any]) -> ServiceError:
    """Returns the error that a call ends with; a call that succeeds is a failure of the test."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)
