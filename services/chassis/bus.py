"""Events over NATS JetStream: streams and consumers declared here, publishing with an acknowledgement, pull loops.

JetStream moves events and keeps none for us: every fact is in PostgreSQL first. So each use is idempotent, and an
acknowledgement is sent only after the commit of what the event caused.
"""

import asyncio
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

import nats
from google.protobuf.message import DecodeError, Message
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext, api
from nats.js.errors import NotFoundError
from nats.protocol.parser import PERMISSIONS_ERR
from prometheus_client import Counter, Gauge

from services.chassis import log, postgres
from services.chassis.dead_letters import DeadLetters, InDoubt
from services.chassis.errors import Unavailable

_LOG = log.get(__name__)
_AWAY = Gauge("opennotice_nats_away", "1 while this process is without NATS or one of its streams")
_LOSSES = Counter("opennotice_nats_losses_total", "Times that a stream was found without events that it had had")

EventMessage = Message
M = TypeVar("M", bound=Message)
T = TypeVar("T")

# Longer than any retry of a publisher takes; the ids live in the server's memory.
_DUPLICATE_WINDOW_SECONDS = 600.0
_MAX_AGE_SECONDS = 14 * 24 * 3600.0
_MAX_MESSAGE_BYTES = 1024 * 1024
_PUBLISH_SECONDS = 5.0
# Now and then, because a volume may be lost and an operator may change a stream while we run.
_LOOK_SECONDS = 10.0
# A connection that the library has not mended by now is given up for a new one.
_MENDING_SECONDS = 30.0
# Also how long an event waits that a killed reader had taken. Far above what a batch takes; one that takes longer is
# read twice, which does no harm.
_ACK_WAIT_SECONDS = 10.0
_MAX_ACK_PENDING = 1000
_ATTEMPTS_BEFORE_DEAD_LETTER = 5
# Together under the minute within which somebody is to hear of an event that cannot be taken in.
_RETRY_SECONDS = (1.0, 4.0, 10.0, 30.0)
# How long a refused permission counts as being without NATS: longer than a publisher that keeps trying takes.
_REFUSAL_SECONDS = 60.0
# How long a reader gathers after the first event: a round of one costs as much as a round of fifty.
_GATHER_SECONDS = 0.1
_MOST_AT_ONCE = 16
_LINGER_SECONDS = 5.0
# How long a process that is told to stop waits for a store that may be away.
_STOP_SECONDS = 5.0


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
_CONSUMER_FIELDS = ("ack_policy", "ack_wait", "max_deliver", "max_ack_pending", "filter_subject")


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
        ack = await self.js.publish(event.subject, event.payload, timeout=_PUBLISH_SECONDS, headers=headers)
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


@dataclass(frozen=True)
class Received(Generic[M]):
    """One event as it was read."""

    message: M
    attempts: int
    sequence: int


def is_passing(error: BaseException) -> bool:
    """Whether an error is somebody's absence rather than the event's fault; such a one never makes a dead letter."""
    if isinstance(error, Unavailable | TimeoutError | ConnectionError | NatsError):
        return True
    return postgres.is_passing(error)


