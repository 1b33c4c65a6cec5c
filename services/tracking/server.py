"""Serves the edge on the public socket, inside the process."""

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

from services.chassis import log
from services.chassis.outbox import Wakes
from services.chassis.web import web_server
from services.tracking.protocol import PublicProtocol

_LOG = log.get(__name__)

# Shorter than the frame gives each thing that it closes.
_DRAIN_SECONDS = 4
_KEEP_ALIVE_SECONDS = 15
_SWEEP_SECONDS = 1.0
# Packs of one moment leave together: publishing each commit by itself would cost more than the commits.
_RELAY_PAUSE_SECONDS = 0.03


class PublicServer:
    """uvicorn with our protocol."""

    def __init__(self, app: Any, listener: socket.socket) -> None:
        self._listener = listener
        self._server = web_server(
            app, drain_seconds=_DRAIN_SECONDS, timeout_keep_alive=_KEEP_ALIVE_SECONDS, backlog=2048
        )
        self._server.config.http = PublicProtocol
        self._serving: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None

    def start(self, on_end: Callable[[], None]) -> None:
        """Begins to answer; `on_end` is told when serving ends without having been closed."""
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        self._sweeping = asyncio.create_task(self._sweep())

        def ended(task: "asyncio.Task[None]") -> None:
            if not self._server.should_exit:
                _LOG.error("the public server ended", exc_info=task.exception())
                on_end()

        self._serving.add_done_callback(ended)

    async def _sweep(self) -> None:
        """Ends connections whose request does not come to its end; one pass costs less than a timer for each."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = time.monotonic()
            for connection in list(self._server.server_state.connections):
                if isinstance(connection, PublicProtocol) and connection.is_too_slow(now):
                    connection.refuse(408)

    async def close(self) -> None:
        """Takes no more requests and lets those under way be answered."""
        self._server.should_exit = True
        if self._serving is not None:
            await asyncio.wait({self._serving}, timeout=_DRAIN_SECONDS + 0.5)
        if self._sweeping is not None:
            self._sweeping.cancel()


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
