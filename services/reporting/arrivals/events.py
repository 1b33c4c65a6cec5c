"""Takes in explained opens: each once, whatever comes again, and tells the watchers what is new."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from uuid import UUID, uuid4

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from nats.errors import Error as NatsError
from opennotice.enrichment.v1 import events_pb2
from opennotice.link.v1 import link_pb2
from opennotice.reporting.v1 import reporting_pb2
from opennotice.tracking.v1 import events_pb2 as tracking_pb2

from services.chassis import clock, log
from services.chassis.bus import Bus
from services.chassis.clock import checked
from services.chassis.consumer import Received, is_passing
from services.chassis.dead_letters import DeadLetters
from services.chassis.errors import Faults, Unavailable
from services.chassis.names import millisecond_of, parse_uuid
from services.chassis.postgres import Connection, Database
from services.reporting.arrivals import store
from services.reporting.opens import key_of, read_address

_LOG = log.get(__name__)

CONSUMER = "reporting-opens-enriched-v1"
# Plain NATS without a stream: it only says "look", to every replica that is there now.
ARRIVED_SUBJECT = "opennotice.reporting.v1.opens-arrived"
_IDS_IN_A_NOTICE = 500
_NETWORK_LIMIT = 500
# Kept here, because an enum makes the list of its values anew each time that it is asked.
_KINDS, _STATES, _DEVICES, _VERDICTS = (
    frozenset(enum.values()) - {0}
    for enum in (tracking_pb2.OpenKind, link_pb2.LinkState, events_pb2.Device, events_pb2.Verdict)
)


def read_open(item: events_pb2.OpenEnriched) -> store.NewOpen:
    """Returns an open as it is stored; raises ValueError for one that cannot be right."""
    seen = item.open
    open_id = parse_uuid(seen.open_id)
    key = key_of(open_id) if open_id else None
    if key is None:
        raise ValueError("open_id is not a UUIDv7")
    # The key of an open is its time and its id; an open is found again by its id alone because that tells the time.
    if not seen.HasField("open_time") or not _is_at(seen.open_time, millisecond_of(key.open_id)):
        raise ValueError("open_time is not the instant in open_id")
    enrich_time = checked(item.enrich_time, "enrich_time", Faults()) if item.HasField("enrich_time") else None
    if enrich_time is None:
        raise ValueError("enrich_time is missing or out of range")
    for name, known, value in (
        ("OpenKind", _KINDS, seen.kind),
        ("LinkState", _STATES, seen.link_state),
        ("Device", _DEVICES, item.device),
        ("Verdict", _VERDICTS, item.verdict),
    ):
        if value not in known:
            raise ValueError(f"{name} {value} is not known")
    return store.NewOpen(
        opened_at=key.opened_at,
        open_id=key.open_id,
        agency_id=_needed(seen.agency_id, "agency_id"),
        client_id=_optional(seen.client_id, "client_id"),
        portal_id=_optional(seen.portal_id, "portal_id"),
        link_id=_needed(seen.link_id, "link_id"),
        message_id=_optional(seen.message_id, "message_id"),
        kind=seen.kind,
        device=item.device,
        link_state=seen.link_state,
        verdict=item.verdict,
        asn=item.asn,
        network=item.network.replace("\0", "")[:_NETWORK_LIMIT],
        ip_address=read_address(seen.ip_address),
        listed=_listed(item).SerializeToString(),
        record=item.SerializeToString(),
        enrich_time=enrich_time,
    )


def _is_at(stamp: Timestamp, milliseconds: int) -> bool:
    return stamp.seconds * 1_000_000_000 + stamp.nanos == milliseconds * 1_000_000


def _needed(text: str, field: str) -> UUID:
    found = _optional(text, field)
    if found is None:
        raise ValueError(f"{field} is missing")
    return found


# The same few agencies, portals and clients come again and again.
@lru_cache(maxsize=4096)
def _optional(text: str, field: str) -> UUID | None:
    found = parse_uuid(text)
    if text and found is None:
        raise ValueError(f"{field} is not a UUID")
    return found


def _listed(item: events_pb2.OpenEnriched) -> reporting_pb2.Open:
    """Returns an open as lists show it, but for the names, which may change."""
    seen = item.open
    is_redirect = seen.kind == tracking_pb2.OPEN_KIND_REDIRECT
    return reporting_pb2.Open(
        name=f"opens/{seen.open_id}",
        open_time=seen.open_time,
        client=f"clients/{seen.client_id}" if seen.client_id else "",
        portal=f"portals/{seen.portal_id}" if seen.portal_id else "",
        page=seen.page,
        kind=seen.kind,
        device=item.device,
        browser=f"{item.browser} {item.browser_version}".strip(),
        os=f"{item.os} {item.os_version}".strip(),
        ip_address=seen.ip_address,
        network=item.network,
        asn=item.asn,
        country=item.country,
        region=item.region,
        city=item.city,
        link_state=seen.link_state,
        verdict=item.verdict,
        reasons=[reason.code for reason in item.reasons],
        referrer=seen.referrer,
        language=item.language,
        message=f"messages/{seen.message_id}" if seen.message_id else "",
        link=f"{'redirects' if is_redirect else 'links'}/{seen.link_id}",
        user_agent=seen.user_agent,
    )


class Announcer:
    """Tells every replica which opens became searchable."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        # Counted, so that a listener knows when it missed a notice: plain NATS forgets what it could not deliver.
        self._source = uuid4().hex
        self._number = 0

    async def announce(self, keys_of: dict[UUID, list[UUID]]) -> None:
        """Tells the ids of new opens by agency. Only after the commit; it never fails the one who committed."""
        for agency_id, ids in keys_of.items():
            for begin in range(0, len(ids), _IDS_IN_A_NOTICE):
                self._number += 1
                some = [one.hex for one in ids[begin : begin + _IDS_IN_A_NOTICE]]
                notice = {"source": self._source, "number": self._number, "agency": agency_id.hex, "opens": some}
                try:
                    await self._bus.client.publish(ARRIVED_SUBJECT, json.dumps(notice).encode())
                except (NatsError, Unavailable) as error:
                    _LOG.warning("watchers were not told", error=type(error).__name__)


