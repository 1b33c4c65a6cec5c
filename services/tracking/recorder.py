"""Puts opens on disk before they are answered: PostgreSQL, else the spool, else the log.

Opens that wait share one transaction. They gather while the last write is under way, two writes at a time, and nobody
waits for more to come. Whatever happens here, the client is answered; what is decided is only whether the answer may
carry X-Open-Id.
"""

import asyncio
import base64
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from google.protobuf.message import DecodeError
from opennotice.link.v1 import link_pb2
from opennotice.tracking.v1 import events_pb2

from services.chassis import log, outbox
from services.chassis.bus import Outgoing, subject_for
from services.chassis.names import millisecond_of, new_id
from services.tracking import metrics
from services.tracking.link import State
from services.tracking.request import Headers, explaining, first, storable
from services.tracking.spool import Spool, SpoolAway
from services.tracking.store.opens import RawOpen
from services.tracking.writer import Away, Refused, Writer

_LOG = log.get(__name__)

# The event of the line in the log that holds the last copy of an open.
LAST_COPY = "open could not be recorded"
COMMIT_SECONDS = 0.3
_WRITERS = 2
# So many opens are worth a second write beside the first. Fewer wait for the end of that one: a write of one open costs
# nearly what a write of sixteen costs, and at an ordinary rate most would be of one.
_WORTH_A_SECOND_WRITE = 16
OPENS_IN_A_PACK = 500
# Under the 256 KiB of the contract, with room for the frame of the pack itself.
BYTES_IN_A_PACK = 250 * 1024
# Opens that may wait for a commit. Above it they go to the spool at once instead of waiting behind the others.
_WAITING_AT_MOST = 4_000

Waiting = tuple[RawOpen, asyncio.Future[bool]]
Batch = list[Waiting]

PACK_SUBJECT = subject_for(events_pb2.OpensRecorded.DESCRIPTOR)
PACK_TYPE = events_pb2.OpensRecorded.DESCRIPTOR.full_name

_STATES = {
    State.ACTIVE: link_pb2.LINK_STATE_ACTIVE,
    State.EXPIRED: link_pb2.LINK_STATE_EXPIRED,
    State.REVOKED: link_pb2.LINK_STATE_REVOKED,
    State.PORTAL_INACTIVE: link_pb2.LINK_STATE_PORTAL_INACTIVE,
}


class Subject(NamedTuple):
    """What was visited and whom it was for; for a redirect, `link_id` is the redirect's."""

    agency_id: UUID
    link_id: UUID
    portal_id: UUID | None
    client_id: UUID | None
    message_id: UUID | None
    is_redirect: bool


class Visit(NamedTuple):
    """One request for something we know, and how it is about to be answered."""

    open_id: UUID
    opened_ms: int
    subject: Subject
    page: str
    state: State
    directory_stale: bool
    method: str
    status: int
    ip_address: str
    headers: Headers
    query: bytes
    repaired: bool
    token: str


def record_of(visit: Visit) -> RawOpen:
    """Returns the row of a visit, with the record as it is kept and published."""

    def scrubbed(text: str, limit: int) -> str:
        # The token is the one secret of a link; a browser that ignores our referrer policy must not store it for us.
        if visit.token in text:
            text = text.replace(visit.token, "[token]")[:limit]
        return text if len(text) < limit else _without_end(text, visit.token)

    def header(name: bytes, limit: int) -> str:
        return scrubbed(storable(first(visit.headers, name), limit), limit)

    record = events_pb2.OpenRecorded(
        open_id=str(visit.open_id),
        agency_id=_text_of(visit.subject.agency_id),
        kind=events_pb2.OPEN_KIND_REDIRECT if visit.subject.is_redirect else events_pb2.OPEN_KIND_PORTAL,
        link_id=_text_of(visit.subject.link_id),
        portal_id=_text_of(visit.subject.portal_id),
        page=visit.page,
        client_id=_text_of(visit.subject.client_id),
        message_id=_text_of(visit.subject.message_id),
        link_state=_STATES[visit.state],
        directory_stale=visit.directory_stale,
        method=visit.method,
        status=visit.status,
        ip_address=visit.ip_address,
        user_agent=header(b"user-agent", 2_048),
        referrer=header(b"referer", 2_048),
        accept_language=header(b"accept-language", 255),
        query=scrubbed(storable(visit.query, 2_048), 2_048),
        token_repaired=visit.repaired,
        headers=[
            events_pb2.Header(name=name, value=scrubbed(value, 1_000)) for name, value in explaining(visit.headers)
        ],
    )
    record.open_time.FromMilliseconds(visit.opened_ms)
    return RawOpen(
        visit.open_id, visit.opened_ms, visit.subject.agency_id, visit.subject.link_id, record.SerializeToString()
    )


