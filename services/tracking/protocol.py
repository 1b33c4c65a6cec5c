"""HTTP/1.1 for visitors: what a connection may send, how much of it and how slowly; one write an answer.

On the parser alone, because a general server builds more for each request than the whole answer costs, and lets a
connection send a head of any size and for as long as it likes.
"""

import asyncio
import email.utils
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import cast

import httptools

from services.chassis import log
from services.tracking import metrics

_LOG = log.get(__name__)

TARGET_BYTES = 8 * 1024
# Generous, for odd phones and gateways send odd headers and their visits count; the proxy in front is stricter.
_HEAD_BYTES = 128 * 1024
_HEADERS = 128
_HEAD_SECONDS = 10.0
_KEEP_ALIVE_SECONDS = 15.0
# How long a visitor may leave an answer lying that is there for them.
_TAKE_SECONDS = 30.0
# How long an open connection may still ask for something when the process ends.
_LAST_REQUEST_SECONDS = 0.5

ALLOW = b"GET, HEAD, OPTIONS"
_TOLD = {400: b"bad request", 405: b"method not allowed", 408: b"request time-out", 414: b"address too long",
         431: b"request header too large", 500: b"internal error"}  # fmt: skip
_STATUS_LINE = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}

Headers = list[tuple[bytes, bytes]]
# Status, header lines, body.
Answer = tuple[int, bytes, bytes]


def lines(*headers: tuple[bytes, bytes]) -> bytes:
    """Returns headers as they are sent."""
    return b"".join(b"%b: %b\r\n" % header for header in headers)


_REFUSED = lines(
    (b"content-type", b"text/plain; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-robots-tag", b"noindex"),
    (b"x-content-type-options", b"nosniff"),
)


@dataclass(slots=True)
class Request:
    """A request, its target as it was sent: there must be one reading of it."""

    method: str
    target: bytes
    headers: Headers
    # Address of the other end; empty when the socket has none.
    peer: str
    keep_alive: bool


@dataclass(slots=True)
class Shared:
    """What all connections of a server have in common."""

    app: Callable[[Request], Awaitable[Answer]]
    connections: set["PublicProtocol"] = field(default_factory=set)
    date: bytes = b""

    def set_date(self) -> None:
        """Makes the header with the time of now."""
        self.date = lines((b"date", email.utils.formatdate(usegmt=True).encode()))


