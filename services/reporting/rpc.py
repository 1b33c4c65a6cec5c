"""The servicer: proto in, proto out."""

import time
import zoneinfo
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import grpc
from google.protobuf import text_format
from opennotice.audit.v1 import audit_pb2
from opennotice.auth.v1 import auth_pb2, auth_pb2_grpc
from opennotice.enrichment.v1 import events_pb2 as enrichment_pb2
from opennotice.link.v1 import link_pb2
from opennotice.reporting.v1 import reporting_pb2, reporting_pb2_grpc
from opennotice.tracking.v1 import events_pb2 as tracking_pb2
from psycopg.errors import IdleInTransactionSessionTimeout, QueryCanceled

from services.chassis import clock, log
from services.chassis.access import Rule
from services.chassis.errors import (
    DeadlineExceeded,
    Faults,
    NotFound,
    ResourceExhausted,
    Unavailable,
    invalid,
)
from services.chassis.identity import Caller, caller
from services.chassis.interceptors import still_valid
from services.chassis.names import new_id, parse_name, parse_uuid
from services.chassis.paging import Pages, page_size, scope_of
from services.chassis.postgres import Connection, Database
from services.chassis.serve import Process
from services.reporting import store
from services.reporting.opens import (
    Filter,
    Key,
    check_range,
    check_summary_range,
    key_of,
    read_addresses,
    read_client,
    read_name,
    read_network,
)
from services.reporting.timeline import EntryKind, Place, from_values, to_values
from services.reporting.timelines import store as timelines
from services.reporting.watch import Watchers

_LOG = log.get(__name__)

_OPENS_A_MESSAGE = 500
# Clients accept 4 MiB unless they say otherwise; opens with the longest agents and referrers would pass that.
_BYTES_A_MESSAGE = 2 * 1024 * 1024
_EXPORTS_AT_ONCE = 8
_AUDIT_SECONDS = 5.0
# With the three seconds that an exchange is remembered, a stream of a revoked key ends within five.
_CREDENTIAL_SECONDS = 2.0
_SIGN_OF_LIFE_SECONDS = 10.0
_DETAIL_LIMIT = 500
_MOST_DIGESTS = 10_000
_MOST_LOOKED_FOR = 5_000

_GROUPS = {
    reporting_pb2.SUMMARY_KEY_DAY: "day",
    reporting_pb2.SUMMARY_KEY_PORTAL: "portal",
    reporting_pb2.SUMMARY_KEY_DEVICE: "device",
    reporting_pb2.SUMMARY_KEY_VERDICT: "verdict",
}


def officer_of(who: Caller) -> str | None:
    """Returns whose clients a caller is bound to; None for one who sees all of the agency."""
    return who.subject if who.own_clients_only else None


def read_filter(found: reporting_pb2.OpenFilter, officer: str | None, faults: Faults) -> Filter:
    """Returns what a filter means, noting everything that is wrong with it."""
    client_id, client_text = read_client(found.client, faults)
    asn, network_text = read_network(found.network, faults)
    start = clock.checked(found.start_time, "filter.start_time", faults) if found.HasField("start_time") else None
    end = clock.checked(found.end_time, "filter.end_time", faults) if found.HasField("end_time") else None
    check_range(start, end, faults)
    return Filter(
        client_id=client_id,
        client_text=client_text,
        portal_id=read_name("portal", ("portals",), found.portal, faults),
        link_id=read_name("link", ("links", "redirects"), found.link, faults),
        message_id=read_name("message", ("messages",), found.message, faults),
        devices=_known("devices", enrichment_pb2.Device, found.devices, faults),
        kinds=_known("kinds", tracking_pb2.OpenKind, found.kinds, faults),
        link_states=_known("link_states", link_pb2.LinkState, found.link_states, faults),
        verdicts=_known("verdicts", enrichment_pb2.Verdict, found.verdicts, faults),
        asn=asn,
        network_text=network_text,
        addresses=read_addresses(found.ip, faults),
        start=start,
        end=end,
        officer=officer,
    )


def _known(field: str, enum: Any, values: Sequence[int], faults: Faults) -> tuple[int, ...]:
    known = set(enum.values()) - {0}
    if unknown := sorted(set(values) - known):
        faults.add(f"filter.{field}", f"{unknown[0]} is not a value of {enum.DESCRIPTOR.name}")
    return tuple(sorted(set(values) & known))


def to_open(row: store.ListedOpen | store.ExportedOpen, into: reporting_pb2.Open | None = None) -> reporting_pb2.Open:
    """Returns an open as lists show it, with the names as they are now."""
    found = reporting_pb2.Open() if into is None else into
    found.MergeFromString(row.listed)
    if row.client_display_name:
        found.client_display_name = row.client_display_name
    if row.client_ref:
        found.client_ref = row.client_ref
    if row.portal_display_name:
        found.portal_display_name = row.portal_display_name
    return found


