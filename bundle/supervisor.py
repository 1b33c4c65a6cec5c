"""Keeps programs running: starts them, waits until they are ready, starts again what dies, stops all in order."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bundle.program import HostFault, Program
from bundle.terminal import LogFile, Terminal

_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 10.0
# A process that ran this long has recovered: its next end is a new story.
_STEADY_SECONDS = 30.0
# One that says its settings are wrong will say so again.
SETTINGS_EXIT = 2
# How often a process that is ready is asked again. One that ends is noticed at once; this finds one that hangs.
_LOOK_SECONDS = 5.0
_LONGEST_LINE = 256 * 1024


@dataclass
class Child:
    """One process that is kept running, and how it is now."""

    name: str
    program: Callable[[], Program]
    is_ready: Callable[[], Awaitable[bool]]
    address: str
    log: LogFile
    # Repairs what a sudden end left, before every start.
    prepare: Callable[[], None] = lambda: None
    # What the very first start has to wait for.
    after: "asyncio.Task[None] | None" = None
    # Whether it lives and yet has to be started again, which nothing else would notice.
    is_stuck: Callable[[], Awaitable[bool]] | None = None
    state: str = "starting"
    restarts: int = 0
    process: asyncio.subprocess.Process | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def as_status(self) -> dict[str, object]:
        """Returns the child as `opennotice status` shows it."""
        pid = self.process.pid if self.process is not None and self.process.returncode is None else None
        return {
            "name": self.name,
            "pid": pid,
            "state": self.state,
            "restarts": self.restarts,
            "address": self.address,
        }


class Supervisor:
    """The parent of every process of the bundle."""

    def __init__(self, terminal: Terminal, on_change: Callable[[Sequence[Child]], None]) -> None:
        self._terminal = terminal
        self._on_change = on_change
        self._stopping = False
        self.children: list[Child] = []
        self.failure: asyncio.Future[HostFault] = asyncio.get_running_loop().create_future()

    def add(self, child: Child) -> None:
        """Starts a program and keeps it running from now on."""
        self.children.append(child)
        child.task = asyncio.create_task(self._keep(child))

    async def wait_ready(self, child: Child, seconds: float) -> None:
        """Waits until a child was ready once; a child that gives up or takes too long raises."""
        waiting = asyncio.ensure_future(child.ready.wait())
        either: list[asyncio.Future[Any]] = [waiting, self.failure]
        await asyncio.wait(either, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if self.failure.done():
            raise self.failure.result()
        if not waiting.done():
            waiting.cancel()
            raise HostFault(f"{child.name} is not ready after {seconds:.0f} s; its log says why: {child.log.path}")

    async def stop(self, order: Sequence[Sequence[str]], grace_seconds: float = 15.0) -> None:
        """Stops everything, one group after the other; what does not stop in its time is killed."""
        self._stopping = True
        for names in order:
            group = [child for child in self.children if child.name in names]
            await asyncio.gather(*(self._end(child, grace_seconds) for child in group))

    async def _end(self, child: Child, grace_seconds: float) -> None:
        if child.process is not None and child.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.process.send_signal(child.program().stop_signal)
            try:
                await asyncio.wait_for(child.process.wait(), grace_seconds)
            except TimeoutError:
                self._terminal.say(f"{child.name} did not stop in {grace_seconds:.0f} s and is killed", level="warning")
                with contextlib.suppress(ProcessLookupError):
                    child.process.kill()
                await child.process.wait()
        if child.task is not None:
            child.task.cancel()
            await asyncio.wait([child.task])
        child.log.close()

    async def _keep(self, child: Child) -> None:
        pause = _FIRST_PAUSE_SECONDS
        if child.after is not None:
            await asyncio.wait([child.after])
        while not self._stopping:
            started = time.monotonic()
            try:
                code = await self._run_once(child)
                ended = _ended(code)
            except HostFault as fault:
                self._give_up(fault)
                return
            except OSError as error:
                if not child.ready.is_set():
                    self._give_up(HostFault(f"{child.name} cannot be run: {error}"))
                    return
                # It ran before: a disk that is full or a machine out of memory is no reason to end everything else.
                code, ended = 1, f"cannot be started: {error}"
            except Exception as error:
                self._give_up(HostFault(f"{child.name} cannot be run: {type(error).__name__}: {error}"))
                raise
            if self._stopping:
                return
            if code == SETTINGS_EXIT and not child.ready.is_set():
                self._change(child, "failed")
                self._give_up(HostFault(f"{child.name} refused its settings"))
                return
            pause = _FIRST_PAUSE_SECONDS if time.monotonic() - started > _STEADY_SECONDS else pause
            self._terminal.say(f"{child.name} {ended}; it is started again in {pause:.1f} s", "opennotice", "warning")
            child.restarts += 1
            self._change(child, "failed")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    async def _run_once(self, child: Child) -> int:
        """Runs a program until it ends; returns how."""
        await asyncio.to_thread(child.prepare)
        program = child.program()
        # Started here, in the main thread: the kernel's death signal is tied to the thread that starts a process.
        child.process = await asyncio.create_subprocess_exec(
            *program.argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LONGEST_LINE,
            **program.arguments(),
        )
        self._change(child, "starting")
        reading = asyncio.create_task(self._read(child, child.process))
        watching = asyncio.create_task(self._watch(child))
        try:
            code = await child.process.wait()
            # What it wrote last says why it ended; a grandchild that holds the pipe must not hold us.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(reading), 1)
            return code
        finally:
            watching.cancel()
            reading.cancel()

    async def _read(self, child: Child, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # longer than any line should be; what follows is read as lines again
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip("\n")
            try:
                child.log.write(text)
            except OSError as error:
                # A full disk must not stop the reading: the process would block on its pipe.
                self._terminal.say(f"cannot write {child.log.path}: {error.strerror}", level="error")
            self._terminal.relay(child.name, text)

    async def _watch(self, child: Child) -> None:
        while not self._stopping:
            ready = await child.is_ready()
            if ready:
                self._change(child, "ready")
                child.ready.set()
                if child.is_stuck is not None and await child.is_stuck():
                    self._start_again(child)
            elif child.state == "ready":
                self._change(child, "failed")
            await asyncio.sleep(_LOOK_SECONDS if ready else 0.1)

    def _start_again(self, child: Child) -> None:
        """Ends a child in its own way; what keeps it running starts it again."""
        self._terminal.say(f"{child.name} cannot go on as it is and is started again", "opennotice", "warning")
        if child.process is not None and child.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                child.process.send_signal(child.program().stop_signal)

    def _change(self, child: Child, state: str) -> None:
        before, child.state = child.state, state
        if before != state or state == "starting":
            if state == "ready" and child.ready.is_set():
                self._terminal.say(f"{child.name} is ready again")
            try:
                self._on_change(self.children)
            except OSError as error:
                # What tells about the children must not end the looking after them.
                self._terminal.say(f"cannot write how the processes are: {error.strerror}", level="error")

    def _give_up(self, fault: HostFault) -> None:
        if not self.failure.done():
            self.failure.set_result(fault)


def _ended(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


async def answers_ready(host: str, port: int) -> bool:
    """Asks a process of ours whether it is ready."""
    try:
        async with asyncio.timeout(2):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return b" 200 " in await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False


def child_log(folder: Path, name: str) -> LogFile:
    """Opens the log of a child."""
    return LogFile(folder / f"{name}.log")
