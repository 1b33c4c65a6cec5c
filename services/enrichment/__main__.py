"""Starts enrichment: constructs everything and hands it to the frame."""

import os
from pathlib import Path

from opennotice.auth.v1 import auth_pb2_grpc
from opennotice.enrichment.v1 import enrichment_pb2, enrichment_pb2_grpc

from services.chassis import clock, log
from services.chassis.serve import Process, StartFault, answers, run
from services.chassis.settings import load_or_exit
from services.enrichment import device, network, verdict
from services.enrichment.agencies import Agencies
from services.enrichment.data_files import DataFolder
from services.enrichment.events import SCHEMA, Again, AgencyChanges, Explainer, OpenPacks, fetch_from_auth
from services.enrichment.rpc import EnrichmentService
from services.enrichment.settings import Settings

_LOG = log.get(__name__)


def tell_of_folder(folder: Path | None) -> None:
    """Says why a folder that was given holds no IP data; opens go on without, and it is looked at again."""
    try:
        if folder is not None:
            os.listdir(folder)
    except OSError as error:
        _LOG.error("OPENNOTICE_IP_DATA_DIR cannot be read; opens go on without IP data", problem=error.strerror)


async def wire(process: Process) -> None:
    """Builds the service."""
    settings = process.settings
    assert isinstance(settings, Settings)
    try:
        device.require_fast_parser()
        pack = verdict.load()
        table = network.load_table()
    except (device.SlowParser, verdict.PackFault, network.TableFault) as fault:
        raise StartFault(str(fault)) from fault
    serve = await process.database(settings.serve_database_url, most=4)
    ingest = await process.database(settings.ingest_database_url)
    tell_of_folder(settings.ip_data_dir)
    folder = DataFolder(settings.ip_data_dir, settings.ip_data_most_mib << 20, table)
    # Before the first open is read, so that a restart does not explain any of them without data that are there.
    await folder.refresh(clock.now())
    await process.schema(serve, SCHEMA)
    bus = process.bus(settings.nats_url, streams=["AUTH", "ENRICHMENT", "TRACKING"])
    auth = auth_pb2_grpc.AuthServiceStub(process.channel(settings.auth_address))
    agencies = Agencies(ingest, fetch_from_auth(process, auth))
    await agencies.load()
    dead_letters = process.dead_letters(ingest, SCHEMA)
    explainer = Explainer(bus, pack, folder, agencies)
    process.add_servicer(
        enrichment_pb2_grpc.add_EnrichmentServiceServicer_to_server,
        EnrichmentService(serve, pack, folder),
        enrichment_pb2.DESCRIPTOR.services_by_name["EnrichmentService"],
    )
    process.add_loop("agencies", agencies.run)
    process.add_loop("agency-changes", AgencyChanges(bus, dead_letters, agencies).consumer.run)
    process.add_loop("opens", OpenPacks(bus, ingest, dead_letters, explainer).consumer.run)
    process.add_loop("data-files", Again(ingest, explainer).run)
    process.add_check("postgres", answers(ingest))
    await process.serve_calls(settings.grpc_bind, process.exchange_at(settings.auth_address))


if __name__ == "__main__":
    run("enrichment", load_or_exit(Settings), wire)
