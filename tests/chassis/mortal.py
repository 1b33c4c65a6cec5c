"""A process that reads events and is killed by some of them, as by one that takes all memory.

`python -m tests.chassis.mortal NATS_URL DATABASE_URL`; what it took in stands in frame.seen.
"""

import asyncio
import os
import signal
import sys

from nats.aio.msg import Msg
from opennotice.auth.v1 import events_pb2

from services.chassis import consumer as consumer_module
from services.chassis import dead_letters
from services.chassis.bus import Bus
from services.chassis.consumer import Consumer, Received
from services.chassis.dead_letters import DeadLetters
from services.chassis.postgres import Database

DURABLE = "test-agency-changed-v1"
DEADLY = b"deadly"


class Mortal(Consumer[events_pb2.AgencyChanged]):
    """Dies while it reads what is deadly."""

    def _read(self, message: Msg) -> Received[events_pb2.AgencyChanged]:
        if DEADLY in message.data:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._read(message)


async def main(nats_url: str, database_url: str) -> None:
    """Reads until it dies."""
    consumer_module._ACK_WAIT_SECONDS = 1.0
    dead_letters._DOUBT_SECONDS = 1.0
    bus, pool = Bus(nats_url, "mortal", ["AUTH"]), Database(database_url, name="mortal")
    await pool.open()

    async def handle(batch: list[Received[events_pb2.AgencyChanged]]) -> None:
        async with pool.transaction() as conn:
            for one in batch:
                await conn.execute("insert into frame.seen values (%s)", (one.message.agency.display_name,))

    reader = Mortal(
        bus,
        stream="AUTH",
        durable=DURABLE,
        message=events_pb2.AgencyChanged,
        handle=handle,
        dead_letters=DeadLetters(pool, "frame"),
    )
    await asyncio.gather(bus.run(), reader.run())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
