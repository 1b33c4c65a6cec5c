"""What enrichment consumes (packs of opens, agencies) and publishes (the packs, explained)."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from opennotice.auth.v1 import auth_pb2, auth_pb2_grpc
from opennotice.auth.v1 import events_pb2 as auth_events_pb2
from opennotice.enrichment.v1 import events_pb2
from opennotice.tracking.v1 import events_pb2 as tracking_events_pb2
from prometheus_client import Counter, Gauge

from services.chassis import clock, log
from services.chassis.bus import Bus, subject_for
from services.chassis.consumer import Consumer, Received
from services.chassis.dead_letters import DeadLetters
from services.chassis.errors import Faults, InvalidArgument
from services.chassis.names import new_id, parse_name, parse_uuid
from services.chassis.postgres import Database
from services.chassis.serve import Process
from services.enrichment import store
from services.enrichment.agencies import Agencies, Fetch
from services.enrichment.data_files import DataFolder
from services.enrichment.explain import KIND_WORDS, explain
from services.enrichment.store import Agency, WaitingPack
from services.enrichment.verdict import Pack

_LOG = log.get(__name__)

SCHEMA = "enrichment"
OPENS_CONSUMER = "enrichment-opens-recorded-v1"
AGENCIES_CONSUMER = "enrichment-agency-changed-v1"
# NATS takes 1 MiB; a pack grows by its reasons and names, and headers need room too.
MOST_BYTES = 900 * 1024
# As long as the streams keep events; addresses of visitors must not lie in a queue for ever.
WAITING_LIMIT = timedelta(days=14)
_LOOK_SECONDS = 2.0
_AGAIN_AT_ONCE = 20
_FIRST = (datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))

_EXPLAINED = Counter("opennotice_enrichment_opens", "opens explained, also those explained again")
_MISSING = Gauge(
    "opennotice_enrichment_ip_data_missing", "data files that are missing, of network and place for IPv4 and IPv6"
)


# An open, and what went wrong with it.
Unexplained = tuple[tracking_events_pb2.OpenRecorded, Exception]


class Explainer:
    """Explains packs with the rules and data of the moment, and publishes them."""

    def __init__(self, bus: Bus, pack: Pack, folder: DataFolder, agencies: Agencies) -> None:
        self._bus = bus
        self.pack = pack
        self.folder = folder
        self.agencies = agencies
        # Set when data came while a pack was being explained without them: nobody would look at it again.
        self.overtaken = False

    async def explained(
        self, batch_id: str, opens: Sequence[tracking_events_pb2.OpenRecorded]
    ) -> tuple[events_pb2.OpensEnriched, list[Unexplained]]:
        """Returns the explained pack, and the opens that could not be explained."""
        agency_ids = [parse_uuid(opened.agency_id) for opened in opens]
        await self.agencies.make_known({agency_id for agency_id in agency_ids if agency_id})
        now, lookup = clock.to_proto(clock.now()), self.folder.current
        assert now is not None
        enriched: list[events_pb2.OpenEnriched] = []
        unexplained: list[Unexplained] = []
        for opened, agency_id in zip(opens, agency_ids, strict=True):
            staff = self.agencies.staff_networks(agency_id or UUID(int=0))
            try:
                enriched.append(explain(opened, pack=self.pack, lookup=lookup, staff=staff, now=now))
            except Exception as error:
                # A fault of ours with this one open: the others need not wait until it is mended.
                unexplained.append((opened, error))
        _EXPLAINED.inc(len(enriched))
        return events_pb2.OpensEnriched(batch_id=batch_id, opens=enriched), unexplained

    async def publish(self, enriched: events_pb2.OpensEnriched, *, attempt: str = "") -> None:
        """Publishes a pack, in several pieces when it has grown too large; returns when NATS has it on disk."""
        for number, piece in enumerate(_pieces(enriched)):
            suffix = f"{attempt}.{number}" if number else attempt
            await self._bus.publish(piece, enriched.batch_id + suffix)


def _pieces(enriched: events_pb2.OpensEnriched) -> Iterator[events_pb2.OpensEnriched]:
    if enriched.ByteSize() <= MOST_BYTES or len(enriched.opens) == 1:
        yield enriched
        return
    half = len(enriched.opens) // 2
    for opens in (enriched.opens[:half], enriched.opens[half:]):
        yield from _pieces(events_pb2.OpensEnriched(batch_id=enriched.batch_id, opens=opens))


def needs_data(enriched: events_pb2.OpensEnriched) -> bool:
    """Whether any open of a pack lacks what missing data could tell."""
    return any(one.network_status == events_pb2.NETWORK_STATUS_UNAVAILABLE for one in enriched.opens)


def _fault(opened: tracking_events_pb2.OpenRecorded) -> InvalidArgument | None:
    """Says why nobody after us could take an open in; None when all can."""
    faults = Faults()
    if parse_uuid(opened.open_id) is None:
        faults.add("open_id", "must be a UUID")
    if parse_uuid(opened.agency_id) is None:
        faults.add("agency_id", "must be a UUID")
    if opened.kind not in KIND_WORDS:
        faults.add("kind", "must be portal, redirect or email")
    if not opened.HasField("open_time"):
        faults.add("open_time", "must be given")
    clock.checked(opened.open_time, "open_time", faults)
    try:
        faults.stop()
    except InvalidArgument as fault:
        return fault
    return None


class OpenPacks:
    """Reads packs of opens from tracking and publishes each explained, under the same batch_id."""

    def __init__(self, bus: Bus, ingest: Database, dead_letters: DeadLetters, explainer: Explainer) -> None:
        self._ingest = ingest
        self._dead_letters = dead_letters
        self._explainer = explainer
        self.consumer = Consumer(
            bus,
            stream="TRACKING",
            durable=OPENS_CONSUMER,
            message=tracking_events_pb2.OpensRecorded,
            handle=self._handle,
            dead_letters=dead_letters,
        )
        dead_letters.on_replay(OPENS_CONSUMER, tracking_events_pb2.OpenRecorded.DESCRIPTOR.full_name, self._replay)

    async def _replay(self, payload: bytes) -> None:
        """Takes in an open that had been set aside alone."""
        opened = tracking_events_pb2.OpenRecorded.FromString(payload)
        if fault := _fault(opened):
            raise fault
        await self._explain(new_id(), [opened])

    async def _handle(self, received: list[Received[tracking_events_pb2.OpensRecorded]]) -> None:
        taken = [self._take(one.message, one.attempts) for one in received]
        # All are let finish: one that still ran while the frame tries them one by one would be done twice.
        for outcome in await asyncio.gather(*taken, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    async def _take(self, pack: tracking_events_pb2.OpensRecorded, attempts: int) -> None:
        batch_id = parse_uuid(pack.batch_id)
        if batch_id is None:
            raise ValueError("batch_id is not a UUID")
        faults = [_fault(opened) for opened in pack.opens]
        good = [opened for opened, fault in zip(pack.opens, faults, strict=True) if fault is None]
        refused = [(opened, fault) for opened, fault in zip(pack.opens, faults, strict=True) if fault is not None]
        unexplained = await self._explain(batch_id, good) if good else []
        if pack.HasField("canary_time"):
            canary = events_pb2.OpensEnriched(batch_id=pack.batch_id, canary_time=pack.canary_time)
            await self._explainer.publish(canary)
        for opened, error in [*refused, *unexplained]:
            await self._dead_letters.keep(
                consumer=OPENS_CONSUMER,
                subject=subject_for(tracking_events_pb2.OpensRecorded.DESCRIPTOR),
                message_type=opened.DESCRIPTOR.full_name,
                payload=opened.SerializeToString(),
                error=error,
                attempts=attempts,
            )

    async def _explain(
        self, batch_id: UUID, opens: Sequence[tracking_events_pb2.OpenRecorded]
    ) -> Sequence[Unexplained]:
        """Publishes opens explained and returns those that cannot be; raises when none can, to be tried again."""
        generation = self._explainer.folder.generation
        enriched, unexplained = await self._explainer.explained(str(batch_id), opens)
        if not enriched.opens:
            raise unexplained[0][1]
        if needs_data(enriched):
            kept = tracking_events_pb2.OpensRecorded(batch_id=str(batch_id), opens=opens).SerializeToString()
            # Before it is published: what is lost in between would never be explained again.
            async with self._ingest.transaction() as conn:
                await store.add_waiting_pack(conn, WaitingPack(batch_id, clock.now(), kept))
            if self._explainer.folder.generation != generation:
                self._explainer.overtaken = True
        await self._explainer.publish(enriched)
        return unexplained


class Again:
    """Watches the folder of IP data, and explains waiting packs again when data came."""

    def __init__(self, ingest: Database, explainer: Explainer) -> None:
        self._ingest = ingest
        self._explainer = explainer
        self._done_with = -1

    async def run(self) -> None:
        """Looks for ever. Raises when the database or NATS is away; the frame starts it again after a pause."""
        folder = self._explainer.folder
        while True:
            await folder.refresh(clock.now())
            _MISSING.set(len(folder.current.missing))
            news = folder.generation != self._done_with or self._explainer.overtaken
            if news and folder.current.files:
                generation, self._explainer.overtaken = folder.generation, False
                await self.explain_waiting()
                self._done_with = generation
            async with self._ingest.transaction() as conn:
                forgotten = await store.delete_waiting_packs_before(conn, clock.now() - WAITING_LIMIT)
            if forgotten:
                _LOG.error("packs waited too long for IP data and stay without", packs=forgotten)
            await asyncio.sleep(_LOOK_SECONDS)

    async def explain_waiting(self) -> int:
        """Explains all waiting packs with the data of now and forgets those that lack nothing any more."""
        after, count = _FIRST, 0
        while True:
            async with self._ingest.transaction() as conn:
                waiting = await store.take_waiting_packs(conn, after, _AGAIN_AT_ONCE)
                done = [one.batch_id for one in waiting if await self._explain_one(one)]
                await store.delete_waiting_packs(conn, done)
            count += len(done)
            if not waiting:
                break
            after = (waiting[-1].receive_time, waiting[-1].batch_id)
        if count:
            _LOG.info("packs explained again", packs=count)
        return count

    async def _explain_one(self, waiting: WaitingPack) -> bool:
        pack = tracking_events_pb2.OpensRecorded.FromString(waiting.pack)
        enriched, unexplained = await self._explainer.explained(pack.batch_id, pack.opens)
        for _, error in unexplained:
            # It keeps the explanation that it has.
            _LOG.error("an open cannot be explained again", exc_info=error)
        if not enriched.opens:
            return True
        # An id of its own, or NATS would take it for the first explanation sent twice.
        moment = int(enriched.opens[0].enrich_time.ToMilliseconds())
        await self._explainer.publish(enriched, attempt=f".again-{moment}")
        return not needs_data(enriched)


class AgencyChanges:
    """Keeps the copy of the agencies' networks up to date from what auth publishes."""

    def __init__(self, bus: Bus, dead_letters: DeadLetters, agencies: Agencies) -> None:
        self._agencies = agencies
        self.consumer = Consumer(
            bus,
            stream="AUTH",
            durable=AGENCIES_CONSUMER,
            message=auth_events_pb2.AgencyChanged,
            handle=self._handle,
            dead_letters=dead_letters,
        )

    async def _handle(self, received: list[Received[auth_events_pb2.AgencyChanged]]) -> None:
        await self._agencies.save([_agency(one.message.agency) for one in received])


def _agency(agency: auth_pb2.Agency) -> Agency:
    agency_id = parse_name("agencies", agency.name)
    if agency_id is None:
        raise ValueError("the name of the agency is none")
    return Agency(agency_id, list(agency.staff_networks), agency.revision)


def fetch_from_auth(process: Process, stub: "auth_pb2_grpc.AuthServiceAsyncStub") -> Fetch:
    """Returns how the state of all agencies is asked for."""

    async def fetch() -> list[Agency]:
        call = stub.ExportAgencies(auth_pb2.ExportAgenciesRequest(), metadata=process.as_process())
        return [_agency(agency) async for agency in call]

    return fetch
