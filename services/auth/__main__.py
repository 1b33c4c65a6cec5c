"""Starts auth: constructs everything and hands it to the frame."""

from datetime import timedelta

from opennotice.auth.v1 import auth_pb2, auth_pb2_grpc
from opennotice.identity.v1 import identity_pb2, identity_pb2_grpc

from services.auth import purge
from services.auth.credential import Credentials
from services.auth.events import SCHEMA, LinkActions
from services.auth.password import Hasher
from services.auth.registrar import Registrar
from services.auth.rpc import AuthService, IdentityService
from services.auth.settings import Settings
from services.auth.sign_in import Doorkeeper
from services.chassis.outbox import Relay
from services.chassis.paging import Pages
from services.chassis.serve import Process, answers, run
from services.chassis.settings import load_or_exit

# As long as the stream keeps an event, so that a lost stream can be filled again.
_KEEP_EVENTS = timedelta(days=14)


async def wire(process: Process) -> None:
    """Builds the service."""
    settings = process.settings
    assert isinstance(settings, Settings)
    serve = await process.database(settings.serve_database_url)
    ingest = await process.database(settings.ingest_database_url, most=4)
    directory = await process.database(settings.directory_database_url, most=4)
    await process.schema(serve, SCHEMA)
    bus = process.bus(settings.nats_url, streams=["AUTH", "LINK"])
    relay = Relay(ingest, bus, SCHEMA, keep=_KEEP_EVENTS)
    credentials = Credentials(serve, directory, process.signer)
    hasher = Hasher()
    auth = AuthService(
        serve=serve,
        directory=directory,
        doorkeeper=Doorkeeper(serve, directory, hasher),
        registrar=Registrar(serve, hasher, relay.wake),
        pages=Pages(settings.paging_key),
    )
    process.add_servicer(
        auth_pb2_grpc.add_AuthServiceServicer_to_server, auth, auth_pb2.DESCRIPTOR.services_by_name["AuthService"]
    )
    process.add_servicer(
        identity_pb2_grpc.add_IdentityServiceServicer_to_server,
        IdentityService(credentials),
        identity_pb2.DESCRIPTOR.services_by_name["IdentityService"],
    )
    process.add_loop("relay", relay.run)
    process.add_loop("link-actions", LinkActions(ingest, bus, process.dead_letters(ingest, SCHEMA)).run)
    process.add_loop("purge", lambda: purge.run(ingest))
    process.add_check("postgres", answers(serve))
    await process.serve_calls(settings.grpc_bind, credentials.exchange)


if __name__ == "__main__":
    run("auth", load_or_exit(Settings), wire)