class Consumer(Generic[M]):
    """Reads one kind of event for one use, in packs, until the process ends."""

    def __init__(
        self,
        bus: Bus,
        *,
        stream: str,
        durable: str,
        message: type[M],
        handle: Callable[[list[Received[M]]], Awaitable[None]],
        dead_letters: DeadLetters,
    ) -> None:
        """`handle` commits before it returns. `durable` is named for its user: "reporting-opens-enriched-v1"."""
        self._bus = bus
        self._stream = stream
        self._durable = durable
        self._message = message
        self._handle = handle
        self._dead_letters = dead_letters
        self._subject = subject_for(message.DESCRIPTOR)
        # How often each event had come when this process gave it back; a number alone may mean another event one day.
        self._given_back: dict[int, int] = {}
        self._unreleased: dict[int, bool] = {}
        # The newest event that came for the first time: how many deliveries the reader had had then, and its number.
        self._newest: tuple[int, int] | None = None
        dead_letters.on_replay(durable, message.DESCRIPTOR.full_name, self._replay)

    async def _replay(self, payload: bytes) -> None:
        """Takes in an event that had become a dead letter."""
        await self._handle([Received(self._message.FromString(payload), attempts=1, sequence=0)])

    async def run(self) -> None:
        """Reads for ever. Raises when NATS is away; the frame starts it again after a pause."""
        await self._release_rest()
        await self._bus.connected()
        await self._declare()
        reader = await self._bus.js.pull_subscribe_bind(consumer=self._durable, stream=self._stream)
        try:
            while True:
                messages = await _gather(reader)
                # Also when nothing came: what was given back may come to another reader, who must not find it held.
                await self._release_rest()
                if messages:
                    await self._take(messages)
                elif not self._bus.is_connected:
                    raise Unavailable("BUS_AWAY", "NATS does not answer now")
                else:
                    # A consumer that was deleted gives no error to a pull, only silence.
                    await self._declare()
        finally:
            try:
                await reader.unsubscribe()
            except NatsError:
                _LOG.debug("reader was closed already", consumer=self._durable)

    def _config(self) -> api.ConsumerConfig:
        return api.ConsumerConfig(
            durable_name=self._durable,
            name=self._durable,
            deliver_policy=api.DeliverPolicy.ALL,
            ack_policy=api.AckPolicy.EXPLICIT,
            ack_wait=_ACK_WAIT_SECONDS,
            # The server's own limit would leave the event in the stream where nobody looks.
            max_deliver=-1,
            max_ack_pending=_MAX_ACK_PENDING,
            filter_subject=self._subject,
        )

    async def _declare(self) -> None:
        wanted = self._config()
        try:
            there = (await self._bus.js.consumer_info(self._stream, self._durable)).config
        except NotFoundError:
            await self._bus.js.add_consumer(self._stream, wanted)
            return
        if drift := [field for field in _CONSUMER_FIELDS if getattr(there, field) != getattr(wanted, field)]:
            _LOG.warning("consumer differs and is corrected", consumer=self._durable, fields=drift)
            await self._bus.js.add_consumer(self._stream, wanted)

    async def _take(self, messages: list[Msg]) -> None:
        """Takes in what came for the first time together, and what was left without an answer one by one."""
        self._look_for_gaps(messages)
        first: list[Msg] = []
        left: list[Msg] = []
        for message in messages:
            (left if self._was_left(message) else first).append(message)
        if first:
            await self._take_together(first)
        for message in left:
            await self._take_alone(message)

    def _look_for_gaps(self, messages: Sequence[Msg]) -> None:
        """Tells of events that were never delivered: NATS leaves out what it finds damaged, and says nothing.

        Of several processes that read for one use each sees only some events, but the count of deliveries is common
        to all: no more numbers can have gone by than deliveries.
        """
        for message in messages:
            if message.metadata.num_delivered > 1 or not STREAMS[self._stream].one_type:
                continue
            delivery, number = message.metadata.sequence.consumer, message.metadata.sequence.stream
            before, self._newest = self._newest, (delivery, number)
            if before and delivery > before[0] and number - before[1] > delivery - before[0]:
                self._bus.tell_loss(self._stream)

    def _was_left(self, message: Msg) -> bool:
        """Whether whoever had an event before gave no answer: then it may have been the end of that process."""
        came = message.metadata.num_delivered
        return came > 1 and self._given_back.pop(message.metadata.sequence.stream, 0) != came - 1

    async def _take_alone(self, message: Msg) -> None:
        """Takes in one event that may end the process, and keeps it first, so that it does so no third time."""
        holding = asyncio.ensure_future(
            self._dead_letters.hold(
                consumer=self._durable,
                subject=message.subject,
                message_type=_type_said(message),
                payload=message.data,
                attempts=message.metadata.num_delivered - 1,
            )
        )
        # None of what is not read here is noted as given back: whoever gets it next has to ask again.
        try:
            number = await _to_its_end(holding)
        except InDoubt as doubt:
            await message.nak(delay=doubt.seconds)
            return
        except asyncio.CancelledError:
            # Told to stop in the middle of it: the letter may be there, and is about an event that nobody has read.
            if number := _result(holding):
                await _to_its_end(asyncio.ensure_future(self._release(number, taken=False)))
            raise
        except Exception as error:
            _LOG.warning("reading waits", consumer=self._durable, error=type(error).__name__)
            await message.nak(delay=_RETRY_SECONDS[0])
            await asyncio.sleep(_RETRY_SECONDS[0])
            return
        if number is None:
            await message.ack()
            return
        self._unreleased[number] = False
        try:
            self._unreleased[number] = await self._take_together([message])
        finally:
            # Also when the process is told to stop: only one that is killed must leave it behind.
            await _to_its_end(asyncio.ensure_future(self._release(number, taken=self._unreleased[number])))

    async def _release(self, number: int, *, taken: bool) -> None:
        self._unreleased[number] = taken
        try:
            await self._dead_letters.release(number, taken=taken)
        except Exception as error:
            _LOG.warning("event is released later", consumer=self._durable, error=type(error).__name__)
        else:
            del self._unreleased[number]

    async def _release_rest(self) -> None:
        """Releases what could not be released because the store was away."""
        for number, taken in list(self._unreleased.items()):
            await self._release(number, taken=taken)
            if number in self._unreleased:
                # Away still; what was read meanwhile must not wait for each.
                return

    async def _give_back(self, message: Msg, seconds: float) -> None:
        """Has an event delivered again later."""
        if len(self._given_back) >= _MAX_ACK_PENDING:
            self._given_back.pop(next(iter(self._given_back)))
        self._given_back[message.metadata.sequence.stream] = message.metadata.num_delivered
        await message.nak(delay=seconds)

    async def _take_together(self, messages: list[Msg]) -> bool:
        """Returns whether all of them were taken in."""
        readable: list[tuple[Msg, Received[M]]] = []
        for message in messages:
            try:
                readable.append((message, self._read(message)))
            except (DecodeError, ValueError) as error:
                await self._fail(message, error, final=True)
        if not readable:
            return False
        try:
            await self._handle([received for _, received in readable])
        except Exception as error:
            # Too much at once would be so for ever: the same events come again together.
            too_much = postgres.took_too_long(error) and len(readable) > 1
            if is_passing(error) and not too_much:
                _LOG.warning("reading waits", consumer=self._durable, error=type(error).__name__)
                await asyncio.gather(*(self._give_back(message, _RETRY_SECONDS[0]) for message, _ in readable))
                await asyncio.sleep(_RETRY_SECONDS[0])
            elif len(readable) == 1:
                await self._fail(readable[0][0], error)
            else:
                for message, _ in readable:
                    await self._take_together([message])
            return False
        await asyncio.gather(*(message.ack() for message, _ in readable))
        return len(readable) == len(messages)

    def _read(self, message: Msg) -> Received[M]:
        said = _type_said(message)
        if said not in ("", self._message.DESCRIPTOR.full_name):
            raise ValueError(f"is of another type than its subject says: {said}")
        if not message.data:
            # As protobuf it would be an event in which nothing is set; every event of ours has an id.
            raise ValueError("is empty")
        parsed = self._message.FromString(message.data)
        return Received(parsed, message.metadata.num_delivered, message.metadata.sequence.stream)

    async def _fail(self, message: Msg, error: Exception, *, final: bool = False) -> None:
        attempts = message.metadata.num_delivered
        _LOG.error("event refused", consumer=self._durable, attempts=attempts, exc_info=error)
        if final or attempts >= _ATTEMPTS_BEFORE_DEAD_LETTER:
            try:
                await self._dead_letters.keep(
                    consumer=self._durable,
                    subject=message.subject,
                    message_type=_type_said(message),
                    payload=message.data,
                    error=error,
                    attempts=attempts,
                )
            except Exception as keeping:
                _LOG.error("dead letter could not be kept; the event stays", exc_info=keeping)
            else:
                await message.ack()
                return
        await self._give_back(message, _RETRY_SECONDS[min(attempts, len(_RETRY_SECONDS)) - 1])


