"""One running process: its probes, its gRPC server, its loops, its orderly end.

Start order does not matter. Probes answer first; databases, NATS and other services may come later. SIGTERM stops
taking calls, lets those under way finish, stops the loops, closes what was opened.
"""

import asyncio
import contextlib
import faulthandler
import gc
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import prometheus_client
import uvloop
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection
from opennotice.identity.v1 import identity_pb2, identity_pb2_grpc
from opennotice.operations.v1 import operations_pb2, operations_pb2_grpc

from services.chassis import log, migrate
from services.chassis.access import Rule, rules_of
from services.chassis.bus import Bus
from services.chassis.dead_letters import DeadLetters
from services.chassis.errors import from_rpc_error
from services.chassis.identity import IDENTITY_METADATA, Checker, Exchange, Exchanger, Signer
from services.chassis.interceptors import LIBRARY_CALLS, LIBRARY_STREAMS, Frame
from services.chassis.operations import OperationsService
from services.chassis.postgres import Database
from services.chassis.settings import Address, ServiceSettings
from services.chassis.web import WebServer, listening_socket, web_server

_LOG = log.get(__name__)
# For alarms: a probe that nobody looks at tells nobody.
_READY = prometheus_client.Gauge("opennotice_ready", "1 when /ready says so at the moment of asking")
MESSAGE_LIMIT_BYTES = 256 * 1024
METADATA_LIMIT_BYTES = 8 * 1024
_CALLS_AT_ONCE = 200
# A connection that has not begun to speak HTTP/2 by then is closed.
GREETING_MILLISECONDS = 10_000
_DRAIN_SECONDS = 8.0
# Under load an answer makes hundreds of objects that go by themselves; with Python's own 700 it would be looked for
# garbage after every few of them.
_NEW_OBJECTS_UNTIL_GC = 10_000
# Each visitor is a connection, which is an open file. The 1,024 that an ordinary account begins with are used up when
# the disk hangs for two seconds at 500 visitors a second, and who comes then gets no answer. So many have containers.
_OPEN_FILES = 8_192
# Far above what a machine that is short of everything keeps a loop waiting.
_HUNG_SECONDS = 60.0
_BACKOFF_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)

Loop = Callable[[], Awaitable[None]]
Check = Callable[[], Awaitable[str | None]]

CLIENT_OPTIONS = [
    # Else all channels to one address share their failures, and a new one begins with the patience of an old one.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # A server that was restarted is found again at once instead of after two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
]


class StartFault(Exception):
    """Says in one line why a process cannot start."""


