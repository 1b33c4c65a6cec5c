"""Events over NATS JetStream: the streams, declared here, and publishing with an acknowledgement. consumer.py reads.

JetStream moves events and keeps none for us: every fact is in PostgreSQL first. So each use is idempotent, and an
acknowledgement is sent only after the commit of what the event caused.
"""

import asyncio
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import nats
from google.protobuf.message import Message
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError
from nats.protocol.parser import PERMISSIONS_ERR
from prometheus_client import Counter, Gauge

from services.chassis import log
from services.chassis.errors import Unavailable

_LOG = log.get(__name__)
_AWAY = Gauge("opennotice_nats_away", "1 while this process is without NATS or one of its streams")
_NOT_TAKEN = Counter("opennotice_events_not_taken_total", "Times that NATS did not take an event; it is sent again")
_LOSSES = Counter("opennotice_nats_losses_total", "Times that a stream was found without events that it had had")

EventMessage = Message

# Longer than any retry of a publisher takes; the ids live in the server's memory.
_DUPLICATE_WINDOW_SECONDS = 600.0
_MAX_AGE_SECONDS = 14 * 24 * 3600.0
_MAX_MESSAGE_BYTES = 1024 * 1024
_PUBLISH_SECONDS = 5.0
# Now and then, because a volume may be lost and an operator may change a stream while we run.
_LOOK_SECONDS = 10.0
# A connection that the library has not mended by now is given up for a new one.
_MENDING_SECONDS = 30.0
# How long a refused permission counts as being without NATS: longer than a publisher that keeps trying takes.
_REFUSAL_SECONDS = 60.0


def subject_for(message: Any) -> str:
    """Returns the subject of an event by its descriptor: "a.v1.OpensRecorded" goes to "a.v1.opens.recorded"."""
    words: list[str] = []
    for char in message.name:
        if char.isupper():
            words.append(char.lower())
        else:
            words[-1] += char
    return f"{message.file.package}.{'-'.join(words[:-1])}.{words[-1]}"


@dataclass(frozen=True)
class Stream:
    """The stream of one publishing service; its subjects are the events of one package."""

    name: str
    package: str
    max_bytes: int
    # Whether all its events are of one type. Then a reader of that type is owed every number.
    one_type: bool = True

    def config(self) -> api.StreamConfig:
        """Limits retention, so that it can be read again; full means refused, never that unread events go."""
        return api.StreamConfig(
            name=self.name,
            subjects=[f"{self.package}.>"],
            retention=api.RetentionPolicy.LIMITS,
            storage=api.StorageType.FILE,
            discard=api.DiscardPolicy.NEW,
            max_age=_MAX_AGE_SECONDS,
            max_bytes=self.max_bytes,
            max_msg_size=_MAX_MESSAGE_BYTES,
            max_msgs=-1,
            max_consumers=-1,
            num_replicas=1,
            duplicate_window=_DUPLICATE_WINDOW_SECONDS,
            deny_delete=True,
            deny_purge=True,
        )


_GIB = 1024**3
# All streams of the product. Each is made by whoever comes first, so that a reader need not wait for a publisher.
STREAMS = {
    stream.name: stream
    for stream in (
        Stream("AUTH", "opennotice.auth.v1", _GIB),
        Stream("ENRICHMENT", "opennotice.enrichment.v1", 8 * _GIB),
        Stream("LINK", "opennotice.link.v1", 4 * _GIB, one_type=False),
        Stream("TRACKING", "opennotice.tracking.v1", 8 * _GIB),
    )
}
# What must agree between what we ask for and what is there; the rest the server fills in.
_STREAM_FIELDS = (
    "subjects", "retention", "storage", "discard", "max_age", "max_bytes", "max_msg_size", "num_replicas",
    "duplicate_window", "deny_delete", "deny_purge",
)  # fmt: skip


def credentials(url: str) -> dict[str, str]:
    """Returns what a URL says of who signs in, as the library wants it: it would send "%40" where "@" is meant."""
    parts = urllib.parse.urlsplit(url)
    if parts.username is None:
        return {}
    if parts.password is None:
        return {"token": urllib.parse.unquote(parts.username)}
    return {"user": urllib.parse.unquote(parts.username), "password": urllib.parse.unquote(parts.password)}


@dataclass(frozen=True)
class Outgoing:
    """An event ready to be sent."""

    subject: str
    message_type: str
    message_id: str
    payload: bytes


