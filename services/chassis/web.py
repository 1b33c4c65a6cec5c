"""Serving ASGI inside a running process, next to gRPC and the loops."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn


class WebServer(uvicorn.Server):
    """uvicorn that leaves signals to the process it runs in, and sleeps while nobody asks."""

    def __init__(self, config: uvicorn.Config) -> None:
        self._exit_asked = asyncio.Event()
        super().__init__(config)

    @property
    def should_exit(self) -> bool:
        """Whether it was told to end."""
        return self._exit_asked.is_set()

    @should_exit.setter
    def should_exit(self, asked: bool) -> None:
        if asked:
            self._exit_asked.set()

    async def main_loop(self) -> None:
        """Keeps the Date of answers current. The original looks ten times a second whether it has to end."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._exit_asked.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Does nothing: the frame stops the server."""
        yield


def web_server(app: Any, *, drain_seconds: int, **options: Any) -> WebServer:
    """Builds a server that believes no forwarding header and names no product in its answers."""
    return WebServer(
        uvicorn.Config(
            app,
            # Said, not guessed: a bound method would be taken for the older kind of application.
            interface="asgi3",
            http="httptools",
            loop="none",
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            # Without a limit one open stream keeps the process from ending.
            timeout_graceful_shutdown=drain_seconds,
            **options,
        )
    )


def listening_socket(host: str, port: int) -> socket.socket:
    """Opens a listening socket; raises OSError when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(1024)
    listener.setblocking(False)
    return listener
