"""The supervisor: what dies comes back, what is told to stop stops, and nothing outlives its parent."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import psutil
import pytest

from bundle.embedded import wait_until
from bundle.processes import ROOT
from bundle.program import HostFault, Program
from bundle.supervisor import Child, Supervisor
from bundle.terminal import LogFile, Terminal

NATS = "[1] 2026/11/23 03:10:43.566945"
SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)


class Heard(Terminal):
    """A terminal that remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def show(self, text: str) -> None:
        self.lines.append(text)


class Watched(Supervisor):
    """A supervisor whose changes can be waited for."""

    def __init__(self, folder: Path) -> None:
        self.heard = Heard()
        self.folder = folder
        super().__init__(self.heard, lambda children: None)

    def run(self, name: str, script: str) -> Child:
        program = Program([sys.executable, "-c", script], dict(os.environ), self.folder, signal.SIGKILL)
        child = Child(name, lambda: program, lambda: self.is_up(name), "nowhere", LogFile(self.folder / f"{name}.log"))
        self.add(child)
        return child

    async def is_up(self, name: str) -> bool:
        return "up" in self.written(name)

    def written(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text() if path.exists() else ""


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Watched]:
    """A supervisor that stops what a test leaves running."""
    made = Watched(tmp_path)
    yield made
    await made.stop([[child.name for child in made.children]], grace_seconds=0.2)


async def until(condition: object) -> None:
    """Waits for something that a test has caused."""
    assert callable(condition)
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


def pid_of(child: Child) -> int:
    """Returns the process that a child is now."""
    assert child.process is not None
    return child.process.pid


async def test_a_killed_child_comes_back(supervisor: Watched) -> None:
    child = supervisor.run("sleeper", SLEEPER)
    await supervisor.wait_ready(child, 20)
    first = pid_of(child)
    os.kill(first, signal.SIGKILL)
    await until(lambda: child.restarts == 1 and pid_of(child) != first and child.state == "ready")
    assert child.as_status()["restarts"] == 1
    assert any("was ended by SIGKILL; it is started again" in line for line in supervisor.heard.lines)


async def test_a_full_disk_ends_neither_the_others_nor_the_looking_after_them(supervisor: Watched) -> None:
    child = supervisor.run("sleeper", SLEEPER)
    await supervisor.wait_ready(child, 20)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    supervisor._on_change = full
    child.prepare = full
    os.kill(pid_of(child), signal.SIGKILL)
    await until(lambda: child.restarts == 2)
    child.prepare = lambda: None
    await until(lambda: child.state == "ready")
    assert not supervisor.failure.done()
    assert any("sleeper cannot be started: " in line for line in supervisor.heard.lines)
    assert any("cannot write how the processes are: No space left" in line for line in supervisor.heard.lines)


async def test_a_child_that_keeps_dying_is_started_more_and_more_slowly(supervisor: Watched) -> None:
    child = supervisor.run("dying", "raise SystemExit(1)")
    await until(lambda: child.restarts == 3)
    pauses = [line.rsplit(" in ", 1)[1] for line in supervisor.heard.lines if "started again" in line]
    assert pauses[:3] == ["0.2 s", "0.4 s", "0.8 s"]


async def test_a_child_that_refuses_its_settings_ends_the_start(supervisor: Watched) -> None:
    child = supervisor.run("picky", "print('settings: OPENNOTICE_X is not set'); raise SystemExit(2)")
    with pytest.raises(HostFault, match="picky refused its settings"):
        await supervisor.wait_ready(child, 20)
    assert child.restarts == 0
    assert any("OPENNOTICE_X is not set" in line for line in supervisor.heard.lines) or supervisor.written("picky")


async def test_children_stop_in_the_order_given(supervisor: Watched) -> None:
    script = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit()); print('up', flush=True)"
    ended: list[str] = []
    children = [supervisor.run(name, f"{script}; time.sleep(600)") for name in ("first", "second", "third")]
    for child in children:
        await supervisor.wait_ready(child, 20)

    async def note(child: Child) -> None:
        assert child.process is not None
        await child.process.wait()
        ended.append(child.name)

    watching = [asyncio.create_task(note(child)) for child in children]
    await supervisor.stop([["third"], ["first"], ["second"]])
    await asyncio.gather(*watching)
    assert ended == ["third", "first", "second"]
    assert [child.restarts for child in children] == [0, 0, 0]


