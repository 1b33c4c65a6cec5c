"""`opennotice run`: everything on this machine, in order, until somebody says stop."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from bundle import prepare
from bundle.embedded import SHARED_STATE, Nats, Postgres
from bundle.first_steps import DATABASE, bring_up_to_date, make_database, make_first_agency, patiently
from bundle.home import Home, write_private
from bundle.preflight import check_nats, check_postgres
from bundle.processes import OWN, PROBE_PORTS, ROOT, Surroundings, write_urls
from bundle.program import HostFault, Program, account_for_postgres, is_free
from bundle.settings import BundleSettings
from bundle.supervisor import Child, Supervisor, answers_ready, child_log
from bundle.terminal import Terminal

_STOP_ORDER = (("gateway", "tracking"), ("reporting", "enrichment", "link"), ("auth",), ("nats",), ("postgres",))
_READY_SECONDS = 120.0


async def run(settings: BundleSettings, terminal: Terminal) -> None:
    """Runs the bundle until SIGTERM, SIGINT or SIGHUP; raises HostFault when it cannot."""
    home = Home(settings.home)
    home.make_folders()
    # Whatever is written from here on is nobody else's business.
    os.umask(0o077)
    lock = home.lock()
    listener = _claim_addresses(settings)
    stop = _stop_signals(terminal)
    write_private(home.reach, json.dumps(settings.as_environment(), indent=1))
    bundle = _Bundle(settings, home, terminal, listener)
    working = asyncio.create_task(bundle.work())
    await asyncio.wait([working, stop], return_when=asyncio.FIRST_COMPLETED)
    working.cancel()
    results = await asyncio.gather(working, return_exceptions=True)
    await bundle.end()
    os.close(lock)
    if isinstance(results[0], Exception):
        raise results[0]


def _claim_addresses(settings: BundleSettings) -> socket.socket:
    """Opens the public socket, which outlives each tracking process, and checks the other addresses."""
    taken = [
        f"{name}: {bind} is taken by another program; stop it, or choose another address"
        for name, bind in settings.binds().items()
        if not is_free(bind.host, bind.port)
    ]
    if taken:
        raise HostFault("\n".join(taken))
    bind = settings.public_bind
    listener = socket.socket(socket.AF_INET6 if ":" in bind.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((bind.host, bind.port))
    except OSError as error:
        raise HostFault(f"OPENNOTICE_PUBLIC_BIND: cannot listen on {bind}: {error.strerror}") from None
    # Long enough for the visitors of a busy second while tracking is started again.
    listener.listen(1024)
    listener.setblocking(False)
    return listener


def _stop_signals(terminal: Terminal) -> "asyncio.Future[None]":
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()

    def asked(name: str) -> None:
        if not stop.done():
            terminal.say(f"stopping ({name})")
            stop.set_result(None)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, asked, number.name)
    return stop


class _Bundle:
    """Everything that runs, from the first process to the last."""

    def __init__(self, settings: BundleSettings, home: Home, terminal: Terminal, listener: socket.socket) -> None:
        self.settings = settings
        self.home = home
        self.terminal = terminal
        self.listener = listener
        self.supervisor = Supervisor(terminal, self._write_status)
        self._preparing: dict[str, asyncio.Task[None]] = {}
        self._started = time.monotonic()

    async def work(self) -> None:
        """Starts everything, says how to reach it, and waits."""
        settings, say = self.settings, self.terminal.say
        say(f"home {self.home.root}")
        self._preparing = {part: asyncio.create_task(self._prepare(part)) for part in self._parts_to_prepare()}
        self.home.make_secrets()
        ports = self.home.ports(["postgres", "nats", "nats-monitor", *PROBE_PORTS])
        admin_url = await self._database(ports)
        nats_url = await self._queue(ports)
        if applied := await asyncio.to_thread(bring_up_to_date, admin_url, self.home):
            say(f"database brought up to date ({len(applied)} steps)")
        write_urls(self.home, admin_url, nats_url)
        ip_data = settings.ip_data_dir or prepare.ip_data_folder()
        surroundings = Surroundings(settings, self.home, ports, ip_data, self.listener.fileno())
        say(f"starting {', '.join(reversed(OWN))}")
        children = [self._start(name, surroundings) for name in reversed(OWN)]
        for child in children:
            await self.supervisor.wait_ready(child, _READY_SECONDS)
        first = await asyncio.to_thread(make_first_agency, self.home, settings)
        self.terminal.starting = False
        self.terminal.show(self._welcome(first))
        raise await self.supervisor.failure

    async def end(self) -> None:
        """Stops everything, children of children too."""
        for task in self._preparing.values():
            task.cancel()
        await asyncio.gather(*self._preparing.values(), return_exceptions=True)
        await self.supervisor.stop(_STOP_ORDER)
        self.listener.close()
        self.home.status.unlink(missing_ok=True)
        self.terminal.say("stopped")

    def _parts_to_prepare(self) -> list[str]:
        parts = [] if prepare.web_assets_are_ready() else ["web"]
        if self.settings.ip_data_dir is None and not prepare.ip_data_are_ready():
            parts.append("ip")
        return parts

    async def _prepare(self, part: str) -> None:
        """Gets what is not in the tree; without it the product works, with less to see."""
        argv = [sys.executable, "-m", "bundle.prepare", part]
        program = Program(argv, {**os.environ, "PYTHONUNBUFFERED": "1"}, ROOT, signal.SIGTERM)
        process = await asyncio.create_subprocess_exec(
            *argv, **program.arguments(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        assert process.stdout is not None
        try:
            async for line in process.stdout:
                self.terminal.say(line.decode(errors="replace").rstrip(), "prepare")
            await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()

    async def _database(self, ports: dict[str, int]) -> str:
        """Returns the URL of a server that runs and keeps what it commits."""
        if self.settings.postgres_url:
            await patiently(self._check_own_postgres, self._warn)
            return self.settings.postgres_url
        account = account_for_postgres(self.settings.postgres_account)
        data = self.home.postgres_folder(account, SHARED_STATE)
        password = self.home.secret("postgres.password").read_text()
        server = Postgres(data, ports["postgres"], password, account)
        if account is not None:
            self.terminal.say(f"PostgreSQL runs under the account {account.name}, its data are in {data}")
        ready = partial(asyncio.to_thread, server.is_ready)
        child = self._add("postgres", server.program, ready, f"127.0.0.1:{server.port}", server.prepare)
        await self.supervisor.wait_ready(child, _READY_SECONDS)
        await asyncio.to_thread(make_database, server.admin_url)
        return server.admin_url.rpartition("/")[0] + f"/{DATABASE}"

    async def _queue(self, ports: dict[str, int]) -> str:
        if self.settings.nats_url:
            await patiently(self._check_own_nats, self._warn)
            return self.settings.nats_url
        password = self.home.secret("nats.password").read_text()
        server = Nats(self.home.root / "nats", ports["nats"], ports["nats-monitor"], password)
        ready = partial(asyncio.to_thread, server.is_ready)
        child = self._add("nats", server.program, ready, f"127.0.0.1:{server.port}", server.prepare)
        child.is_stuck = partial(asyncio.to_thread, server.is_stuck)
        await self.supervisor.wait_ready(child, _READY_SECONDS)
        return server.url

    def _warn(self, text: str) -> None:
        self.terminal.say(text, level="warning")

    async def _check_own_postgres(self) -> None:
        faults, warnings = await asyncio.to_thread(check_postgres, self.settings.postgres_url)
        for warning in warnings:
            self._warn(warning)
        if faults:
            raise HostFault("\n".join(faults))

    async def _check_own_nats(self) -> None:
        if faults := await check_nats(self.settings.nats_url, self.settings.nats_monitor_url):
            raise HostFault("\n".join(faults))

    def _start(self, name: str, surroundings: Surroundings) -> Child:
        waits_for = {"enrichment": "ip", "gateway": "web"}.get(name)
        probe = surroundings.probe(name)
        return self._add(
            name,
            partial(surroundings.program, name),
            partial(answers_ready, probe.host, probe.port),
            str(surroundings.address(name)),
            # The first start reads what is being prepared; later ones find it there.
            before=self._preparing.get(waits_for or ""),
        )

    def _add(
        self,
        name: str,
        program: Callable[[], Program],
        is_ready: Callable[[], Awaitable[bool]],
        address: str,
        prepare_start: Callable[[], None] = lambda: None,
        before: "asyncio.Task[None] | None" = None,
    ) -> Child:
        child = Child(name, program, is_ready, address, child_log(self.home.logs, name), prepare_start, before)
        self.supervisor.add(child)
        return child

    def _write_status(self, children: Sequence[Child]) -> None:
        status = {"pid": os.getpid(), "processes": [child.as_status() for child in children]}
        write_private(self.home.status, json.dumps(status))

    def _welcome(self, made_password: str | None) -> str:
        settings = self.settings
        kept = self.home.admin_password
        if made_password:
            password = f"{made_password}   (shown once; also in {kept})"
        elif kept.exists():
            password = f"in {kept}, unless it was changed since"
        else:
            password = "the one that was set"  # noqa: S105
        calls = "  ".join(f"{name} {settings.grpc_bind(name)}" for name in ("link", "reporting", "auth"))
        return "\n".join(
            [
                "",
                f"OpenNotice is ready after {time.monotonic() - self._started:.0f} s.",
                "",
                f"  Staff pages    {settings.staff_url}",
                f"  Administrator  {settings.admin_email}",
                f"  Password       {password}",
                f"  Public links   {settings.public_url}",
                f"  gRPC           {calls}",
                f"  Full logs      {self.home.logs}",
                "",
                "  To see it with data, type in another terminal:  make demo",
                "  Ctrl-C stops everything; the next start keeps all data.",
                "",
            ]
        )
