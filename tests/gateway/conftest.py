"""A whole house for the gateway: real auth, link and reporting, and the gateway itself on a port of its own.

It runs in a thread with a loop of its own, once for all tests here: tests are plain functions that speak HTTP, as
browsers and other systems do. Each test makes its own clients and links, so none depends on what another left.
"""

import asyncio
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import psycopg
import pytest
from google.protobuf.message import Message
from opennotice.auth.v1 import auth_pb2, auth_pb2_grpc
from opennotice.enrichment.v1 import events_pb2
from psycopg.rows import dict_row

import services.auth.__main__ as auth_main
import services.link.__main__ as link_main
import services.reporting.__main__ as reporting_main
from bundle.embedded import Nats
from bundle.program import free_port
from gateway.app import create_app
from gateway.clients import connect
from gateway.csrf import token_for
from gateway.settings import GatewaySettings
from services.auth.password import Hasher
from services.auth.settings import Settings as AuthSettings
from services.chassis import postgres
from services.chassis.bus import Bus
from services.chassis.serve import CLIENT_OPTIONS, Process
from services.chassis.settings import Address, ServiceSettings
from services.chassis.web import listening_socket
from services.link.settings import Settings as LinkSettings
from services.link.token import parse_keys
from services.reporting.settings import Settings as ReportingSettings
from tests.auth.conftest import PASSWORD, add_cast, email_of
from tests.cast import DANA, Person
from tests.fix_nats import running
from tests.fix_postgres import Database, _execute, as_url
from tests.fix_rpc import Keyring, free_address
from tests.reporting.sample import a_pack

SERVICES = ("auth", "link", "tracking", "enrichment", "reporting")
COOKIE_KEY = "a key of tests only, forty-three characters long"
COOKIE = "opennotice"
STUBS: dict[str, Any] = {"auth": auth_pb2_grpc.AuthServiceStub}


