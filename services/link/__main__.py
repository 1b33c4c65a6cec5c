"""Starts link: constructs everything and hands it to the frame."""

from datetime import timedelta

from opennotice.auth.v1 import auth_pb2_grpc
from opennotice.auth.v1 import events_pb2 as auth_events_pb2
from opennotice.link.v1 import link_pb2, link_pb2_grpc

from services.chassis.consumer import Consumer
from services.chassis.outbox import Relay
from services.chassis.paging import Pages
from services.chassis.serve import Process, answers, run
from services.chassis.settings import load_or_exit
from services.link.events import SCHEMA, Agencies
from services.link.rpc.desk import Desk
from services.link.rpc.service import LinkService
from services.link.settings import Settings

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
    auth = auth_pb2_grpc.AuthServiceStub(process.channel(settings.auth_address))
    hosts = Agencies(ingest, relay, auth, process.as_process)
    desk = Desk(
        serve=serve,
        directory=directory,
        relay=relay,
        pages=Pages(settings.paging_key),
        keys=settings.token_keys,
        public_url=settings.public_url,
        hosts=hosts,
        auth=auth,
        as_process=process.as_process,
    )
    process.add_servicer(
        link_pb2_grpc.add_LinkServiceServicer_to_server,
        LinkService(desk),
        link_pb2.DESCRIPTOR.services_by_name["LinkService"],
    )
    agencies_changed = Consumer(
        bus,
        stream="AUTH",
        durable="link-agency-changed-v1",
        message=auth_events_pb2.AgencyChanged,
        handle=hosts.take_events,
        dead_letters=process.dead_letters(ingest, SCHEMA),
    )
    process.add_loop("relay", relay.run)
    process.add_loop("agencies", hosts.load)
    process.add_loop("agencies-changed", agencies_changed.run)
    process.add_check("postgres", answers(serve))
    await process.serve_calls(settings.grpc_bind, process.exchange_at(settings.auth_address))


if __name__ == "__main__":
    run("link", load_or_exit(Settings), wire)
