"""The public server with nothing behind it: a redirect that looks up and records nothing."""

import asyncio
import socket
import sys

import uvloop

from services.tracking.protocol import Answer, Request, lines
from services.tracking.server import PublicServer

_ANSWER: Answer = (302, lines((b"cache-control", b"no-store"), (b"location", b"https://court.example.gov/")), b"")


async def answer(_request: Request) -> Answer:
    """Answers every request alike."""
    return _ANSWER


async def main(port: int) -> None:
    """Serves until it is killed."""
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    listener.setblocking(False)
    await PublicServer(answer, listener).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
