"""Opens as they arrive: a stream of reporting, as server-sent events with rows that the page shows as they are.

A stream lives longer than an identity (about a minute). Before one runs out a second stream is opened with a fresh one,
and only when that has said its first word is the old one let go, so nothing falls between the two; what both bring is
sent once. Every few seconds the session is looked at again: when it has ended, the stream ends.

Events: without a name, rows of HTML; `missed`, list again; `signed-out`, the session has ended.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Any

from litestar import Request
from litestar.response import ServerSentEvent
from litestar.response.sse import ServerSentEventMessage
from opennotice.reporting.v1 import reporting_pb2

from gateway.access import Gate, Visitor, gate_of
from gateway.clients import Connections
from services.chassis import log
from services.chassis.errors import ResourceExhausted, ServiceError, Unauthenticated

Render = Callable[[list[reporting_pb2.Open]], str]

HEARTBEAT_SECONDS = 10.0
# With the three seconds that an exchange is remembered a session that was ended is noticed within five.
SESSION_CHECK_SECONDS = 2.0
# An identity is renewed while it is still good for this long.
RENEW_SECONDS = 20.0
# How long the old stream may still bring what it had when the new one began.
OVERLAP_SECONDS = 2.0
RETRY_MILLISECONDS = 2000
WAITING_MESSAGES = 50
REMEMBERED_OPENS = 2000
MOST_PER_SESSION = 10
MOST_STREAMS = 500

_log = log.get(__name__)
_open_streams: Counter[str] = Counter()


def opens(
    request: Request[Any, Any, Any], visitor: Visitor, chosen: reporting_pb2.OpenFilter, render: Render
) -> ServerSentEvent:
    """Answers with a stream of rendered opens."""
    if _open_streams[visitor.credential] >= MOST_PER_SESSION or _open_streams.total() >= MOST_STREAMS:
        raise ResourceExhausted("TOO_MANY_STREAMS", "too many live pages are open; close one")
    feed = Feed(request.app.state.connections, gate_of(request), gate_of(request).address_of(request), visitor, chosen)
    return ServerSentEvent(
        _events(feed, visitor.credential, render),
        retry_duration=RETRY_MILLISECONDS,
        headers={"cache-control": "no-store"},
    )


async def _events(feed: "Feed", credential: str, render: Render) -> AsyncIterator[ServerSentEventMessage]:
    """Yields what the browser is sent."""
    _open_streams[credential] += 1
    try:
        yield ServerSentEventMessage(comment="open")
        async for found, missed in feed.arrivals():
            if missed:
                yield ServerSentEventMessage(event="missed", data="list again")
            elif found:
                yield ServerSentEventMessage(data=render(found))
            else:
                yield ServerSentEventMessage(comment="still here")
    except Unauthenticated:
        yield ServerSentEventMessage(event="signed-out", data="the session has ended")
    except ServiceError as error:
        # The browser connects again by itself; until then its page says that it is not live.
        _log.info("a live stream ended", reason=error.reason)
    finally:
        # Nothing here may wait: a browser that left has cancelled us, and every wait would be cancelled too.
        feed.close()
        _open_streams.subtract([credential])
        if not _open_streams[credential]:
            del _open_streams[credential]


class Feed:
    """The opens that match a filter, for as long as a session lasts."""

    def __init__(
        self,
        connections: Connections,
        gate: Gate,
        source_address: str,
        visitor: Visitor,
        chosen: reporting_pb2.OpenFilter,
    ) -> None:
        self._connections = connections
        self._gate = gate
        self._source_address = source_address
        self._visitor = visitor
        self._chosen = chosen
        self._arrived: asyncio.Queue[reporting_pb2.WatchOpensResponse | ServiceError] = asyncio.Queue(WAITING_MESSAGES)
        self._sent: OrderedDict[str, None] = OrderedDict()
        self._pumps: list[asyncio.Task[None]] = []

    async def arrivals(self) -> AsyncIterator[tuple[list[reporting_pb2.Open], bool]]:
        """Yields (opens, missed) as they come, and ([], False) as a sign of life; raises when the session has ended."""
        loop = asyncio.get_running_loop()
        await self._begin()
        checked = spoke = loop.time()
        while True:
            got = await self._next(SESSION_CHECK_SECONDS)
            if loop.time() - checked >= SESSION_CHECK_SECONDS:
                await self._check_session()
                checked = loop.time()
            if got is not None and (got.missed or got.opens):
                new = self._unsent(got)
                if got.missed or new:
                    yield new, got.missed
                    spoke = loop.time()
            elif loop.time() - spoke >= HEARTBEAT_SECONDS:
                yield [], False
                spoke = loop.time()

    def close(self) -> None:
        """Lets go of every stream."""
        for pump in self._pumps:
            pump.cancel()

    async def _next(self, seconds: float) -> reporting_pb2.WatchOpensResponse | None:
        try:
            async with asyncio.timeout(seconds):
                got = await self._arrived.get()
        except TimeoutError:
            return None
        if isinstance(got, ServiceError):
            raise got
        return got

    async def _check_session(self) -> None:
        """Raises Unauthenticated when the session has ended; renews the stream before its identity runs out."""
        fresh = await self._gate.still_there(self._visitor, self._source_address)
        if fresh.caller.permissions != self._visitor.caller.permissions:
            # Somebody's role was changed: their page is to be made anew.
            raise Unauthenticated("CREDENTIAL_UNKNOWN", "the role was changed")
        if self._visitor.seconds_left < RENEW_SECONDS < fresh.seconds_left:
            self._visitor = fresh
            await self._begin()

    async def _begin(self) -> None:
        """Opens a stream with the present identity, waits for its first word, then retires the one before."""
        heard = asyncio.Event()
        before = list(self._pumps)
        pump = asyncio.create_task(self._pump(self._visitor, heard))
        self._pumps = [*(task for task in before if not task.done()), pump]
        hearing = asyncio.create_task(heard.wait())
        await asyncio.wait({pump, hearing}, timeout=OVERLAP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        hearing.cancel()
        loop = asyncio.get_running_loop()
        for task in before:
            loop.call_later(OVERLAP_SECONDS, task.cancel)

    async def _pump(self, visitor: Visitor, heard: asyncio.Event) -> None:
        """Moves what one stream brings into the queue; when it is full, reporting waits and tells what it left out."""
        calls = self._connections.calls(visitor.identity_token)
        asked = reporting_pb2.WatchOpensRequest(filter=self._chosen)
        try:
            async for message in calls.stream(calls.reporting.WatchOpens, asked, seconds=None):
                heard.set()
                await self._arrived.put(message)
        except ServiceError as error:
            # An identity that ran out is the end of an old stream, and the new one is there; the session decides.
            if visitor is self._visitor:
                await self._arrived.put(error)

    def _unsent(self, got: reporting_pb2.WatchOpensResponse) -> list[reporting_pb2.Open]:
        """Returns the opens that were not sent yet, and remembers them."""
        new = [found for found in got.opens if found.name not in self._sent]
        for found in new:
            self._sent[found.name] = None
            if len(self._sent) > REMEMBERED_OPENS:
                self._sent.popitem(last=False)
        return new
