"""The public server with nothing behind it: a redirect that looks up and records nothing."""

import asyncio
import socket
import sys
from typing import Any

import uvloop

from services.tracking.server import PublicServer

_HEADERS = [(b"cache-control", b"no-store"), (b"location", b"https://court.example.gov/"), (b"content-length", b"0")]


async def answer(_scope: Any, _receive: Any, send: Any) -> None:
    """Answers every request alike."""
    await send({"type": "http.response.start", "status": 302, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": b""})


async def main(port: int) -> None:
    """Serves until it is killed."""
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    listener.setblocking(False)
    PublicServer(answer, listener).start(on_end=sys.exit)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