class Process:
    """What a service is wired from."""

    def __init__(self, name: str, settings: ServiceSettings) -> None:
        self.name = name
        self.settings = settings
        self.signer = Signer(name, settings.identity_key)
        self.checker = Checker(settings.identity_trust)
        self.stopping = asyncio.Event()
        self._fault: str | None = None
        self._checks: dict[str, Check] = {}
        self._loops: dict[str, asyncio.Task[None]] = {}
        self._closers: list[Loop] = []
        self._servicers: list[tuple[Callable[[Any, Any], None], Any, ServiceDescriptor]] = []
        self._servers: list[WebServer] = []
        self._serving: list[asyncio.Task[None]] = []
        self._grpc: grpc.aio.Server | None = None
        self._started = False

    # What a service asks for while it is wired.

    async def database(self, url: str, *, most: int = 8, wait_seconds: float = 2.0) -> Database:
        """Opens a pool; the server may come later."""
        database = Database(url, name=f"opennotice-{self.name}", most=most, wait_seconds=wait_seconds)
        await database.open()
        self.on_close(database.close)
        return database

    async def schema(self, database: Database, schema: str) -> None:
        """Waits until the schema is complete; ends the process when it is newer than the program."""
        pause = iter((*_BACKOFF_SECONDS, *[5.0] * 100_000))
        while True:
            try:
                missing = await migrate.pending(database, schema)
            except migrate.MigrationFault as fault:
                raise StartFault(str(fault)) from fault
            except Exception as error:
                _LOG.warning("waiting for the database", error=type(error).__name__)
            else:
                if not missing:
                    return
                _LOG.warning("waiting for migrations", missing=missing)
            await self._pause(next(pause))

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
        except TimeoutError:
            return
        raise asyncio.CancelledError

    def bus(self, url: str, *, streams: list[str]) -> Bus:
        """Makes the connection to NATS; it is tried until the server is there."""
        bus = Bus(url, f"opennotice-{self.name}", streams)
        self.add_loop("bus", bus.run)
        self.add_check("nats", lambda: _said(bus.is_connected, "NATS does not answer"))
        self.on_close(bus.close)
        return bus

    def dead_letters(self, database: Database, schema: str) -> DeadLetters:
        """Makes the place for events that cannot be taken in, and serves it to the operator of the host."""
        found = DeadLetters(database, schema)
        self.add_servicer(
            operations_pb2_grpc.add_OperationsServiceServicer_to_server,
            OperationsService(found),
            operations_pb2.DESCRIPTOR.services_by_name["OperationsService"],
        )
        self.add_loop("dead-letters", found.watch)
        return found

    def channel(self, address: Address) -> grpc.aio.Channel:
        """Opens a channel to another service; it may come later."""
        channel = grpc.aio.insecure_channel(str(address), options=CLIENT_OPTIONS)
        self.on_close(channel.close)
        return channel

    def as_process(self) -> tuple[tuple[str, str], ...]:
        """Returns the metadata of a call that this process makes for itself."""
        return ((IDENTITY_METADATA, self.signer.as_process()),)

    def add_servicer(self, add: Callable[[Any, Any], None], servicer: Any, descriptor: ServiceDescriptor) -> None:
        """Serves one gRPC service, once wiring is done."""
        self._servicers.append((add, servicer, descriptor))

    def add_loop(self, name: str, loop: Loop) -> None:
        """Runs something for as long as the process runs; when it raises it is started again after a pause."""
        self._loops[name] = asyncio.create_task(self._keep_running(name, loop), name=name)

    def add_check(self, name: str, check: Check) -> None:
        """Adds a condition of /ready; it returns None when all is well, or says what is not."""
        self._checks[name] = check

    def on_close(self, close: Loop) -> None:
        """Closes something at the end, the last opened first."""
        self._closers.append(close)

    def serve_web(self, app: Any, sockets: list[Any], *, drain_seconds: int = 5, **options: Any) -> None:
        """Serves an ASGI application on open sockets."""
        server = web_server(app, drain_seconds=drain_seconds, **options)
        self._servers.append(server)
        self._serving.append(asyncio.create_task(server.serve(sockets=sockets)))

    def stop(self, fault: str | None = None) -> None:
        """Begins the end of the process; with a fault it ends with exit code 1."""
        if fault:
            self._fault = fault
            _LOG.error("stopping", fault=fault)
        self.stopping.set()

    # What happens around it.

    async def serve_calls(self, bind: Address, exchange: Exchange) -> None:
        """Starts the gRPC server with everything that was added."""
        rules: dict[str, Rule] = {}
        for _, _, descriptor in self._servicers:
            rules |= rules_of(descriptor)
        exchanger = Exchanger(exchange, self.checker)
        server = grpc.aio.server(
            interceptors=[Frame(rules, self.checker, exchanger, self.settings.trusted_proxies)],
            maximum_concurrent_rpcs=_CALLS_AT_ONCE + LIBRARY_CALLS + LIBRARY_STREAMS,
            options=[
                ("grpc.max_receive_message_length", MESSAGE_LIMIT_BYTES),
                ("grpc.max_metadata_size", METADATA_LIMIT_BYTES),
                ("grpc.absolute_max_metadata_size", 2 * METADATA_LIMIT_BYTES),
                # Else a stray second process would take half of the calls without a word.
                ("grpc.so_reuseport", 0),
                ("grpc.server_handshake_timeout_ms", GREETING_MILLISECONDS),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ],
        )
        health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        names = [health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME]
        for add, servicer, descriptor in self._servicers:
            add(servicer, server)
            names.append(descriptor.full_name)
            await health.set(descriptor.full_name, health_pb2.HealthCheckResponse.SERVING)
        reflection.enable_server_reflection(names, server)
        try:
            server.add_insecure_port(str(bind))
        except RuntimeError:
            raise StartFault(f"cannot listen on {bind}; is the port taken?") from None
        await server.start()
        self._grpc = server
        self.on_close(health.enter_graceful_shutdown)

    def exchange_at(self, address: Address) -> Exchange:
        """Returns how API keys are exchanged at the auth process."""
        stub = identity_pb2_grpc.IdentityServiceStub(self.channel(address))

        async def exchange(credential: str, source_address: str) -> str:
            request = identity_pb2.IssueIdentityRequest(credential=credential, source_address=source_address)
            try:
                return str((await stub.IssueIdentity(request, metadata=self.as_process(), timeout=3)).token)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from error

        return exchange

    async def probes(self, bind: Address) -> None:
        """Answers /live, /ready and /metrics."""
        try:
            listener = listening_socket(bind.host, bind.port)
        except OSError as error:
            raise StartFault(f"cannot listen on {bind}: {error.strerror}") from None
        self.serve_web(self._answer_probe, [listener], drain_seconds=1)

    async def _answer_probe(self, scope: Any, _receive: Any, send: Any) -> None:
        status, kind, body = 404, b"text/plain", b"unknown\n"
        if scope["path"] == "/live":
            status, body = 200, b"live\n"
        elif scope["path"] == "/ready":
            faults = await self.faults()
            status = 503 if faults else 200
            body = ("\n".join(faults) or "ready").encode() + b"\n"
        elif scope["path"] == "/metrics":
            _READY.set(not await self.faults())
            status, kind, body = (
                200,
                prometheus_client.CONTENT_TYPE_LATEST.encode(),
                prometheus_client.generate_latest(),
            )
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def faults(self) -> list[str]:
        """Returns what keeps the process from being ready, one line each."""
        if self.stopping.is_set():
            return ["stopping"]
        if not self._started:
            return ["starting"]
        # Side by side: several that hang must not take longer than whoever asks has patience.
        checks = dict(self._checks)
        told = await asyncio.gather(*(_outcome(check) for check in checks.values()))
        return [f"{name}: {fault}" for name, fault in zip(checks, told, strict=True) if fault]

    async def _keep_running(self, name: str, loop: Loop) -> None:
        failures = 0
        while not self.stopping.is_set():
            began = time.monotonic()
            try:
                await loop()
                return
            except (Exception, asyncio.CancelledError) as error:
                # Libraries cancel what waits for them when a connection ends; only our own end is an end.
                if self.stopping.is_set() and isinstance(error, asyncio.CancelledError):
                    raise
                if time.monotonic() - began > 30:
                    failures = 0
                pause = _BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS) - 1)]
                failures += 1
                _LOG.warning("loop failed and goes on", loop=name, error=repr(error)[:300], pause_seconds=pause)
                await asyncio.sleep(pause)

    async def run(self, wire: Callable[["Process"], Awaitable[None]]) -> int:
        """Runs until SIGTERM or SIGINT; returns the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            await self.probes(self.settings.probe_bind)
            wiring = asyncio.ensure_future(wire(self))
            stopping = asyncio.ensure_future(self.stopping.wait())
            await asyncio.wait({wiring, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if wiring.done():
                wiring.result()
                # What was built until now stays: to look for garbage among it again and again costs several percent.
                gc.freeze()
                gc.set_threshold(_NEW_OBJECTS_UNTIL_GC)
                self._started = True
                _LOG.info("started")
                await stopping
            wiring.cancel()
        except StartFault as fault:
            self.stop(str(fault))
        except asyncio.CancelledError:
            _LOG.info("stopped while starting")
        finally:
            await self._end()
        return 1 if self._fault else 0

    async def _end(self) -> None:
        self.stopping.set()
        if self._grpc is not None:
            await self._grpc.stop(_DRAIN_SECONDS)
        for server in self._servers:
            server.should_exit = True
        await asyncio.gather(*self._serving, return_exceptions=True)
        running = set(self._loops.values())
        while running:
            # Again and again, because wait_for of Python 3.11, which nats-py uses, loses a cancellation that arrives
            # together with what it waited for; a loop would then never end, and the process neither.
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=0.5)
        for close in reversed(self._closers):
            try:
                async with asyncio.timeout(5):
                    await close()
            except Exception as error:
                _LOG.warning("closing failed", error=repr(error)[:300])


async def _outcome(check: Check) -> str | None:
    try:
        async with asyncio.timeout(2):
            return await check()
    except Exception as error:
        return type(error).__name__


async def _said(fine: bool, otherwise: str) -> str | None:
    return None if fine else otherwise


async def _end_when_hung() -> None:
    """Ends the process, without more ado and with exit code 1, when its loop has not gone round for a minute.

    Nobody waits for somebody to notice then: whoever started it starts it again, and standard error says in which line
    each thread stood. It is a thread of the interpreter that looks, so that nothing of ours can keep it from that.
    """
    try:
        while True:
            faulthandler.dump_traceback_later(_HUNG_SECONDS, exit=True)
            await asyncio.sleep(_HUNG_SECONDS / 12)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _take_open_files() -> None:
    """Raises how many files this process may have open, as far as it may do that itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def answers(database: Database) -> Check:
    """Returns the check that a database answers."""

    async def check() -> str | None:
        return None if await database.answers() else "does not answer"

    return check


def run(name: str, settings: ServiceSettings, wire: Callable[[Process], Awaitable[None]]) -> None:
    """Runs a process to its end and leaves with its exit code."""
    log.set_up(name, settings.log_level)
    _take_open_files()

    async def main() -> int:
        watching = asyncio.create_task(_end_when_hung())
        try:
            return await Process(name, settings).run(wire)
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    sys.exit(uvloop.run(main()))
