"""HTTP/1.1 for visitors: uvicorn's parser with limits that uvicorn does not have.

Without them a head of any size is gathered in memory, and a connection that sends nothing is kept for ever.
"""

import time
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

TARGET_BYTES = 8 * 1024
# Generous, for odd phones and gateways send odd headers and their visits count; the proxy in front is stricter.
_HEAD_BYTES = 128 * 1024
_HEADERS = 128
_HEAD_SECONDS = 10.0
# How long an open connection may still ask for something when the process ends.
_LAST_REQUEST_SECONDS = 0.5

ALLOW = b"GET, HEAD, OPTIONS"
_TOLD = {400: b"bad request", 405: b"method not allowed", 408: b"request time-out", 414: b"address too long",
         431: b"request header too large"}  # fmt: skip


class PublicProtocol(HttpToolsProtocol):
    """One connection of a visitor. The app finds the request target, as sent, in scope["target"]."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._refusal = 400
        self._head_bytes = 0
        self._head_began: float | None = None
        self._is_last = False

    def connection_made(self, transport: Any) -> None:
        """Begins to wait for the first request."""
        super().connection_made(transport)
        self._head_began = time.monotonic()

    def data_received(self, data: bytes) -> None:
        """Feeds the parser; what it cannot take is answered once and ends the connection."""
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        if self._head_began is not None:
            self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
            if self._head_began is not None and self._head_bytes > _HEAD_BYTES:
                self.refuse(431)
        except httptools.HttpParserUpgrade:
            # Nothing here can be upgraded to; the request itself is answered as any other.
            if self.cycle is not None:
                self.cycle.keep_alive = False
        except httptools.HttpParserInvalidMethodError:
            self.refuse(405)
        except httptools.HttpParserError:
            self.refuse(self._refusal)

    def on_message_begin(self) -> None:
        """Starts to count the head of a request."""
        super().on_message_begin()
        self._head_began = time.monotonic()
        self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Gathers the target, up to its limit."""
        super().on_url(url)
        if len(self.url) > TARGET_BYTES:
            self._stop(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Gathers a header, up to the limits."""
        super().on_header(name, value)
        if len(self.headers) > _HEADERS:
            self._stop(431)

    def on_headers_complete(self) -> None:
        """Hands the request to the app, with its target as it was sent."""
        self._head_began = None
        if self.parser.get_method() == b"CONNECT":
            self._stop(405)
        if any(name == b"transfer-encoding" and value.strip().lower() != b"chunked" for name, value in self.headers):
            # The parser says no as well, but only when the app is at work already and would record an open.
            self._stop(400)
        # uvicorn would parse and decode the path in its own way; there must be one reading of it, and it is ours.
        self.scope["target"] = self.url  # type: ignore[typeddict-unknown-key]
        self.url = b"/"
        super().on_headers_complete()
        if self._is_last or self._has_body():
            # Nothing here takes a body from a visitor, so none is read.
            self.cycle.keep_alive = False

    def shutdown(self) -> None:
        """Ends the connection when the process ends, but not under a request that is on its way.

        uvicorn closes a connection that has not asked for anything yet; its visitor would get an error although the
        next process is about to take over the socket. So it gets a moment to ask, is answered, and then closed.
        """
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            return
        self._is_last = True
        self.loop.call_later(_LAST_REQUEST_SECONDS, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def on_body(self, body: bytes) -> None:
        """Drops it."""

    def _has_body(self) -> bool:
        return any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0")
            for name, value in self.headers
        )

    def _stop(self, status: int) -> None:
        self._refusal = status
        raise ValueError(status)

    def refuse(self, status: int) -> None:
        """Answers a request that cannot be read, and closes."""
        if self.transport.is_closing():
            return
        body = _TOLD[status] + b"\n"
        head = [
            STATUS_LINE[status],
            b"content-type: text/plain; charset=utf-8\r\ncontent-length: ", str(len(body)).encode(),
            b"\r\ncache-control: no-store\r\nreferrer-policy: no-referrer\r\nx-robots-tag: noindex\r\n"
            b"x-content-type-options: nosniff\r\nconnection: close\r\n",
        ]  # fmt: skip
        if status == 405:
            head.append(b"allow: " + ALLOW + b"\r\n")
        self.transport.write(b"".join([*head, b"\r\n", body]))
        self.transport.close()

    def is_too_slow(self, now: float) -> bool:
        """Whether the head of a request has been on its way for too long."""
        return self._head_began is not None and now - self._head_began > _HEAD_SECONDS