def _type_said(message: Msg) -> str:
    return (message.headers or {}).get("Opennotice-Type", "")[:200]


async def _to_its_end(work: asyncio.Future[T]) -> T:
    """Waits for a short piece of work also when told to stop meanwhile, and only then stops.

    More than a shield, which waits no longer: the frame says it again and again, and then closes the store.
    """
    told: asyncio.CancelledError | None = None
    left: float | None = None
    ends = 0.0
    while not work.done():
        if told and (left := ends - time.monotonic()) <= 0:
            work.cancel()
            break
        try:
            await asyncio.wait({work}, timeout=left)
        except asyncio.CancelledError as stop:
            ends = ends or time.monotonic() + _STOP_SECONDS
            told = stop
    if told:
        raise told
    return work.result()


def _result(work: asyncio.Future[T]) -> T | None:
    """Returns what came of a piece of work, if anything did."""
    return None if not work.done() or work.cancelled() or work.exception() else work.result()


async def _gather(reader: Any) -> list[Msg]:
    """Waits for one event, then a moment for more; an empty list when nothing came."""
    try:
        found: list[Msg] = await reader.fetch(1, timeout=_LINGER_SECONDS)
    except TimeoutError:
        return []
    try:
        return found + list(await reader.fetch(_MOST_AT_ONCE - 1, timeout=_GATHER_SECONDS))
    except (TimeoutError, NatsError):
        # A fault shows again with the next round; what is in hand must not wait for that.
        return found