def to_detail(row: store.FullOpen) -> reporting_pb2.OpenDetail:
    """Returns everything that lists do not show."""
    known = enrichment_pb2.OpenEnriched.FromString(row.record)
    return reporting_pb2.OpenDetail(
        reasons=known.reasons,
        method=known.open.method,
        status=known.open.status,
        directory_stale=known.open.directory_stale,
        token_repaired=known.open.token_repaired,
        query=known.open.query,
        accept_language=known.open.accept_language,
        headers=known.open.headers,
        network_status=known.network_status,
        rule_pack=known.rule_pack,
        data_sets=known.data_sets,
        enrich_time=known.enrich_time,
        arrive_time=clock.to_proto(row.arrive_time),
        revoke_time=clock.to_proto(row.revoke_time) if row.revoke_time else None,
    )


def to_entry(entry: timelines.Entry, client: timelines.Client) -> reporting_pb2.TimelineEntry:
    """Returns one entry of a timeline."""
    found = reporting_pb2.TimelineEntry(time=clock.to_proto(entry.time))
    if entry.kind == EntryKind.MESSAGE:
        found.message.MergeFromString(entry.record or b"")
    elif entry.kind == EntryKind.DELIVERY:
        found.delivery.message = f"messages/{entry.identifier}"
        found.delivery.status = entry.status  # type: ignore[assignment]  # the numbers are the contract's own
    else:
        found.open.MergeFromString(entry.listed or b"")
        found.open.client_display_name = client.display_name
        found.open.client_ref = client.ref
        found.open.portal_display_name = entry.portal_display_name or ""
    return found


def packed(rows: Sequence[store.ExportedOpen]) -> Iterator[Sequence[store.ExportedOpen]]:
    """Cuts rows into parts that fit into a message."""
    begin, size = 0, 0
    for at, row in enumerate(rows):
        size += len(row.listed)
        if at - begin == _OPENS_A_MESSAGE or (size > _BYTES_A_MESSAGE and at > begin):
            yield rows[begin:at]
            begin, size = at, len(row.listed)
    yield rows[begin:]


