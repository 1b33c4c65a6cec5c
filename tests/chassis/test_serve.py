"""What a process is wired from: its loops go on, whatever ends them, until the process ends."""

import asyncio

from services.chassis.serve import Process
from tests.fix_rpc import Keyring


async def test_a_loop_that_somebody_else_cancelled_goes_on(keyring: Keyring) -> None:
    process = Process("auth", keyring.settings("auth"))
    rounds = 0
    again = asyncio.Event()

    async def loop() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            # As a library does to those who wait for it when its connection ends.
            raise asyncio.CancelledError
        again.set()
        await asyncio.Event().wait()

    process.add_loop("test", loop)
    async with asyncio.timeout(5):
        await again.wait()
    async with asyncio.timeout(5):
        await process._end()
    assert rounds == 2
