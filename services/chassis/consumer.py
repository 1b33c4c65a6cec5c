"""Reading events: one reader for one use, in packs, acknowledged after the commit of what they caused.

What cannot be taken in becomes a dead letter. What may have ended a process is read alone then, and never a third time.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import DecodeError, Message
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import api
from nats.js.errors import NotFoundError

from services.chassis import log, postgres
from services.chassis.bus import STREAMS, Bus, subject_for
from services.chassis.dead_letters import DeadLetters, InDoubt
from services.chassis.errors import Unavailable

_LOG = log.get(__name__)

M = TypeVar("M", bound=Message)
T = TypeVar("T")

# Also how long an event waits that a killed reader had taken. Far above what a batch takes; one that takes longer is
# read twice, which does no harm.
_ACK_WAIT_SECONDS = 10.0
_MAX_ACK_PENDING = 1000
_ATTEMPTS_BEFORE_DEAD_LETTER = 5
# Together under the minute within which somebody is to hear of an event that cannot be taken in.
_RETRY_SECONDS = (1.0, 4.0, 10.0, 30.0)
# How long a reader gathers after the first event: a round of one costs as much as a round of fifty.
_GATHER_SECONDS = 0.1
_MOST_AT_ONCE = 16
_LINGER_SECONDS = 5.0
# How long a process that is told to stop waits for a store that may be away.
_STOP_SECONDS = 5.0
# What must agree between what we ask for and what is there; the rest the server fills in.
_CONSUMER_FIELDS = ("ack_policy", "ack_wait", "max_deliver", "max_ack_pending", "filter_subject")


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
