"""Starts tracking: constructs everything and hands it to the frame.

Nothing here waits for PostgreSQL, NATS or another service: visitors are answered from the first moment.
"""

import asyncio
import socket

from opennotice.link.v1 import link_pb2_grpc
from opennotice.reporting.v1 import reporting_pb2_grpc
from opennotice.tracking.v1 import tracking_pb2, tracking_pb2_grpc

from services.chassis import clock
from services.chassis.bus import Bus
from services.chassis.outbox import Relay
from services.chassis.serve import Process, StartFault, run
from services.chassis.settings import load_or_exit
from services.chassis.web import listening_socket
from services.tracking import folder
from services.tracking.directory import Directory
from services.tracking.edge import Edge
from services.tracking.events import DirectoryFeed, Report, Resolver
from services.tracking.mover import Mover
from services.tracking.reconciler import Reconciler
from services.tracking.recorder import PACK_SUBJECT, PACK_TYPE, Recorder, together
from services.tracking.request import AddressRule, HostRule
from services.tracking.rpc import TrackingService
from services.tracking.server import PublicServer, Waker
from services.tracking.settings import Settings
from services.tracking.spool import Spool
from services.tracking.upkeep import Upkeep
from services.tracking.writer import Writer

SCHEMA = "tracking"


def public_socket(settings: Settings) -> socket.socket:
    """Returns the listening socket: the inherited one, which stays open across our restarts, or one of our own."""
    if settings.public_socket_fd is not None:
        listener = socket.socket(fileno=settings.public_socket_fd)
        listener.setblocking(False)
        return listener
    try:
        return listening_socket(settings.public_bind.host, settings.public_bind.port)
    except OSError as error:
        raise StartFault(f"cannot listen on {settings.public_bind}: {error.strerror}") from None


async def wire(process: Process) -> None:
    """Builds the service."""
    settings = process.settings
    assert isinstance(settings, Settings)
    await folder.take(settings.data_dir)
    listener = public_socket(settings)

    ingest = await process.database(settings.ingest_database_url, most=4)
    # Made here and not by process.bus(): NATS being away must not make the edge "not ready".
    bus = Bus(settings.nats_url, "opennotice-tracking", ["LINK", "TRACKING"])
    process.on_close(bus.close)
    relay = Relay(ingest, bus, SCHEMA, arrange=together)

    directory, spool = Directory(settings.data_dir), Spool(settings.data_dir)
    await asyncio.gather(directory.open(), spool.open())
    process.on_close(directory.close)
    process.on_close(spool.close)
    recorder = Recorder(settings.ingest_database_url, spool, Waker(relay).wake)
    process.on_close(recorder.close)

    link = link_pb2_grpc.LinkServiceStub(process.channel(settings.link_address))
    feed = DirectoryFeed(directory, bus, link, process.as_process)
    resolver = Resolver(directory, link, process.as_process)
    feed.on_change.append(resolver.forget_unknown)

    edge = Edge(
        directory=directory,
        resolver=resolver,
        recorder=recorder,
        is_stale=lambda: feed.is_stale,
        hosts=HostRule(settings.public_url),
        addresses=AddressRule(settings.trusted_proxies),
    )
    server = PublicServer(edge.answer, listener)
    process.on_close(server.close)
    await server.start()

    writer = Writer(settings.ingest_database_url, PACK_SUBJECT, PACK_TYPE)
    mover = Mover(recorder, writer, process.dead_letters(ingest, SCHEMA))
    upkeep = Upkeep(ingest, relay.wake)
    reporting = reporting_pb2_grpc.ReportingServiceStub(process.channel(settings.reporting_address))
    reconciler = Reconciler(ingest, bus, Report(reporting, process.as_process), relay.wake)
    process.add_loop("bus", bus.run)
    process.add_loop("directory", feed.run)
    process.add_loop("relay", relay.run)
    process.add_loop("mover", mover.run)
    process.add_loop("spool-probe", mover.probe)
    process.add_loop("upkeep", upkeep.run)
    process.add_loop("reconciler", reconciler.run)
    process.add_check("opens", recorder.check)

    service = TrackingService(
        directory=directory,
        recorder=recorder,
        is_stale=lambda: feed.is_stale,
        upkeep=upkeep,
        start_time=clock.now(),
    )
    descriptor = tracking_pb2.DESCRIPTOR.services_by_name["TrackingService"]
    process.add_servicer(tracking_pb2_grpc.add_TrackingServiceServicer_to_server, service, descriptor)
    await process.serve_calls(settings.grpc_bind, process.exchange_at(settings.auth_address))


if __name__ == "__main__":
    run("tracking", load_or_exit(Settings), wire)