class Arrivals:
    """Takes in what enrichment publishes."""

    def __init__(self, database: Database, dead_letters: DeadLetters, announcer: Announcer) -> None:
        self._database = database
        self._dead_letters = dead_letters
        self._announcer = announcer
        dead_letters.on_replay(CONSUMER, events_pb2.OpenEnriched.DESCRIPTOR.full_name, self._replay)

    async def _replay(self, payload: bytes) -> None:
        """Takes in an open that had been set aside alone; raises when it still cannot be."""
        found = read_open(events_pb2.OpenEnriched.FromString(payload))
        if await self._store([found], None):
            raise _Contradiction

    async def take(self, received: Sequence[Received[events_pb2.OpensEnriched]]) -> None:
        """Stores every open of some packs, commits and tells the watchers; then a bad open is kept aside alone."""
        refused: list[tuple[events_pb2.OpenEnriched, Exception]] = []
        opens: list[store.NewOpen] = []
        for item in (item for one in received for item in one.message.opens):
            try:
                opens.append(read_open(item))
            except ValueError as error:
                refused.append((item, error))
        messages = [one.message for one in received]
        canaries = [clock.from_proto(one.canary_time) for one in messages if one.HasField("canary_time")]
        canary = max(canaries, default=None)
        try:
            again = await self._store(opens, canary)
        except Exception as error:
            # Several packs are tried one by one by the frame; only then is it known whose fault it was.
            if is_passing(error) or len(received) > 1 or len(opens) < 2:
                raise
            again, misfits = await self._store_each(opens, canary)
            refused += misfits
        refused += [(_parsed(one.record), _Contradiction()) for one in again]
        if refused:
            # All or none: the packs come again when one cannot be kept, and the others would be kept twice.
            async with self._database.transaction() as conn:
                for item, fault in refused:
                    await self._keep(conn, item, fault)

    async def _store(self, opens: Sequence[store.NewOpen], canary: datetime | None) -> list[store.NewOpen]:
        """Commits opens, tells the watchers, and returns those that say something else about one that was known before.

        Told at once: if anything fails after the commit the opens come again, but are not new then.
        """
        first: dict[UUID, store.NewOpen] = {}
        for one in opens:
            first.setdefault(one.open_id, one)
        async with self._database.transaction() as conn:
            if canary is not None:
                await store.note_canary(conn, canary)
            inserted = await store.insert_opens(conn, list(first.values())) if first else set()
            repeated = [one for one in opens if one is not first[one.open_id] or one.open_id not in inserted]
            contradictions: list[store.NewOpen] = []
            if repeated:
                keys = [one.key for one in {one.open_id: one for one in repeated}.values()]
                known = {there.open_id: there for there in await store.lock_opens(conn, keys)}
                contradictions = [one for one in repeated if not _same_open(one.record, known[one.open_id].record)]
                newer = _newest(
                    one
                    for one in repeated
                    if one not in contradictions
                    and one.enrich_time > known[one.open_id].enrich_time
                    and not _same_explanation(one.record, known[one.open_id].record)
                )
                if newer:
                    await store.replace_explanations(conn, newer)
        new_of: dict[UUID, list[UUID]] = defaultdict(list)
        for one in first.values():
            if one.open_id in inserted:
                new_of[one.agency_id].append(one.open_id)
        await self._announcer.announce(new_of)
        return contradictions

    async def _store_each(
        self, opens: Sequence[store.NewOpen], canary: datetime | None
    ) -> tuple[list[store.NewOpen], list[tuple[events_pb2.OpenEnriched, Exception]]]:
        """Stores opens one by one, so that one that the database refuses keeps no other away; returns those too.

        Raises when it refuses all of them: then it is hardly the opens' fault, and the pack is tried again.
        """
        again: list[store.NewOpen] = []
        misfits: list[tuple[events_pb2.OpenEnriched, Exception]] = []
        for one in opens:
            try:
                again += await self._store([one], canary)
            except Exception as error:
                if is_passing(error):
                    raise
                misfits.append((_parsed(one.record), error))
        if len(misfits) == len(opens):
            raise misfits[0][1]
        return again, misfits

    async def _keep(self, conn: Connection, item: Message, error: Exception) -> None:
        await self._dead_letters.keep(
            consumer=CONSUMER,
            subject="",
            message_type=item.DESCRIPTOR.full_name,
            payload=item.SerializeToString(),
            error=error,
            attempts=1,
            conn=conn,
        )


class _Contradiction(ValueError):
    """The same open_id with another content."""

    def __init__(self) -> None:
        super().__init__("an open with this id but another content is there already; the first one counts")


def _parsed(record: bytes) -> events_pb2.OpenEnriched:
    return events_pb2.OpenEnriched.FromString(record)


def _same_open(one: bytes, other: bytes) -> bool:
    # Compared as messages: two programs may encode the same open in different bytes.
    return one == other or bool(_parsed(one).open == _parsed(other).open)


def _same_explanation(one: bytes, other: bytes) -> bool:
    """Whether two explanations say the same: an open that came twice is no news."""
    first, second = _parsed(one), _parsed(other)
    first.ClearField("enrich_time")
    second.ClearField("enrich_time")
    return bool(first == second)


def _newest(opens: Iterable[store.NewOpen]) -> list[store.NewOpen]:
    newest: dict[UUID, store.NewOpen] = {}
    for one in opens:
        if one.open_id not in newest or newest[one.open_id].enrich_time < one.enrich_time:
            newest[one.open_id] = one
    return list(newest.values())