class ReportingService(reporting_pb2_grpc.ReportingServiceServicer):
    """Answers who opened what, when and how."""

    def __init__(
        self,
        process: Process,
        database: Database,
        directory: Database,
        pages: Pages,
        watchers: Watchers,
        auth: grpc.aio.Channel,
    ) -> None:
        """`directory` sees the keys of all agencies' opens and nothing else."""
        self._process = process
        self._database = database
        self._directory = directory
        self._pages = pages
        self._watchers = watchers
        self._auth = auth_pb2_grpc.AuthServiceStub(auth)
        self._exports = 0

    @asynccontextmanager
    async def _reading(self, who: Caller) -> AsyncIterator[Connection]:
        try:
            async with self._database.transaction(who.agency) as conn:
                yield conn
        except QueryCanceled as error:
            raise DeadlineExceeded(
                "SEARCH_TOO_SLOW", "the search took too long; narrow it, by time for example"
            ) from error

    async def ListOpens(
        self, request: reporting_pb2.ListOpensRequest, context: grpc.aio.ServicerContext
    ) -> reporting_pb2.ListOpensResponse:
        """Lists opens, newest first."""
        who = caller()
        size = page_size(request.page_size)
        wanted, scope = _wanted(who, "ListOpens", request.filter)
        after = self._after(scope, request.page_token, "page_token")
        async with self._reading(who) as conn:
            rows = await store.list_opens(conn, who.agency, wanted, after=after, limit=size + 1)
        answer = reporting_pb2.ListOpensResponse()
        for row in rows[:size]:
            to_open(row, answer.opens.add())
        if len(rows) > size:
            answer.next_page_token = self._pages.encode(scope, [str(rows[size - 1].open_id)])
        return answer

    async def GetOpen(
        self, request: reporting_pb2.GetOpenRequest, context: grpc.aio.ServicerContext
    ) -> reporting_pb2.Open:
        """Returns one open with its detail."""
        who = caller()
        open_id = parse_name("opens", request.name)
        key = key_of(open_id) if open_id else None
        row = None
        if key is not None:
            async with self._reading(who) as conn:
                row = await store.get_open(conn, who.agency, key, officer_of(who))
        if row is None:
            raise NotFound("OPEN_UNKNOWN", "there is no such open", name=request.name[:100])
        found = to_open(row)
        found.detail.CopyFrom(to_detail(row))
        return found

    async def ExportOpens(
        self, request: reporting_pb2.ExportOpensRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[reporting_pb2.ExportOpensResponse]:
        """Streams every matching open of one snapshot."""
        who = caller()
        wanted, scope = _wanted(who, "ExportOpens", request.filter)
        after = self._after(scope, request.resume_token, "resume_token")
        if self._exports >= _EXPORTS_AT_ONCE:
            raise ResourceExhausted("TOO_MANY_EXPORTS", "too many exports are running; try again when one has ended")
        self._exports += 1
        try:
            await self._audit(who, request)
            checked = time.monotonic()
            async with store.snapshot(self._database.url, who.agency) as conn:
                async for rows in store.export(conn, who.agency, wanted, after=after):
                    for part in packed(rows):
                        if time.monotonic() - checked >= _CREDENTIAL_SECONDS:
                            await still_valid()
                            checked = time.monotonic()
                        answer = reporting_pb2.ExportOpensResponse()
                        for row in part:
                            to_open(row, answer.opens.add())
                        last = parse_name("opens", answer.opens[-1].name)
                        answer.resume_token = self._pages.encode(scope, [str(last)])
                        yield answer
        except IdleInTransactionSessionTimeout as error:
            raise DeadlineExceeded(
                "READER_TOO_SLOW", "nothing was read for too long; go on with resume_token"
            ) from error
        finally:
            self._exports -= 1

    async def WatchOpens(
        self, request: reporting_pb2.WatchOpensRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[reporting_pb2.WatchOpensResponse]:
        """Streams matching opens as they arrive."""
        who = caller()
        wanted, _ = _wanted(who, "WatchOpens", request.filter)
        with self._watchers.watch(who.agency) as watcher:
            yield reporting_pb2.WatchOpensResponse()
            checked = sent = time.monotonic()
            while True:
                arrived, missed = await watcher.take(_CREDENTIAL_SECONDS)
                now = time.monotonic()
                if now - checked >= _CREDENTIAL_SECONDS:
                    await still_valid()
                    checked = now
                answer = reporting_pb2.WatchOpensResponse(missed=missed)
                if arrived:
                    async with self._reading(who) as conn:
                        rows = await store.list_arrived(conn, who.agency, wanted, arrived)
                    for row in rows:
                        to_open(row, answer.opens.add())
                if answer.opens or missed or now - sent >= _SIGN_OF_LIFE_SECONDS:
                    yield answer
                    sent = time.monotonic()

    async def SummarizeOpens(
        self, request: reporting_pb2.SummarizeOpensRequest, context: grpc.aio.ServicerContext
    ) -> reporting_pb2.SummarizeOpensResponse:
        """Counts matching opens."""
        who, faults = caller(), Faults()
        wanted = read_filter(request.filter, officer_of(who), faults)
        check_summary_range(wanted.start, wanted.end, faults)
        if request.key not in _GROUPS:
            faults.add("key", "must be day, portal, device or verdict")
        if request.time_zone and request.time_zone not in zoneinfo.available_timezones():
            faults.add("time_zone", "must be the IANA name of a time zone, for example America/New_York")
        faults.stop()
        async with self._reading(who) as conn:
            groups, total = await store.count_by(
                conn, who.agency, wanted, _GROUPS[request.key], request.time_zone or "UTC"
            )
        if request.key == reporting_pb2.SUMMARY_KEY_DAY:
            groups.reverse()
        told = [
            reporting_pb2.SummaryGroup(
                value=_word(request.key, group), display_name=group.display_name or "", count=group.count
            )
            for group in groups
        ]
        return reporting_pb2.SummarizeOpensResponse(groups=told, total=total)

    async def GetClientTimeline(
        self, request: reporting_pb2.GetClientTimelineRequest, context: grpc.aio.ServicerContext
    ) -> reporting_pb2.GetClientTimelineResponse:
        """Lists what happened with one client."""
        who = caller()
        for needed in ("messages:read", "opens:read"):
            # Else a key for clients would read what happened with them too.
            Rule(needed).check(who)
        size = page_size(request.page_size)
        client_id = parse_name("clients", request.client)
        scope = scope_of("GetClientTimeline", who.agency, request.client.encode())
        values = self._pages.decode(scope, request.page_token)
        # Further ahead than any clock or deadline is wrong.
        before = from_values(values) if values else Place(clock.LATEST, 0, UUID(int=0))
        async with self._reading(who) as conn:
            client = await timelines.get_client(conn, who.agency, client_id, officer_of(who)) if client_id else None
            if client is None:
                raise NotFound("CLIENT_UNKNOWN", "there is no such client", client=request.client[:100])
            entries = await timelines.list_timeline(conn, who.agency, client.client_id, before=before, limit=size + 1)
        answer = reporting_pb2.GetClientTimelineResponse(entries=[to_entry(entry, client) for entry in entries[:size]])
        if len(entries) > size:
            answer.next_page_token = self._pages.encode(scope, to_values(entries[size - 1].place))
        return answer

    async def _audit(self, who: Caller, request: reporting_pb2.ExportOpensRequest) -> None:
        """Writes the line of an export to the audit log, or refuses the export."""
        line = audit_pb2.Action(
            action_id=str(new_id()),
            act_time=clock.to_proto(clock.now()),
            agency_id=str(who.agency),
            actor=who.subject,
            actor_display_name=who.display_name,
            verb="opens.export",
            outcome=audit_pb2.OUTCOME_DONE,
            source_address=who.source_address,
            details={
                "filter": text_format.MessageToString(request.filter, as_one_line=True, as_utf8=True)[:_DETAIL_LIMIT],
                "resumed": "yes" if request.resume_token else "no",
            },
        )
        try:
            await self._auth.RecordAction(
                auth_pb2.RecordActionRequest(action=line), timeout=_AUDIT_SECONDS, metadata=self._process.as_process()
            )
        except grpc.aio.AioRpcError as error:
            _LOG.error("an export was refused because it could not be audited", code=error.code().name)
            raise Unavailable("AUDIT_AWAY", "the audit log cannot be written now; nothing was exported") from error

    async def DigestOpens(
        self, request: reporting_pb2.DigestOpensRequest, context: grpc.aio.ServicerContext
    ) -> reporting_pb2.DigestOpensResponse:
        """Counts and digests the opens of all agencies by stretches of time."""
        faults = Faults()
        start = clock.checked(request.start_time, "start_time", faults)
        end = clock.checked(request.end_time, "end_time", faults)
        stretch = timedelta(seconds=request.stretch_seconds)
        if not timedelta(seconds=1) <= stretch <= timedelta(days=1):
            faults.add("stretch_seconds", "must be from 1 to 86400")
        elif start and end and (end - start) / stretch > _MOST_DIGESTS:
            faults.add("stretch_seconds", f"the range has more than {_MOST_DIGESTS} stretches of this length")
        faults.stop()
        assert start is not None
        assert end is not None
        async with self._directory.transaction() as conn:
            rows = await store.digests(conn, start, end, stretch)
        told = [
            reporting_pb2.OpensDigest(start_time=clock.to_proto(begin), open_count=count, digest=digest)
            for begin, count, digest in rows
        ]
        return reporting_pb2.DigestOpensResponse(digests=told)

    async def FindMissingOpens(
        self, request: reporting_pb2.FindMissingOpensRequest, context: grpc.aio.ServicerContext
    ) -> reporting_pb2.FindMissingOpensResponse:
        """Returns those opens that the report does not have."""
        if len(request.open_ids) > _MOST_LOOKED_FOR:
            raise invalid("open_ids", f"at most {_MOST_LOOKED_FOR}")
        keys: list[Key] = []
        for text in request.open_ids:
            open_id = parse_uuid(text)
            key = key_of(open_id) if open_id else None
            if key is None:
                raise invalid("open_ids", "each must be a UUIDv7")
            keys.append(key)
        async with self._directory.transaction() as conn:
            missing = await store.missing(conn, keys)
        return reporting_pb2.FindMissingOpensResponse(
            open_ids=[str(key.open_id) for key in keys if key.open_id in missing]
        )

    def _after(self, scope: str, token: str, field: str) -> Key | None:
        values = self._pages.decode(scope, token, field)
        return key_of(UUID(str(values[0]))) if values else None


def _wanted(who: Caller, method: str, found: reporting_pb2.OpenFilter) -> tuple[Filter, str]:
    """Returns what is asked for, and what its tokens are bound to."""
    faults = Faults()
    wanted = read_filter(found, officer_of(who), faults)
    faults.stop()
    bound = f"{who.agency}/{officer_of(who) or ''}"
    return wanted, scope_of(method, bound, found.SerializeToString(deterministic=True))


def _word(key: int, group: store.Group) -> str:
    if key == reporting_pb2.SUMMARY_KEY_PORTAL:
        return f"portals/{group.value}"
    if key == reporting_pb2.SUMMARY_KEY_DEVICE:
        return enrichment_pb2.Device.Name(group.value).removeprefix("DEVICE_").lower()
    if key == reporting_pb2.SUMMARY_KEY_VERDICT:
        return enrichment_pb2.Verdict.Name(group.value).removeprefix("VERDICT_").lower()
    return str(group.value)
