"""One connection of a visitor, and what ends it."""

import asyncio
import socket
import time

import pytest

from services.tracking.protocol import Answer, PublicProtocol, Request, Shared

HEAD = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"


async def answer(_: Request) -> Answer:
    """Answers with more than fits between two sockets whose other end does not read."""
    return 200, b"", b"x" * 50_000


@pytest.fixture
def shared() -> Shared:
    """Gives the connections of a server that answers."""
    return Shared(answer)


async def connect(shared: Shared) -> socket.socket:
    """Connects as a visitor who takes little at a time."""
    server = await asyncio.get_running_loop().create_server(lambda: PublicProtocol(shared), "127.0.0.1", 0)
    visitor = socket.socket()
    visitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    visitor.setblocking(False)
    await asyncio.get_running_loop().sock_connect(visitor, server.sockets[0].getsockname())
    while not shared.connections:
        await asyncio.sleep(0.01)
    server.close()
    return visitor


@pytest.mark.parametrize("ending", ["", "Connection: close\r\n"], ids=["kept", "closed"])
async def test_a_visitor_who_leaves_an_answer_lying_is_let_go_after_a_while(shared: Shared, ending: str) -> None:
    visitor = await connect(shared)
    (connection,) = shared.connections
    last = HEAD.replace(b"\r\n\r\n", b"\r\n" + ending.encode() + b"\r\n")
    await asyncio.get_running_loop().sock_sendall(visitor, HEAD * 100 + last)
    await asyncio.sleep(0.2)
    now = time.monotonic()
    connection.sweep(now)
    connection.sweep(now + 29)
    await asyncio.sleep(0.05)
    assert shared.connections, "phones stall for moments"
    connection.sweep(now + 31)
    await asyncio.sleep(0.05)
    assert not shared.connections
    visitor.close()


async def test_a_visitor_who_takes_an_answer_slowly_gets_all_of_it(shared: Shared) -> None:
    visitor = await connect(shared)
    (connection,) = shared.connections
    await asyncio.get_running_loop().sock_sendall(visitor, HEAD * 100)
    taken = 0
    while taken < 100 * 50_000:
        taken += len(await asyncio.get_running_loop().sock_recv(visitor, 65_536))
        connection.sweep(time.monotonic())
    assert shared.connections
    visitor.close()
