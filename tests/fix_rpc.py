"""Real stubs against real servicers behind the real frame, on free ports; and keys for every issuer."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from cryptography.fernet import Fernet
from google.protobuf.descriptor import ServiceDescriptor
from joserfc.jwk import KeySet, OKPKey

from bundle.program import free_port
from services.chassis.errors import Unauthenticated
from services.chassis.identity import IDENTITY_METADATA, Checker, Exchange, Signer
from services.chassis.serve import CLIENT_OPTIONS, Process
from services.chassis.settings import Address, ServiceSettings
from tests.cast import Person

ISSUERS = ("auth", "enrichment", "gateway", "host", "link", "reporting", "tracking")
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Keyring:
    """A key pair for every issuer, as a home of the product holds them."""

    private_pem: dict[str, str]
    trust: str
    paging_key: str

    def signer(self, issuer: str) -> Signer:
        """Returns the signer of one issuer."""
        return Signer(issuer, self.private_pem[issuer])

    def checker(self) -> Checker:
        """Returns a checker that trusts all of them."""
        return Checker(self.trust)

    def settings(self, issuer: str) -> ServiceSettings:
        """Returns what every process needs, on a free port for its probes."""
        return ServiceSettings(
            probe_bind=free_address(),
            identity_key=self.private_pem[issuer],
            identity_trust=self.trust,
            log_level="warning",
        )

    def identity(self, person: Person) -> str:
        """Returns a signed identity of a person, as auth issues it."""
        return self.signer("auth").sign(
            subject=person.name,
            display_name=person.display_name,
            agency_id=person.agency_id,
            role=person.role,
            permissions=person.permissions,
            own_clients_only=person.own_clients_only,
            source_address="192.0.2.10",
        )[0]

    def as_person(self, person: Person) -> Metadata:
        """Returns the metadata of a call by a person, as the gateway forwards it."""
        return ((IDENTITY_METADATA, self.identity(person)),)

    def as_process(self, name: str) -> Metadata:
        """Returns the metadata of a call that a process makes for itself."""
        return ((IDENTITY_METADATA, self.signer(name).as_process()),)


def free_address() -> Address:
    """Returns a loopback port that nobody listens on."""
    return Address("127.0.0.1", free_port())


@pytest.fixture(scope="session")
def keyring() -> Keyring:
    """Gives keys for every issuer."""
    keys = {issuer: OKPKey.generate_key("Ed25519", parameters={"kid": issuer}) for issuer in ISSUERS}
    return Keyring(
        private_pem={issuer: key.as_pem(private=True).decode() for issuer, key in keys.items()},
        trust=json.dumps(KeySet(list(keys.values())).as_dict(private=False)),
        paging_key=Fernet.generate_key().decode(),
    )


async def _no_credentials(_credential: str, _source_address: str) -> str:
    raise Unauthenticated("CREDENTIAL_UNKNOWN", "the credential is not known")


MakeProcess = Callable[[str], Awaitable[Process]]
ServeRpc = Callable[..., Awaitable[grpc.aio.Channel]]


@pytest.fixture
async def make_process(keyring: Keyring) -> AsyncIterator[MakeProcess]:
    """Gives a function that makes a process of the frame, to be wired as its `__main__` does; all end with the test."""
    made: list[Process] = []

    async def make(name: str) -> Process:
        process = Process(name, keyring.settings(name))
        made.append(process)
        return process

    yield make
    for process in reversed(made):
        await process._end()


@pytest.fixture
async def serve_rpc(make_process: MakeProcess) -> AsyncIterator[ServeRpc]:
    """Gives a function that serves a servicer behind the frame and returns a channel to it.

    `await serve_rpc("link", add_LinkServiceServicer_to_server, servicer, descriptor, exchange=…, process=…)`
    """
    channels: list[grpc.aio.Channel] = []

    async def serve(
        name: str,
        add: Callable[[Any, Any], None],
        servicer: Any,
        descriptor: ServiceDescriptor,
        *,
        exchange: Exchange = _no_credentials,
        process: Process | None = None,
    ) -> grpc.aio.Channel:
        process = process or await make_process(name)
        process.add_servicer(add, servicer, descriptor)
        bind = free_address()
        await process.serve_calls(bind, exchange)
        channel = grpc.aio.insecure_channel(str(bind), options=CLIENT_OPTIONS)
        channels.append(channel)
        return channel

    yield serve
    for channel in channels:
        await channel.close()