def _without_end(text: str, token: str) -> str:
    """Returns a text that was cut off without what the cut has left of the token; three letters of it help nobody."""
    left = next((size for size in range(len(token) - 1, 3, -1) if text.endswith(token[:size])), 0)
    return text[: len(text) - left]


@lru_cache(maxsize=4096)
def _text_of(identifier: UUID | None) -> str:
    return str(identifier) if identifier else ""


def pack_of(opens: Sequence[RawOpen]) -> tuple[str, bytes]:
    """Returns the id and the bytes of the pack that announces opens."""
    batch_id = str(new_id())
    pack = events_pb2.OpensRecorded(batch_id=batch_id)
    for raw in opens:
        pack.opens.add().MergeFromString(raw.record)
    return batch_id, pack.SerializeToString()


def canary_pack(moment: datetime) -> tuple[str, bytes]:
    """Returns the id and the bytes of the pack without opens that shows whether opens would come through."""
    batch_id = str(new_id())
    pack = events_pb2.OpensRecorded(batch_id=batch_id)
    pack.canary_time.FromDatetime(moment)
    return batch_id, pack.SerializeToString()


def opens_of(pack: bytes) -> list[RawOpen]:
    """Returns the rows that a pack announces."""
    return [_row_of(record) for record in events_pb2.OpensRecorded.FromString(pack).opens]


def open_of(record: bytes) -> RawOpen:
    """Returns the row of a record; raises ValueError when it is none."""
    try:
        return _row_of(events_pb2.OpenRecorded.FromString(record))
    except DecodeError as error:
        raise ValueError(str(error)) from error


def _row_of(record: events_pb2.OpenRecorded) -> RawOpen:
    open_id = UUID(record.open_id)
    ids = UUID(record.agency_id), UUID(record.link_id)
    return RawOpen(open_id, millisecond_of(open_id), *ids, record.SerializeToString())


def fitting(lengths: Iterable[int]) -> int:
    """Returns how many of some opens fit into one pack by the bytes of each, the first ones and at least one."""
    count, room = 0, BYTES_IN_A_PACK
    for length in lengths:
        # What the frame of an open takes inside the pack.
        room -= length + 8
        if count == OPENS_IN_A_PACK or (count and room < 0):
            break
        count += 1
    return count


def together(rows: Sequence[outbox.Waiting]) -> Iterator[outbox.Sending]:
    """Sends packs that wait at the same time as one: an event costs the same whatever is in it."""
    pack, taken, size = events_pb2.OpensRecorded(), list[outbox.Waiting](), 0
    for row in rows:
        found = events_pb2.OpensRecorded.FromString(row.payload)
        if row.message_type != PACK_TYPE or not found.opens:
            yield outbox.as_it_is(row), [row.id]
            continue
        full = len(pack.opens) + len(found.opens) > OPENS_IN_A_PACK or size + len(row.payload) > BYTES_IN_A_PACK
        if taken and full:
            yield _sending(pack, taken)
            pack, taken, size = events_pb2.OpensRecorded(), [], 0
        pack.MergeFrom(found)
        taken.append(row)
        size += len(row.payload)
    if taken:
        yield _sending(pack, taken)


def _sending(pack: events_pb2.OpensRecorded, rows: list[outbox.Waiting]) -> outbox.Sending:
    if len(rows) == 1:
        return outbox.as_it_is(rows[0]), [rows[0].id]
    pack.batch_id = str(new_id())
    event = Outgoing(PACK_SUBJECT, PACK_TYPE, pack.batch_id, pack.SerializeToString())
    return event, [row.id for row in rows]