async def test_a_child_that_does_not_stop_is_killed(supervisor: Watched) -> None:
    child = supervisor.run("stubborn", STUBBORN)
    await supervisor.wait_ready(child, 20)
    pid = pid_of(child)
    await supervisor.stop([["stubborn"]], grace_seconds=0.2)
    assert not psutil.pid_exists(pid)


async def test_everything_a_child_writes_is_in_its_log_and_a_long_line_does_no_harm(supervisor: Watched) -> None:
    script = "print('x' * 600_000); print('after', flush=True); print('up', flush=True); import time; time.sleep(600)"
    child = supervisor.run("wordy", script)
    await supervisor.wait_ready(child, 20)
    assert "after\n" in supervisor.written("wordy")


def test_nothing_outlives_a_killed_parent(tmp_path: Path) -> None:
    script = f"""
import os, signal, subprocess, sys
from pathlib import Path
from bundle.program import Program
program = Program([sys.executable, "-c", {STUBBORN!r}], dict(os.environ), Path("."), signal.SIGKILL)
child = subprocess.Popen(program.argv, stdout=subprocess.PIPE, **program.arguments())
child.stdout.readline()
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    pid = int(done.stdout)
    assert wait_until(lambda: _is_over(pid), seconds=10)


def _is_over(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    ("source", "line", "shown"),
    [
        pytest.param("link", '{"level": "info", "event": "call", "ms": 3}', [], id="information is for the file"),
        pytest.param("link", '{"level": "warning", "event": "waits", "for": "c"}', ["waits for=c"], id="a warning"),
        pytest.param("link", "Traceback (most recent call last):", ["Traceback (most recent call last):"], id="text"),
        pytest.param("link", '["not", "an", "object"]', ['["not", "an", "object"]'], id="JSON of another shape"),
        pytest.param(
            "gateway",
            r'{"level": "error", "event": "request failed", "path": "/\u001b]0;owned\u0007\r\u202e\u009b2J"}',
            ["request failed path=/�]0;owned����2J"],
            id="what a visitor sent commands no terminal",
        ),
        pytest.param("postgres", "LOG:  database system is ready", [], id="PostgreSQL's daily business"),
        pytest.param("postgres", "FATAL:  out of memory", ["out of memory"], id="PostgreSQL in trouble"),
        pytest.param("nats", f"{NATS} [WRN] Plaintext passwords detected", [], id="expected of NATS"),
        pytest.param("nats", f"{NATS} [ERR] no space left", ["no space left"], id="NATS in trouble"),
    ],
)
def test_a_person_is_told_what_needs_attention(source: str, line: str, shown: Sequence[str]) -> None:
    terminal = Heard()
    terminal.starting = False
    terminal.relay(source, line)
    assert [text.split(source, 1)[1].strip() for text in terminal.lines] == list(shown)


def test_a_log_is_kept_to_a_size_and_for_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bundle.terminal._LOG_BYTES", 1000)
    before = os.umask(0o077)
    try:
        log = LogFile(tmp_path / "x.log")
        for number in range(1000):
            log.write(f"line {number}")
        log.close()
    finally:
        os.umask(before)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 5
    assert max(sizes) <= 1000
    assert "line 999" in (tmp_path / "x.log").read_text()
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())


async def test_a_child_that_is_stuck_is_started_again(supervisor: Watched) -> None:
    child = supervisor.run("stuck", SLEEPER)
    await until(lambda: child.state == "ready")
    first = pid_of(child)

    async def is_stuck() -> bool:
        return child.restarts == 0

    child.is_stuck = is_stuck
    await until(lambda: child.restarts == 1 and child.state == "ready")
    assert pid_of(child) != first
    assert any("stuck cannot go on as it is" in line for line in supervisor.heard.lines)
