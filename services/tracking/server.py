"""Serves the edge on the public socket, inside the process."""

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable

from services.chassis.outbox import Wakes
from services.tracking.protocol import Answer, PublicProtocol, Request, Shared

# Shorter than the frame gives each thing that it closes.
_DRAIN_SECONDS = 4.0
_LOOK_SECONDS = 0.05
_SWEEP_SECONDS = 1.0
_BACKLOG = 2048
# Packs of one moment leave together: publishing each commit by itself would cost more than the commits.
_RELAY_PAUSE_SECONDS = 0.1


class PublicServer:
    """The listening socket and its connections."""

    def __init__(self, app: Callable[[Request], Awaitable[Answer]], listener: socket.socket) -> None:
        self._listener = listener
        self._shared = Shared(app)
        self._server: asyncio.Server | None = None
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to answer."""
        self._shared.set_date()
        self._server = await asyncio.get_running_loop().create_server(
            lambda: PublicProtocol(self._shared), sock=self._listener, backlog=_BACKLOG
        )
        self._sweeping = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        """Ends connections that wait for too long; one pass costs less than a timer for each."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self._shared.set_date()
            now = time.monotonic()
            for connection in list(self._shared.connections):
                connection.sweep(now)

    async def close(self) -> None:
        """Takes no more requests and lets those under way be answered."""
        if self._server is None or self._sweeping is None:
            return
        self._server.close()
        for connection in list(self._shared.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                # Nobody tells when the last of them has gone.
                while self._shared.connections:  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_SECONDS)
        self._sweeping.cancel()
        for connection in list(self._shared.connections):
            connection.abort()


class Waker:
    """Wakes the relay a moment after a commit, once for all commits of that moment."""

    def __init__(self, relay: Wakes) -> None:
        self._relay = relay
        self._is_due = False

    def wake(self) -> None:
        """Called after each commit."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(_RELAY_PAUSE_SECONDS, self._go)

    def _go(self) -> None:
        self._is_due = False
        self._relay.wake()