@dataclass
class House:
    """The running processes, and the ways in."""

    loop: asyncio.AbstractEventLoop
    keyring: Keyring
    database: Database
    address: Address
    addresses: dict[str, Address]
    channels: dict[str, grpc.aio.Channel]
    bus: Bus
    sessions: dict[str, str] = field(default_factory=dict)
    keys: dict[tuple[str, ...], str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Where the gateway answers."""
        return f"http://{self.address}"

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Runs something in the loop of the house and waits for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def stranger(self, **headers: str) -> httpx.Client:
        """Returns a client without session or key."""
        return httpx.Client(base_url=self.url, headers=headers, timeout=20)

    def session_of(self, person: Person) -> str:
        """Returns the session of a person; each signs in once, because that takes time on purpose."""
        if person.name not in self.sessions:
            self.sessions[person.name] = self.sign_in(person)
        return self.sessions[person.name]

    def sign_in(self, person: Person) -> str:
        """Opens a session of its own."""
        request = auth_pb2.SignInRequest(email=email_of(person), password=PASSWORD, source_address="127.0.0.1")
        session: auth_pb2.Session = self.ask("auth", "SignIn", request, as_process="gateway")
        return session.token

    def browser(self, person: Person, session: str = "") -> httpx.Client:
        """Returns a client as a signed-in browser has it, with the token that forms of its pages carry."""
        session = session or self.session_of(person)
        client = self.stranger(**{"x-csrf-token": self.form_token(session)})
        client.cookies.set(COOKIE, session)
        return client

    def form_token(self, session: str) -> str:
        """Returns the token that the pages of a session carry."""
        return token_for(COOKIE_KEY, session)

    def key(self, *scopes: str, by: Person = DANA) -> str:
        """Returns an API key with these scopes, of a person's agency."""
        kept = (str(by.agency_id), *scopes)
        if kept not in self.keys:
            request = auth_pb2.CreateApiKeyRequest(api_key=auth_pb2.ApiKey(display_name="test", scopes=scopes))
            self.keys[kept] = self.ask("auth", "CreateApiKey", request, by=by).secret
        return self.keys[kept]

    def api(self, *scopes: str, by: Person = DANA) -> httpx.Client:
        """Returns a client as another system has it."""
        return self.stranger(authorization=f"Bearer {self.key(*(scopes or ('all',)), by=by)}")

    def ask(
        self, service: str, method: str, request: Message, *, by: Person | None = None, as_process: str = ""
    ) -> Any:
        """Makes a call past the gateway."""
        metadata = self.keyring.as_person(by) if by else self.keyring.as_process(as_process)

        async def call() -> Any:
            stub = STUBS[service](self.channels[service])
            return await getattr(stub, method)(request, metadata=metadata)

        return self.run(call())

    def publish(self, *opens: events_pb2.OpenEnriched) -> None:
        """Sends explained opens as enrichment does."""
        pack = a_pack(opens)
        self.run(self.bus.publish(pack, pack.batch_id))

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        """Reads or changes the database past every rule, as only a test may."""
        with psycopg.connect(self.database.admin_url, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(query.encode(), values)
            return cursor.fetchall() if cursor.description else []


def until(found: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """Returns what is found as soon as it is something; never is a failure."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.05)
    pytest.fail(f"never came: {what}")


@pytest.fixture(scope="session")
def _password_hash() -> str:
    return asyncio.run(Hasher().hash(PASSWORD))


@pytest.fixture(scope="package")
def house(postgres_server: str, _template: Database, keyring: Keyring, _password_hash: str) -> Iterator[House]:
    """Gives the house."""
    name = f"opennotice_gateway_{secrets.token_hex(4)}"
    _execute(postgres_server, "create database {} template {} strategy file_copy", name, _template.name)
    database = Database(as_url(postgres_server, dbname=name), name)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    folder = Path(tempfile.mkdtemp(prefix="opennotice-tests-nats-"))
    processes: list[Process] = []
    try:
        with running(Nats(folder, free_port(), free_port(), "only-for-tests")) as nats:
            built = _build(database, nats.url, keyring, _password_hash, processes, loop)
            yield asyncio.run_coroutine_threadsafe(built, loop).result(60)
            asyncio.run_coroutine_threadsafe(_end(processes), loop).result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        _execute(postgres_server, "drop database {} with (force)", name)


async def _build(
    database: Database,
    nats_url: str,
    keyring: Keyring,
    password_hash: str,
    processes: list[Process],
    loop: asyncio.AbstractEventLoop,
) -> House:
    serve = postgres.Database(database.url("auth", "serve"), name="test")
    await serve.open()
    await add_cast(serve, password_hash)
    await serve.close()
    addresses = {service: free_address() for service in SERVICES}

    def common(service: str) -> dict[str, Any]:
        own: ServiceSettings = keyring.settings(service)
        return {
            "probe_bind": own.probe_bind,
            "identity_key": own.identity_key,
            "identity_trust": own.identity_trust,
            "log_level": "warning",
        }

    def stored(service: str) -> dict[str, Any]:
        return common(service) | {
            "serve_database_url": database.url(service, "serve"),
            "ingest_database_url": database.url(service, "ingest"),
            "nats_url": nats_url,
            "paging_key": keyring.paging_key,
            "grpc_bind": addresses[service],
        }

    auth = AuthSettings(**stored("auth"), directory_database_url=database.url("auth", "directory"))
    link = LinkSettings(
        **stored("link"),
        directory_database_url=database.url("link", "directory"),
        auth_address=addresses["auth"],
        token_keys=parse_keys(secrets.token_urlsafe(32)),
    )
    reporting = ReportingSettings(
        **stored("reporting"),
        directory_database_url=database.url("reporting", "directory"),
        auth_address=addresses["auth"],
        link_address=addresses["link"],
    )
    for service, settings, wire in (
        ("auth", auth, auth_main.wire),
        ("link", link, link_main.wire),
        ("reporting", reporting, reporting_main.wire),
    ):
        process = Process(service, settings)
        processes.append(process)
        await wire(process)
    gateway = Process("gateway", keyring.settings("gateway"))
    processes.append(gateway)
    channels = {service: gateway.channel(addresses[service]) for service in SERVICES}
    app = create_app(gateway_settings(keyring), connect(**channels, signer=gateway.signer), gateway.checker)
    listener = listening_socket("127.0.0.1", 0)
    gateway.serve_web(app, [listener], drain_seconds=1)
    publisher = Process("enrichment", keyring.settings("enrichment"))
    processes.append(publisher)
    bus = publisher.bus(nats_url, streams=["ENRICHMENT"])
    await bus.connected()
    address = Address("127.0.0.1", listener.getsockname()[1])
    outside = {
        service: grpc.aio.insecure_channel(str(addresses[service]), options=CLIENT_OPTIONS) for service in SERVICES
    }
    for channel in outside.values():
        gateway.on_close(channel.close)
    return House(loop, keyring, database, address, addresses, outside, bus)


async def _end(processes: list[Process]) -> None:
    for process in reversed(processes):
        await process._end()


def gateway_settings(keyring: Keyring, **changes: Any) -> GatewaySettings:
    """Returns the settings of a gateway on loopback."""
    own = keyring.settings("gateway")
    values: dict[str, Any] = {
        "probe_bind": own.probe_bind,
        "identity_key": own.identity_key,
        "identity_trust": own.identity_trust,
        "cookie_key": COOKIE_KEY,
    }
    return GatewaySettings(**(values | changes))


def make_client(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    """Creates a client over the API."""
    answer = http.post("/api/v1/clients", json={"display_name": "Ana Rivera"} | fields)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def make_portal(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    """Creates a hosted portal over the API."""
    body = {
        "display_name": "Hearing details",
        "kind": "hosted",
        "pages": [{"slug": "hearing", "title": "Your hearing", "markdown": "Bring this letter."}],
    }
    answer = http.post("/api/v1/portals", json=body | fields)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def make_link(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    """Creates a link over the API."""
    answer = http.post("/api/v1/links", json=fields)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made
