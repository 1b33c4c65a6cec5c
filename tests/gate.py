"""A way between two processes that a test can shut, or hold so that nothing comes through and nothing breaks."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any


class Gate:
    """A TCP proxy on loopback: open, shut (connections refused, those there cut), held (accepted, never answered),
    slow, or cutting connections between a request and its answer.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._loop = asyncio.new_event_loop()
        self._moving = asyncio.Event()
        self._answering = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._delay_seconds = 0.0
        self._cut_next = False
        # How many connections were cut in place of an answer.
        self.cuts = 0
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.port = self._run(self._listen(0))
        self.open()

    def _run(self, work: Coroutine[Any, Any, int]) -> int:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self, port: int) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        return int(self._server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._moving.wait()
            there, back = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.close()
            return
        self._writers.add(back)
        await asyncio.gather(
            self._pass_on(reader, back, self._moving), self._pass_on(there, writer, self._answering, is_answer=True)
        )
        self._writers -= {writer, back}

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, may: asyncio.Event, *, is_answer: bool = False
    ) -> None:
        try:
            while data := await reader.read(65536):
                await may.wait()
                if is_answer and self._cut_next:
                    self._cut_next = False
                    self.cuts += 1
                    writer.transport.abort()
                    return
                if self._delay_seconds:
                    await asyncio.sleep(self._delay_seconds)
                writer.write(data)
                await writer.drain()
        except OSError:
            return
        finally:
            writer.close()

    def open(self) -> None:
        """Lets everything through."""

        async def work() -> int:
            if self._server is None:
                await self._listen(self.port)
            self._moving.set()
            self._answering.set()
            return 0

        self._run(work())

    def hold(self) -> None:
        """Lets nothing through, like a frozen server: connections stay and new ones are accepted."""

        async def work() -> int:
            self._moving.clear()
            self._answering.clear()
            return 0

        self._run(work())

    def hold_answers(self) -> None:
        """Lets everything through to the server and nothing back: what was asked is done, and nobody hears of it."""

        async def work() -> int:
            self._answering.clear()
            return 0

        self._run(work())

    def delay(self, seconds: float) -> None:
        """Lets everything through, later: each way takes so much longer, until it is 0 again."""
        self._loop.call_soon_threadsafe(setattr, self, "_delay_seconds", seconds)

    def cut_next_answer(self) -> None:
        """Cuts the next connection on which an answer comes, instead of the answer: what was asked has been done."""
        self._loop.call_soon_threadsafe(setattr, self, "_cut_next", True)

    def shut(self) -> None:
        """Refuses and cuts, like a server that died."""

        async def work() -> int:
            if self._server is not None:
                self._server.close()
                self._server = None
            for writer in list(self._writers):
                writer.transport.abort()
            self._writers.clear()
            self._moving.set()
            self._answering.set()
            return 0

        self._run(work())

    def end(self) -> None:
        """Ends the proxy."""
        self.shut()
        self._loop.call_soon_threadsafe(self._loop.stop)