class PublicProtocol(asyncio.Protocol):
    """One connection of a visitor. Its requests are answered one after the other, in order."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        # What follows a request that ends the connection is dropped; it must not cost that request its answer.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._transport: asyncio.Transport
        self._peer = ""
        self._target = b""
        self._headers: Headers = []
        self._refusal = 400
        self._head_bytes = 0
        self._head_began: float | None = None
        self._idle_since: float | None = None
        # Since when an answer could not be handed over, or the end of the connection waits for that.
        self._stalled_since: float | None = None
        self._answering: asyncio.Task[None] | None = None
        # What came while a request was being answered; a number is the refusal of one that cannot be read.
        self._waiting: deque[Request | int] = deque()
        self._writable: asyncio.Event | None = None
        self._is_paused = False
        self._is_broken = False
        self._is_last = False

    # What the transport tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins to wait for the first request."""
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if peer else ""
        self._shared.connections.add(self)
        self._head_began = time.monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection; an open that is being recorded is recorded all the same."""
        self._shared.connections.discard(self)
        self._waiting.clear()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Feeds the parser; what it cannot take is answered once and ends the connection."""
        if self._is_broken or self._transport.is_closing():
            return
        self._idle_since = None
        if self._head_began is not None:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
            if self._head_began is not None and self._head_bytes > _HEAD_BYTES:
                self.refuse(431)
        except httptools.HttpParserUpgrade:
            # Nothing here can be upgraded to; the request itself is answered as any other, and is the last.
            self._is_broken = True
        except httptools.HttpParserInvalidMethodError:
            self.refuse(405)
        except httptools.HttpParserError:
            self.refuse(self._refusal)

    def eof_received(self) -> bool:
        """Lets a visitor who has said all have the answers to it."""
        self._is_last = True
        return self._answering is not None

    def pause_writing(self) -> None:
        """Waits with the next answer for a visitor who does not take this one."""
        self._writable = asyncio.Event()
        self._stalled_since = time.monotonic()

    def resume_writing(self) -> None:
        """Goes on."""
        self._stalled_since = None
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    # What the parser tells.

    def on_message_begin(self) -> None:
        """Starts to count the head of a request."""
        self._target, self._headers = b"", []
        self._head_began = time.monotonic()
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Gathers the target, up to its limit."""
        self._target += url
        if len(self._target) > TARGET_BYTES:
            self._stop(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Gathers a header, up to the limits."""
        self._headers.append((name.lower(), value))
        if len(self._headers) > _HEADERS:
            self._stop(431)

    def on_headers_complete(self) -> None:
        """Answers the request, or lets it wait for the one before."""
        self._head_began = None
        method = self._parser.get_method()
        if method == b"CONNECT":
            self._stop(405)
        if any(name == b"transfer-encoding" and value.strip().lower() != b"chunked" for name, value in self._headers):
            # The parser says no as well, but only when the app is at work already and would record an open.
            self._stop(400)
        keep_alive = (
            self._parser.should_keep_alive()
            and self._parser.get_http_version() != "1.0"
            and not self._parser.should_upgrade()
            # Nothing here takes a body from a visitor, so none is read.
            and not self._has_body()
        )
        request = Request(method.decode("ascii"), self._target, self._headers, self._peer, keep_alive)
        if self._answering is None:
            self._answering = self._loop.create_task(self._answer(request))
        else:
            self._wait(request)

    def _has_body(self) -> bool:
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0")
            for name, value in self._headers
        )

    def _stop(self, status: int) -> None:
        self._refusal = status
        raise ValueError(status)

    # What is answered.

    def _wait(self, what: Request | int) -> None:
        self._waiting.append(what)
        # Not more of them than one read brings.
        self._is_paused = True
        self._transport.pause_reading()

    async def _answer(self, request: Request) -> None:
        while True:
            try:
                answer = await self._shared.app(request)
            except Exception as error:
                _LOG.error("a request could not be answered", exc_info=error)
                metrics.FAILED.labels("500").inc()
                answer = 500, _REFUSED, _TOLD[500] + b"\n"
                request.keep_alive = False
            if self._transport.is_closing():
                return
            ends = not request.keep_alive or (self._is_last and not self._waiting)
            self._write(request.method, answer, ends)
            if ends:
                self._transport.close()
                return
            if self._writable is not None:
                await self._writable.wait()
            if not self._waiting:
                break
            following = self._waiting.popleft()
            if isinstance(following, int):
                self._refuse_now(following)
                return
            request = following
        self._answering = None
        self._idle_since = time.monotonic()
        if self._is_paused and not self._transport.is_closing():
            self._is_paused = False
            self._transport.resume_reading()

    def _write(self, method: str, answer: Answer, ends: bool) -> None:
        status, headers, body = answer
        self._transport.write(
            b"".join(
                (
                    _STATUS_LINE[status],
                    self._shared.date,
                    headers,
                    # 204 has neither a body nor a length.
                    b"content-length: %d\r\n" % len(body) if status != 204 else b"",
                    b"connection: close\r\n\r\n" if ends else b"\r\n",
                    body if method != "HEAD" else b"",
                )
            )
        )

    def refuse(self, status: int) -> None:
        """Answers a request that cannot be read, after those before it, and closes."""
        if self._transport.is_closing() or self._is_broken:
            return
        self._is_broken = True
        self._head_began = None
        if self._answering is None:
            self._refuse_now(status)
        else:
            self._wait(status)

    def _refuse_now(self, status: int) -> None:
        allow = lines((b"allow", ALLOW)) if status == 405 else b""
        self._write("", (status, _REFUSED + allow, _TOLD[status] + b"\n"), ends=True)
        self._transport.close()

    # What the server asks for.

    def sweep(self, now: float) -> None:
        """Ends it when a request does not come to its end, no other comes, or an answer is not taken."""
        if self._stalled_since is None and self._transport.is_closing():
            self._stalled_since = now
        if self._stalled_since is not None:
            if now - self._stalled_since > _TAKE_SECONDS:
                self._transport.abort()
        elif self._head_began is not None and now - self._head_began > _HEAD_SECONDS:
            self.refuse(408)
        elif self._idle_since is not None and now - self._idle_since > _KEEP_ALIVE_SECONDS:
            self._transport.close()

    def shutdown(self) -> None:
        """Ends the connection when the process ends, but not under a request that is on its way.

        The visitor of a connection that has not asked for anything yet would get an error although the next process is
        about to take over the socket. So it gets a moment to ask, is answered, and then closed.
        """
        self._is_last = True
        if self._answering is None:
            self._loop.call_later(_LAST_REQUEST_SECONDS, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self._answering is None:
            self._transport.close()

    def abort(self) -> None:
        """Ends it at once."""
        self._transport.abort()