class Recorder:
    """Takes opens one by one, writes them many at a time."""

    def __init__(self, database_url: str, spool: Spool, on_commit: Callable[[], None]) -> None:
        self.spool = spool
        self._on_commit = on_commit
        self._writers = [Writer(database_url, PACK_SUBJECT, PACK_TYPE) for _ in range(_WRITERS)]
        self._idle = list(self._writers)
        # Writes of gathered opens that are under way.
        self._writing = 0
        self._waiting: deque[Waiting] = deque()
        self._pumping = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_away = False
        # Set when there may be something for the mover to do.
        self.spooled = asyncio.Event()
        self.unrecorded = 0

    async def record(self, raw: RawOpen) -> bool:
        """Returns True when the open is on disk, False when nothing would take it (it is in the log then)."""
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self.is_away or len(self._waiting) >= _WAITING_AT_MOST:
            self._start(self._to_spool([(raw, done)]))
        else:
            self._waiting.append((raw, done))
            if not self._pumping:
                # After the requests that arrived in the same round of the loop, so that they go together.
                self._pumping = True
                asyncio.get_running_loop().call_soon(self._pump)
        # A visitor who goes away cancels only the waiting: the open itself is in the queue and is written.
        return await done

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _pump(self) -> None:
        self._pumping = False
        while self._waiting and self._idle:
            if self._writing and len(self._waiting) < _WORTH_A_SECOND_WRITE:
                return
            self._start(self._write(self._idle.pop(), self._take()))

    def _take(self) -> Batch:
        return [self._waiting.popleft() for _ in range(fitting(len(raw.record) for raw, _ in self._waiting))]

    async def _write(self, writer: Writer, batch: Batch) -> None:
        opens = [raw for raw, _ in batch]
        began = time.monotonic()
        try:
            await self._insert(writer, opens)
        except Away as error:
            self._idle.append(writer)
            self.trip(str(error))
            await self._to_spool(batch)
        except Refused as error:
            self._pump()
            await self._write_singly(writer, batch, str(error))
            self._idle.append(writer)
            self._pump()
        except Exception as error:
            # Nothing we know of; but these opens are in our hands, and a visitor waits for each.
            _LOG.error("writing opens failed", exc_info=error)
            self._idle.append(writer)
            self.trip(type(error).__name__)
            await self._to_spool(batch)
        else:
            self._idle.append(writer)
            metrics.COMMIT_SECONDS.observe(time.monotonic() - began)
            metrics.BATCH_OPENS.observe(len(batch))
            _settle(batch, True)
            self._on_commit()
            self._pump()

    async def _insert(self, writer: Writer, opens: Sequence[RawOpen]) -> None:
        self._writing += 1
        try:
            await writer.insert(opens, *pack_of(opens), limit_seconds=COMMIT_SECONDS)
        finally:
            self._writing -= 1

    async def _write_singly(self, writer: Writer, batch: Batch, refusal: str) -> None:
        """Writes the opens of a refused batch one by one, so that a bad one takes no other along."""
        for at, (raw, done) in enumerate(batch):
            try:
                if len(batch) > 1:
                    await writer.insert([raw], *pack_of([raw]), limit_seconds=COMMIT_SECONDS)
                    _settle([(raw, done)], True)
                    self._on_commit()
                    continue
            except Refused as error:
                refusal = str(error)
            except Away as error:
                self.trip(str(error))
                await self._to_spool(batch[at:])
                return
            except Exception as error:
                _LOG.error("writing an open failed", exc_info=error)
                self.trip(type(error).__name__)
                await self._to_spool(batch[at:])
                return
            metrics.REFUSED.inc()
            await self._to_spool([(raw, done)], refusal)

    def trip(self, reason: str) -> None:
        """Sends everything to the spool from now on, what waits included, until the mover gets through again."""
        if not self.is_away:
            self.is_away = True
            metrics.STORE_AWAY.set(1)
            _LOG.warning("PostgreSQL does not take opens; they go to the spool", reason=reason)
        if self._waiting:
            waiting = list(self._waiting)
            self._waiting.clear()
            self._start(self._to_spool(waiting))
        self.spooled.set()

    def committed(self) -> None:
        """Tells that opens were committed, by whomever."""
        self._on_commit()

    def recovered(self) -> None:
        """Sends opens to PostgreSQL again."""
        if self.is_away:
            self.is_away = False
            metrics.STORE_AWAY.set(0)
            _LOG.info("PostgreSQL takes opens again")

    async def _to_spool(self, batch: Batch, refusal: str | None = None) -> None:
        try:
            await self.spool.append([raw for raw, _ in batch], refusal)
        except SpoolAway as error:
            metrics.SPOOL_FAILING.set(1)
            for raw, _ in batch:
                self._tell_unrecorded(raw, str(error))
            _settle(batch, False)
        else:
            metrics.SPOOLED.inc(len(batch))
            metrics.SPOOL_SIZE.set(self.spool.size)
            _settle(batch, True)
            self.spooled.set()

    def _tell_unrecorded(self, raw: RawOpen, reason: str) -> None:
        self.unrecorded += 1
        metrics.UNRECORDED.inc()
        # The one line that carries a record: base64 of opennotice.tracking.v1.OpenRecorded. recover.py reads it.
        _LOG.error(
            LAST_COPY,
            reason=reason,
            open_id=str(raw.open_id),
            link_id=str(raw.link_id),
            record=base64.b64encode(raw.record).decode(),
        )

    async def check(self) -> str | None:
        """Says why opens cannot be recorded durably now, None when they can."""
        if not self.is_away or self.spool.fault is None:
            return None
        return f"PostgreSQL does not take opens and the spool fails: {self.spool.fault}"

    async def close(self) -> None:
        """Lets what is under way finish."""
        while self._waiting or self._tasks:
            if self._tasks:
                await asyncio.wait(set(self._tasks), timeout=2)
            else:
                await asyncio.sleep(0)
        for writer in self._writers:
            await writer.close()


def _settle(batch: Sequence[Waiting], on_disk: bool) -> None:
    for _, done in batch:
        if not done.done():
            done.set_result(on_disk)
