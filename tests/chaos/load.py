"""Visitors: an open loop that keeps its rate whatever the server does, and writes down every request.

A program of its own, so that what happens to the one that does the damage does not slow the visitors down:

    python -m tests.chaos.load < plan.json

The plan (class Plan) says where, how fast, how long and with which links. One line of JSON on standard output ends it.
"""

import asyncio
import dataclasses
import json
import math
import random
import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import uvloop

from tests.chaos.ledger import Request
from tests.product import IPHONE

# How long a visitor waits for an answer before they go away.
PATIENCE_SECONDS = 30.0
# A share of all requests each: the shape of what comes in from outside.
MIX = (("valid", 0.85), ("expired", 0.05), ("unknown", 0.05), ("machine", 0.03), ("hostile", 0.02))
# So many visitors that wait at once are more than a machine of two cores can hold; the load itself has failed then.
_MOST_AT_ONCE = 8_000
# Files that this process may have open for them, as far as its account lets it.
_OPEN_FILES = 2 * _MOST_AT_ONCE

_AGENTS = (
    IPHONE,
    "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile"
    " Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:127.0) Gecko/20100101 Firefox/127.0",
)
# What a referrer says in front of the number of its request. It comes back in the report, and ties a row to its line.
REFERRER = "https://mail.example/message/"


@dataclass(frozen=True)
class Plan:
    """What one run of visitors does."""

    host: str
    port: int
    # Requests a second, at random moments.
    rate: float
    seconds: float
    seed: int
    ledger: str
    # Tokens of links that work; the first are asked for most.
    tokens: list[str]
    expired: list[str] = field(default_factory=list)
    # Where the numbers of requests go on.
    first: int = 0
    # Only requests for links that work, without anything odd.
    plain: bool = False


class Answer(asyncio.Protocol):
    """One request on a connection of its own, as a visitor's browser makes it."""

    def __init__(self, request: bytes, done: "asyncio.Future[tuple[int, str]]", without_body: bool) -> None:
        self._request = request
        self._done = done
        self._without_body = without_body
        self._data = b""
        self._transport: Any = None

    def connection_made(self, transport: Any) -> None:
        """Asks."""
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Gathers until the answer is whole."""
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found or self._done.done():
            return
        lines = head.split(b"\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in lines[1:] if b": " in line)
        if self._without_body or len(body) >= int(headers.get(b"content-length", b"0")):
            self._done.set_result((int(lines[0].split(b" ", 2)[1]), headers.get(b"x-open-id", b"").decode()))
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Says that no whole answer came."""
        if not self._done.done():
            self._done.set_exception(ConnectionResetError("cut" if self._data else "closed"))


class Visitors:
    """All requests of a plan."""

    def __init__(self, plan: Plan, ledger: TextIO) -> None:
        self._plan = plan
        self._ledger = ledger
        self._random = random.Random(plan.seed)
        count = len(plan.tokens)
        # Zipf: the second link is asked for half as often as the first, and so on.
        total, self._shares = 0.0, list[float]()
        for rank in range(1, count + 1):
            total += 1 / rank
            self._shares.append(total)
        self._under_way: set[asyncio.Task[None]] = set()
        self.dropped = 0

    async def run(self) -> int:
        """Sends everything at its moment; returns how many were sent."""
        plan = self._plan
        number, due = plan.first, time.time()
        end = due + plan.seconds
        while due < end:
            pause = due - time.time()
            if pause > 0:
                await asyncio.sleep(pause)
            if len(self._under_way) >= _MOST_AT_ONCE:
                self.dropped += 1
            else:
                task = asyncio.create_task(self._visit(number, due))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
            number += 1
            due += -math.log(1.0 - self._random.random()) / plan.rate
        if self._under_way:
            await asyncio.wait(self._under_way)
        return number - plan.first

    async def _visit(self, number: int, planned: float) -> None:
        kind, link, method, request = self._request(number)
        done: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        sent, status, open_id, error = time.time(), 0, "", ""
        transport: asyncio.BaseTransport | None = None
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                transport, _ = await asyncio.get_running_loop().create_connection(
                    lambda: Answer(request, done, method == "HEAD"), self._plan.host, self._plan.port
                )
                status, open_id = await done
        except (OSError, TimeoutError, ValueError) as failure:
            error = type(failure).__name__
        finally:
            if transport is not None:
                transport.close()
            # Cancelled or failed before anybody waited for it.
            done.cancel()
        received = 0.0 if error else time.time()
        self._ledger.write(Request(number, kind, link, planned, sent, received, status, open_id, error).line())

    def _request(self, number: int) -> tuple[str, int, str, bytes]:
        plan, chance = self._plan, self._random
        kind = "valid" if plan.plain else chance.choices([name for name, _ in MIX], [share for _, share in MIX])[0]
        if kind == "expired" and not plan.expired:
            kind = "valid"
        if kind == "unknown":
            link, token = -1, f"{chance.getrandbits(128):022x}"[-22:]
        elif kind == "expired":
            link = chance.randrange(len(plan.expired))
            token = plan.expired[link]
        else:
            link = chance.choices(range(len(plan.tokens)), cum_weights=self._shares)[0]
            token = plan.tokens[link]
        method = "HEAD" if kind == "machine" and chance.random() < 0.5 else "GET"
        lines = [
            f"{method} /{token} HTTP/1.1".encode(),
            f"Host: {plan.host}:{plan.port}".encode(),
            f"Referer: {REFERRER}{number}".encode(),
            f"X-Forwarded-For: 203.0.{chance.randrange(256)}.{chance.randrange(256)}".encode(),
            b"Accept-Language: en-US,en;q=0.9",
            b"Connection: close",
        ]
        agent = chance.choice(_AGENTS).encode()
        if kind == "machine" and method == "GET":
            lines.append(b"Sec-Purpose: prefetch")
        if kind == "hostile":
            agent, extra = chance.choice(_HOSTILE)
            lines += extra
        if agent:
            lines.append(b"User-Agent: " + agent)
        return kind, link, method, b"\r\n".join([*lines, b"", b""])


# Agents and headers as attackers and broken programs send them; each of these requests is answered and recorded.
_HOSTILE: tuple[tuple[bytes, list[bytes]], ...] = (
    (b"", []),
    (b"\xff\xfe\xe9", []),
    (b"A" * 8_000, []),
    (b"'; drop table raw_opens; --", [b"Cookie: " + b"x" * 4_000]),
    (b"=cmd|'/c calc'!A1", [b"Forwarded: for=unknown", b"X-Real-IP: 010.0.0.1"]),
    (b"<script>alert(1)</script>", [b"Accept-Language: " + b"x" * 5_000]),
)


def main() -> None:
    """Runs the plan of standard input."""
    plan = Plan(**json.load(sys.stdin))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(_OPEN_FILES, most), most))
    # Line by line: what has been written when this process dies is there.
    with Path(plan.ledger).open("a", buffering=1) as ledger:
        visitors = Visitors(plan, ledger)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            sent = runner.run(visitors.run())
    print(json.dumps({"sent": sent, "dropped": visitors.dropped}))


def as_json(plan: Plan) -> str:
    """Returns a plan as the program reads it."""
    return json.dumps(dataclasses.asdict(plan))


if __name__ == "__main__":
    main()