class Bus:
    """The connection of one process to NATS. Made at once, connected when the server is there, for ever."""

    def __init__(self, url: str, name: str, streams: Sequence[str] = ()) -> None:
        """`streams` are those that this process publishes to or reads from."""
        self._url = url
        self._name = name
        self._streams = [STREAMS[stream] for stream in streams]
        self._client: Client | None = None
        self._js: JetStreamContext | None = None
        self._ready = asyncio.Event()
        self._made: dict[str, datetime] = {}
        # The number of the newest event that each stream is known to have had.
        self._reached: dict[str, int] = {}
        # How many events are missing inside each stream; nobody may remove any.
        self._gaps: dict[str, int] = {}
        self._given_up = asyncio.Event()
        self._refused_at = -_REFUSAL_SECONDS

    @property
    def is_connected(self) -> bool:
        """Whether the server answers and all streams are there."""
        return self._ready.is_set() and self._client is not None and self._client.is_connected

    @property
    def is_refused(self) -> bool:
        """Whether the server has just refused what this process tried to publish or read."""
        return time.monotonic() - self._refused_at < _REFUSAL_SECONDS

    @property
    def client(self) -> Client:
        """The plain NATS client, for events that need no stream."""
        if self._client is None or not self._client.is_connected:
            raise Unavailable("BUS_AWAY", "NATS does not answer now; try again")
        return self._client

    @property
    def js(self) -> JetStreamContext:
        """JetStream of the connection."""
        if self._js is None or not self.is_connected:
            raise Unavailable("BUS_AWAY", "NATS does not answer now; try again")
        return self._js

    async def connected(self) -> None:
        """Waits until the server is there and all streams are as declared."""
        await self._ready.wait()

    @property
    def made(self) -> datetime | None:
        """When the newest of the streams was made, as the server says: what was published before may be gone."""
        return max(self._made.values(), default=None)

    async def run(self) -> None:
        """Connects and keeps the streams as declared. Raises when the connection is lost for good, and connects anew
        when it is started again.
        """
        _AWAY.set_function(lambda: self.is_refused or not self.is_connected)
        if self._client is None or self._client.is_closed:
            self._client = await self._connect()
            self._js = self._client.jetstream(timeout=_PUBLISH_SECONDS)
            self._given_up.clear()
        mended = time.monotonic()
        while not self._given_up.is_set():
            if self._client.is_connected:
                for stream in self._streams:
                    await self._declare(stream)
                self._ready.set()
                mended = time.monotonic()
            elif time.monotonic() - mended > _MENDING_SECONDS:
                # It may still be trying; but what it trips over while it tries ends that without a word.
                await self._client.close()
                break
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._given_up.wait()
            except TimeoutError:
                continue
        raise Unavailable("BUS_CLOSED", "the connection to NATS was given up")

    async def close(self) -> None:
        """Sends what is under way and closes."""
        if self._client is not None and not self._client.is_closed:
            try:
                async with asyncio.timeout(5):
                    await self._client.drain()
            except (TimeoutError, NatsError):
                await self._client.close()

    async def _connect(self) -> Client:
        async def on_error(error: Exception) -> None:
            # Refused permissions arrive only here; whoever published or asked just waits in vain.
            if PERMISSIONS_ERR in str(error):
                self._refused_at = time.monotonic()
                _LOG.error("NATS refuses a permission", error=str(error))
            else:
                _LOG.warning("nats", error=type(error).__name__)

        async def on_closed() -> None:
            # Any error that the server tells a client makes the library close. A late word of an earlier connection
            # says nothing about this one.
            if self._client is None or self._client.is_closed:
                self._given_up.set()

        return await nats.connect(
            self._url,
            name=self._name,
            # The library's default gives up for good after two minutes and notices a frozen server after four. This is
            # noticed when the third ping is due: within twelve seconds.
            max_reconnect_attempts=-1,
            reconnect_time_wait=1,
            ping_interval=4,
            max_outstanding_pings=2,
            connect_timeout=3,
            # While disconnected a publish fails at once; the outbox still has the row.
            pending_size=0,
            error_cb=on_error,
            closed_cb=on_closed,
            **credentials(self._url),
        )

    async def _declare(self, stream: Stream) -> None:
        wanted = stream.config()
        assert self._js is not None
        reached = self._reached.get(stream.name, 0)
        try:
            info = await self._js.stream_info(stream.name)
        except NotFoundError:
            info = await self._js.add_stream(wanted)
            _LOG.info("stream made", stream=stream.name)
        if info.created is not None:
            if info.created != self._made.get(stream.name, info.created):
                self.tell_loss(stream.name)
                reached = self._reached[stream.name] = 0
            self._made[stream.name] = info.created
        self._reach(stream.name, info.state.last_seq, at_least=reached)
        gaps = info.state.num_deleted or 0
        if gaps > self._gaps.get(stream.name, gaps):
            self.tell_loss(stream.name)
        self._gaps[stream.name] = gaps
        there = info.config
        if drift := [field for field in _STREAM_FIELDS if getattr(there, field) != getattr(wanted, field)]:
            _LOG.warning("stream differs and is corrected", stream=stream.name, fields=drift)
            await self._js.update_stream(wanted)

    async def publish(self, message: EventMessage, message_id: str) -> None:
        """Publishes an event and returns when the server has it on disk."""
        descriptor = message.DESCRIPTOR
        await self.send(
            Outgoing(subject_for(descriptor), descriptor.full_name, message_id, message.SerializeToString())
        )

    async def send(self, event: Outgoing) -> None:
        """Publishes a serialized event; a time-out means unknown, so send it again with the same id."""
        headers = {
            "Nats-Msg-Id": event.message_id,
            "Content-Type": "application/x-protobuf",
            "Opennotice-Type": event.message_type,
        }
        reached = dict(self._reached)
        try:
            ack = await self.js.publish(event.subject, event.payload, timeout=_PUBLISH_SECONDS, headers=headers)
        except Exception:
            _NOT_TAKEN.inc()
            raise
        if not ack.duplicate:
            self._reach(ack.stream, ack.seq, at_least=reached.get(ack.stream, 0) + 1)

    def _reach(self, stream: str, sequence: int, *, at_least: int) -> None:
        """Notes how far a stream goes. Numbers only grow: one that is too low stands where a lost event stood."""
        if sequence >= at_least:
            self._reached[stream] = max(sequence, self._reached.get(stream, 0))
        elif at_least <= self._reached.get(stream, 0) + 1:
            self.tell_loss(stream)
            self._reached[stream] = sequence

    def tell_loss(self, stream: str) -> None:
        """Tells that events are missing from a stream."""
        # Nothing is to be done here: what was lost on its way is sent again from the record.
        _LOSSES.inc()
        _LOG.error("NATS has lost events", stream=stream)
