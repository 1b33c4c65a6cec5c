"""A process whose loop stands still after a while, as in an endless loop.

`python -m tests.chassis.hanging` with the settings of its key and its probe as JSON on standard input.
"""

import asyncio
import json
import sys
import time

from services.chassis import serve
from services.chassis.serve import Process
from services.chassis.settings import Address, ServiceSettings

HUNG_SECONDS = 2.0


async def wire(process: Process) -> None:
    """Works for longer than a process may hang, and hangs then."""

    async def loop() -> None:
        await asyncio.sleep(2 * HUNG_SECONDS)
        print("hangs now", flush=True)
        time.sleep(60)  # noqa: ASYNC251  (that is what is tried)

    process.add_loop("hangs", loop)


if __name__ == "__main__":
    serve._HUNG_SECONDS = HUNG_SECONDS
    given = json.load(sys.stdin)
    settings = ServiceSettings(
        probe_bind=Address("127.0.0.1", given["port"]), identity_key=given["key"], identity_trust=given["trust"]
    )
    serve.run("link", settings, wire)
