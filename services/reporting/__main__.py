"""Starts reporting: constructs everything and hands it to the frame."""

from collections.abc import AsyncIterator
from functools import partial

from opennotice.enrichment.v1 import events_pb2 as enrichment_pb2
from opennotice.link.v1 import events_pb2 as link_events_pb2
from opennotice.link.v1 import link_pb2, link_pb2_grpc
from opennotice.reporting.v1 import reporting_pb2, reporting_pb2_grpc

from services.chassis import clock
from services.chassis.bus import Bus
from services.chassis.consumer import Consumer
from services.chassis.paging import Pages
from services.chassis.postgres import Database
from services.chassis.serve import Process, answers, run
from services.chassis.settings import load_or_exit
from services.reporting import partitions
from services.reporting.arrivals.events import ARRIVED_SUBJECT, CONSUMER, Announcer, Arrivals
from services.reporting.canary import CanaryWatch
from services.reporting.copies.events import CONSUMERS, FEEDS, Copies, Export
from services.reporting.rpc import ReportingService
from services.reporting.settings import Settings
from services.reporting.watch import Watchers

SCHEMA = "reporting"


def export_of(process: Process, stub: "link_pb2_grpc.LinkServiceAsyncStub") -> Export:
    """Returns how the directory of link is asked for, as this process."""

    async def export(request: link_pb2.ExportDirectoryRequest) -> AsyncIterator[link_pb2.DirectoryEntries]:
        async for part in stub.ExportDirectory(request, metadata=process.as_process()):
            yield part

    return export


def read_events(process: Process, ingest: Database, bus: Bus, link: "link_pb2_grpc.LinkServiceAsyncStub") -> None:
    """Adds the loops that take in opens and copies."""
    dead_letters = process.dead_letters(ingest, SCHEMA)
    arrivals = Arrivals(ingest, dead_letters, Announcer(bus))
    copies = Copies(ingest, export_of(process, link), dead_letters)
    opens = Consumer(
        bus,
        stream="ENRICHMENT",
        durable=CONSUMER,
        message=enrichment_pb2.OpensEnriched,
        handle=arrivals.take,
        dead_letters=dead_letters,
    )
    directory = Consumer(
        bus,
        stream="LINK",
        durable=CONSUMERS["visitors"],
        message=link_events_pb2.DirectoryChanged,
        handle=copies.take_visitors,
        dead_letters=dead_letters,
    )
    people = Consumer(
        bus,
        stream="LINK",
        durable=CONSUMERS["people"],
        message=link_events_pb2.PeopleChanged,
        handle=copies.take_people,
        dead_letters=dead_letters,
    )
    process.add_loop("opens", opens.run)
    process.add_loop("directory", directory.run)
    process.add_loop("people", people.run)
    for feed in FEEDS:
        process.add_loop(f"copy-{feed}", partial(copies.repair, feed))


async def wire(process: Process) -> None:
    """Builds the service."""
    settings = process.settings
    assert isinstance(settings, Settings)
    serve = await process.database(settings.serve_database_url)
    ingest = await process.database(settings.ingest_database_url, most=6)
    directory = await process.database(settings.directory_database_url, most=2)
    await process.schema(serve, SCHEMA)
    bus = process.bus(settings.nats_url, streams=["ENRICHMENT", "LINK"])
    link = link_pb2_grpc.LinkServiceStub(process.channel(settings.link_address))
    read_events(process, ingest, bus, link)
    watchers = Watchers(bus, ARRIVED_SUBJECT)
    service = ReportingService(
        process, serve, directory, Pages(settings.paging_key), watchers, process.channel(settings.auth_address)
    )
    process.add_servicer(
        reporting_pb2_grpc.add_ReportingServiceServicer_to_server,
        service,
        reporting_pb2.DESCRIPTOR.services_by_name["ReportingService"],
    )
    process.add_loop("watchers", watchers.run)
    process.add_loop("canary", CanaryWatch(ingest, clock.now).run)
    process.add_loop("partitions", partial(partitions.run, ingest, clock.now))
    process.add_check("postgres", answers(serve))
    await process.serve_calls(settings.grpc_bind, process.exchange_at(settings.auth_address))


if __name__ == "__main__":
    run("reporting", load_or_exit(Settings), wire)
