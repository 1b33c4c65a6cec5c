"""Auth as it runs: wired by its own __main__, on a real database and a real NATS, with the cast in it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import grpc
import psycopg
import pytest
from opennotice.auth.v1 import auth_pb2, auth_pb2_grpc
from opennotice.identity.v1 import identity_pb2_grpc
from psycopg.rows import dict_row

from services.auth import store, text
from services.auth.__main__ import wire
from services.auth.account import User
from services.auth.agency import Agency
from services.auth.password import Hasher
from services.auth.permission import Role
from services.auth.settings import Settings
from services.chassis import clock, postgres
from services.chassis.errors import ServiceError, from_rpc_error
from services.chassis.serve import CLIENT_OPTIONS, Process
from services.chassis.settings import Address
from tests import cast
from tests.cast import Person
from tests.fix_postgres import Database
from tests.fix_rpc import Keyring, Metadata, free_address

PASSWORD = "seven quiet herons by the mill"


def email_of(person: Person) -> str:
    """Returns the address a person of the cast signs in with."""
    return f"{person.display_name.split()[0].lower()}@court.example"


def id_of(person: Person) -> UUID:
    """Returns the id in a person's name."""
    return UUID(person.name.removeprefix("users/"))


@pytest.fixture(scope="session")
def password_hash() -> str:
    """Gives the stored form of PASSWORD; made once, because making one takes its time on purpose."""
    return asyncio.run(Hasher().hash(PASSWORD))


async def add_cast(serve: postgres.Database, password_hash: str) -> None:
    """Adds both courts and everybody who works there."""
    for agency_id, name in ((cast.FIRST_COURT, "First Court"), (cast.OTHER_COURT, "Other Court")):
        async with serve.transaction(agency_id) as conn:
            await store.add_agency(conn, Agency(agency_id, name, "America/New_York", [], [], clock.now(), 1))
    for person in cast.EVERYBODY:
        user = User(
            user_id=id_of(person),
            agency_id=person.agency_id,
            email=email_of(person),
            display_name=person.display_name,
            role=Role(person.role),
            disabled=False,
            password_hash=password_hash,
            lock_time=None,
            sign_in_time=None,
            create_time=clock.now(),
            revision=1,
        )
        async with serve.transaction(person.agency_id) as conn:
            await store.add_user(conn, user, text.email_key(user.email))


@pytest.fixture
async def serve(database: Database) -> AsyncIterator[postgres.Database]:
    """Gives the database as the role that answers calls, empty."""
    opened = postgres.Database(database.url("auth", "serve"), name="test")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def ingest(database: Database) -> AsyncIterator[postgres.Database]:
    """Gives the database as the role of consumers."""
    opened = postgres.Database(database.url("auth", "ingest"), name="test")
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def directory(database: Database) -> AsyncIterator[postgres.Database]:
    """Gives the database as the role that looks across agencies."""
    opened = postgres.Database(database.url("auth", "directory"), name="test")
    await opened.open()
    yield opened
    await opened.close()


@dataclass(frozen=True)
class Auth:
    """A running auth process and the ways to reach it."""

    keyring: Keyring
    database: Database
    channel: grpc.aio.Channel

    @property
    def stub(self) -> Any:
        """The stub of AuthService."""
        return auth_pb2_grpc.AuthServiceStub(self.channel)

    @property
    def identities(self) -> Any:
        """The stub of IdentityService."""
        return identity_pb2_grpc.IdentityServiceStub(self.channel)

    def by(self, who: Person | str) -> Metadata:
        """Returns the metadata of a call by a person or a process."""
        return self.keyring.as_person(who) if isinstance(who, Person) else self.keyring.as_process(who)

    async def sign_in(self, email: str, password: str = PASSWORD) -> auth_pb2.Session:
        """Signs in as the gateway does it."""
        request = auth_pb2.SignInRequest(email=email, password=password, source_address="192.0.2.7")
        session: auth_pb2.Session = await self.stub.SignIn(request, metadata=self.by("gateway"))
        return session

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """Reads, or changes, the database past every rule, as only a test may."""
        with psycopg.connect(self.database.admin_url, autocommit=True, row_factory=dict_row) as conn:
            cursor = conn.execute(query.encode(), values)
            return cursor.fetchall() if cursor.description else []


def auth_settings(database: Database, nats_url: str, keyring: Keyring, grpc_bind: Address) -> Settings:
    """Returns the settings of an auth process for a test."""
    common = keyring.settings("auth")
    return Settings(
        probe_bind=common.probe_bind,
        identity_key=common.identity_key,
        identity_trust=common.identity_trust,
        log_level="warning",
        serve_database_url=database.url("auth", "serve"),
        ingest_database_url=database.url("auth", "ingest"),
        directory_database_url=database.url("auth", "directory"),
        nats_url=nats_url,
        paging_key=keyring.paging_key,
        grpc_bind=grpc_bind,
    )


@pytest.fixture
async def auth(
    database: Database, nats_url: str, keyring: Keyring, serve: postgres.Database, password_hash: str
) -> AsyncIterator[Auth]:
    """Gives a running auth process with the cast in it."""
    await add_cast(serve, password_hash)
    settings = auth_settings(database, nats_url, keyring, free_address())
    process = Process("auth", settings)
    await wire(process)
    channel = grpc.aio.insecure_channel(str(settings.grpc_bind), options=CLIENT_OPTIONS)
    yield Auth(keyring, database, channel)
    await channel.close()
    await process._end()


async def refusal(call: Any) -> ServiceError:
    """Returns the error that a call ends with; a call that succeeds is a failure of the test."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)
