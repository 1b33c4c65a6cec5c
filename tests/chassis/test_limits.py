"""Nobody holds the calls of a process: not strangers, not one caller, not those who open a call and say nothing."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opennotice.link.v1 import link_pb2, link_pb2_grpc
from opennotice.reporting.v1 import reporting_pb2, reporting_pb2_grpc

from services.chassis import errors, interceptors, serve
from services.chassis.identity import caller
from tests import cast
from tests.fix_rpc import Keyring, MakeProcess, ServeRpc, free_address

LINK = link_pb2.DESCRIPTOR.services_by_name["LinkService"]
REPORTING = reporting_pb2.DESCRIPTOR.services_by_name["ReportingService"]
GET_PORTAL = "/opennotice.link.v1.LinkService/GetPortal"
WATCH_OPENS = "/opennotice.reporting.v1.ReportingService/WatchOpens"


class Links(link_pb2_grpc.LinkServiceServicer):
    """Answers, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def GetPortal(self, request: link_pb2.GetPortalRequest, context: Any) -> link_pb2.Portal:
        self.asked += 1
        return link_pb2.Portal(name=request.name, display_name=caller().source_address)

    async def CreateLinks(
        self, requests: AsyncIterator[link_pb2.CreateLinkRequest], context: Any
    ) -> AsyncIterator[link_pb2.CreateLinksResponse]:
        async for _ in requests:
            yield link_pb2.CreateLinksResponse()


class Opens(reporting_pb2_grpc.ReportingServiceServicer):
    """A stream without end, and a quick call beside it."""

    def __init__(self) -> None:
        self.begun = self.watching = 0
        self.sends = reporting_pb2.WatchOpensResponse()
        self.pause = 60.0

    async def WatchOpens(self, request: Any, context: Any) -> AsyncIterator[reporting_pb2.WatchOpensResponse]:
        self.begun += 1
        self.watching += 1
        try:
            while True:
                yield self.sends
                await asyncio.sleep(self.pause)
        finally:
            self.watching -= 1

    async def GetOpen(self, request: reporting_pb2.GetOpenRequest, context: Any) -> reporting_pb2.Open:
        return reporting_pb2.Open(name=request.name)


@pytest.fixture
async def links() -> Links:
    return Links()


@pytest.fixture
async def channel(serve_rpc: ServeRpc, links: Links) -> grpc.aio.Channel:
    return await serve_rpc("link", link_pb2_grpc.add_LinkServiceServicer_to_server, links, LINK)


@pytest.fixture
async def opens() -> Opens:
    return Opens()


@pytest.fixture
async def reporting(serve_rpc: ServeRpc, opens: Opens) -> grpc.aio.Channel:
    return await serve_rpc("reporting", reporting_pb2_grpc.add_ReportingServiceServicer_to_server, opens, REPORTING)


def half_open(channel: grpc.aio.Channel, path: str, metadata: Any = None) -> Any:
    """Begins a call and sends no message; on the wire a call that streams looks like any other."""
    return channel.stream_unary(path)(metadata=metadata)


async def reason_of(call: Any) -> tuple[str, str]:
    """Waits for the end of a call and returns its status and machine reason."""
    async with asyncio.timeout(30):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
    return caught.value.code().name, errors.from_rpc_error(caught.value).reason


async def first_of(call: Any) -> str:
    """Returns the status of a stream that ended before its first answer, or OK when that came."""
    try:
        answer = await call.read()
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK" if answer is not grpc.aio.EOF else (await call.code()).name


async def until(told: Callable[[], Awaitable[Any] | bool]) -> None:
    """Waits until something holds, or a call is no longer refused for want of a place."""
    async with asyncio.timeout(30):
        while True:
            try:
                found = told()
                if found is True or (found and await found):
                    return
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
            await asyncio.sleep(0.05)


async def test_strangers_who_send_no_message_are_refused_at_once(
    channel: grpc.aio.Channel, links: Links, keyring: Keyring
) -> None:
    silent = [half_open(channel, GET_PORTAL) for _ in range(300)]
    stub, dana = link_pb2_grpc.LinkServiceStub(channel), keyring.as_person(cast.DANA)
    # All of them at once are more than the process takes; none of them stays.
    await until(lambda: stub.GetPortal(link_pb2.GetPortalRequest(name="portals/x"), metadata=dana))
    codes = {(await reason_of(call))[0] for call in silent}
    assert "UNAUTHENTICATED" in codes
    assert codes <= {"UNAUTHENTICATED", "RESOURCE_EXHAUSTED"}
    assert links.asked == 1


async def test_strangers_who_watch_health_hold_nothing_of_others(channel: grpc.aio.Channel, keyring: Keyring) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    watches = [health.Watch(health_pb2.HealthCheckRequest()) for _ in range(300)]
    begun = await asyncio.gather(*(first_of(watch) for watch in watches))
    assert begun.count("OK") == interceptors.LIBRARY_STREAMS
    assert begun.count("RESOURCE_EXHAUSTED") == 300 - interceptors.LIBRARY_STREAMS
    answer = await link_pb2_grpc.LinkServiceStub(channel).GetPortal(
        link_pb2.GetPortalRequest(name="portals/x"), metadata=keyring.as_person(cast.DANA), timeout=30
    )
    assert answer.name == "portals/x"
    # The state of health can still be asked for.
    serving = await health.Check(health_pb2.HealthCheckRequest(service=LINK.full_name), timeout=30)
    assert serving.status == health_pb2.HealthCheckResponse.SERVING
    for watch in watches:
        watch.cancel()
    await until(lambda: health.Watch(health_pb2.HealthCheckRequest()).read())


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/grpc.health.v1.Health/Check", id="health"),
        pytest.param("/grpc.health.v1.Health/Watch", id="watching health"),
        pytest.param("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", id="reflection"),
    ],
)
async def test_calls_that_need_no_credential_must_begin_soon(
    channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(interceptors, "LIBRARY_MESSAGE_SECONDS", 0.3)
    assert await reason_of(half_open(channel, path)) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")


async def test_streams_that_need_no_credential_end_by_themselves(
    channel: grpc.aio.Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptors, "WATCH_SECONDS", 2.0)
    monkeypatch.setattr(interceptors, "REFLECTION_SECONDS", 2.0)
    watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
    await reflection.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = await reflection.read()
    assert LINK.full_name in {each.name for each in listed.list_services_response.service}
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    for call in (watch, reflection):
        assert await first_of(call) == "DEADLINE_EXCEEDED"


async def test_an_unknown_service_has_no_health(channel: grpc.aio.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    assert (await reason_of(health.Check(health_pb2.HealthCheckRequest(service="x"))))[0] == "NOT_FOUND"


async def test_a_caller_who_sends_no_message_is_told_so(
    channel: grpc.aio.Channel, reporting: grpc.aio.Channel, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptors, "MESSAGE_SECONDS", 0.3)
    dana = keyring.as_person(cast.DANA)
    for to, path in ((channel, GET_PORTAL), (reporting, WATCH_OPENS)):
        assert await reason_of(half_open(to, path, dana)) == ("DEADLINE_EXCEEDED", "MESSAGE_LATE")


async def test_a_call_takes_exactly_one_message(channel: grpc.aio.Channel, links: Links, keyring: Keyring) -> None:
    none, two = (half_open(channel, GET_PORTAL, keyring.as_person(cast.DANA)) for _ in range(2))
    await none.done_writing()
    assert await reason_of(none) == ("INVALID_ARGUMENT", "MESSAGE_MISSING")
    for _ in range(2):
        await two.write(link_pb2.GetPortalRequest(name="portals/x").SerializeToString())
    assert await reason_of(two) == ("INVALID_ARGUMENT", "MESSAGE_REPEATED")
    assert links.asked == 0


async def test_a_call_that_was_given_up_leaves_no_trace(
    channel: grpc.aio.Channel, keyring: Keyring, caplog: pytest.LogCaptureFixture
) -> None:
    dana = keyring.as_person(cast.DANA)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            calls = [half_open(channel, GET_PORTAL, dana) for _ in range(interceptors.CALLS_OF_A_CALLER)]
            await asyncio.sleep(0.2)
            for call in calls:
                call.cancel()
            await asyncio.sleep(0.2)
        stub = link_pb2_grpc.LinkServiceStub(channel)
        await until(lambda: stub.GetPortal(link_pb2.GetPortalRequest(), metadata=dana))
    assert not caplog.records


async def test_one_caller_leaves_places_to_others(channel: grpc.aio.Channel, links: Links, keyring: Keyring) -> None:
    dana, morgan = keyring.as_person(cast.DANA), keyring.as_person(cast.MORGAN)
    # Some more, because a call that looks whether all are there may take the place of one of them.
    held = [half_open(channel, GET_PORTAL, dana) for _ in range(interceptors.CALLS_OF_A_CALLER + 20)]
    stub, request = link_pb2_grpc.LinkServiceStub(channel), link_pb2.GetPortalRequest()

    async def refused() -> bool:
        try:
            await stub.GetPortal(request, metadata=dana)
        except grpc.aio.AioRpcError as error:
            return errors.from_rpc_error(error).reason == "TOO_MANY_CALLS"
        return False

    await until(refused)
    await stub.GetPortal(request, metadata=morgan, timeout=30)
    for call in held:
        call.cancel()
    await until(lambda: stub.GetPortal(request, metadata=dana))


async def test_the_streams_of_an_agency_are_bounded(
    reporting: grpc.aio.Channel, opens: Opens, keyring: Keyring
) -> None:
    stub, request = reporting_pb2_grpc.ReportingServiceStub(reporting), reporting_pb2.WatchOpensRequest()

    async def watch(person: cast.Person, count: int) -> tuple[list[Any], list[str]]:
        calls = [stub.WatchOpens(request, metadata=keyring.as_person(person)) for _ in range(count)]
        return calls, await asyncio.gather(*(first_of(call) for call in calls))

    held, begun = await watch(cast.DANA, 60)
    assert begun == ["OK"] * 60
    more, begun = await watch(cast.MORGAN, 60)
    assert (begun.count("OK"), begun.count("RESOURCE_EXHAUSTED")) == (40, 20)
    other, begun = await watch(cast.CHARLIE, 60)
    assert (begun.count("OK"), begun.count("RESOURCE_EXHAUSTED")) == (50, 10), "all streams together"
    for person in (cast.DANA, cast.CHARLIE):
        found = await stub.GetOpen(
            reporting_pb2.GetOpenRequest(name="opens/x"), metadata=keyring.as_person(person), timeout=30
        )
        assert found.name == "opens/x"
    for call in (*held, *more, *other):
        call.cancel()
    await until(lambda: not opens.watching)
    again, begun = await watch(cast.MORGAN, 60)
    assert begun == ["OK"] * 60
    for call in again:
        call.cancel()


async def test_processes_are_not_counted(channel: grpc.aio.Channel, keyring: Keyring) -> None:
    path = "/opennotice.link.v1.LinkService/ResolveToken"
    held = [half_open(channel, path, keyring.as_process("tracking")) for _ in range(120)]
    await asyncio.sleep(0.3)
    assert not any(call.done() for call in held)
    for call in held:
        call.cancel()


async def test_a_reader_who_never_reads_is_cut_off_at_the_limit(
    reporting: grpc.aio.Channel, opens: Opens, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interceptors, "STREAM_LIMIT_SECONDS", 0.5)
    opens.sends, opens.pause = reporting_pb2.WatchOpensResponse(opens=[reporting_pb2.Open(name="x" * 200_000)]), 0
    call = reporting_pb2_grpc.ReportingServiceStub(reporting).WatchOpens(
        reporting_pb2.WatchOpensRequest(), metadata=keyring.as_person(cast.DANA)
    )
    await until(lambda: opens.begun == 1 and not opens.watching)
    while (ended := await first_of(call)) == "OK":
        pass
    assert ended == "DEADLINE_EXCEEDED"


async def test_a_connection_that_says_nothing_is_closed(
    make_process: MakeProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "GREETING_MILLISECONDS", 300)
    process, bind = await make_process("link"), free_address()
    process.add_servicer(link_pb2_grpc.add_LinkServiceServicer_to_server, Links(), LINK)
    await process.serve_calls(bind, no_exchange)
    reader, writer = await asyncio.open_connection(bind.host, bind.port)
    async with asyncio.timeout(30):
        await reader.read()
    writer.close()


async def no_exchange(_credential: str, _source_address: str) -> str:
    raise errors.Unauthenticated("CREDENTIAL_UNKNOWN", "the credential is not known")


async def test_keys_that_nobody_issued_leave_places_to_known_callers(
    serve_rpc: ServeRpc, links: Links, keyring: Keyring
) -> None:
    answered = asyncio.Event()

    async def exchange(_credential: str, _source_address: str) -> str:
        await answered.wait()
        raise errors.Unauthenticated("CREDENTIAL_UNKNOWN", "the credential is not known")

    add = link_pb2_grpc.add_LinkServiceServicer_to_server
    channel = await serve_rpc("link", add, links, LINK, exchange=exchange)
    stub, request = link_pb2_grpc.LinkServiceStub(channel), link_pb2.GetPortalRequest()
    calls = [stub.GetPortal(request, metadata=(("authorization", f"Bearer onk_{at}"),)) for at in range(190)]
    await until(lambda: sum(call.done() for call in calls) == 40)
    await stub.GetPortal(request, metadata=keyring.as_person(cast.DANA), timeout=30)
    answered.set()
    reasons = [await reason_of(call) for call in calls]
    assert reasons.count(("UNAUTHENTICATED", "CREDENTIAL_UNKNOWN")) == 150
    assert reasons.count(("RESOURCE_EXHAUSTED", "TOO_MANY_CALLS")) == 40


@pytest.mark.parametrize(
    ("trusted", "forwarded_for", "counts"),
    [
        pytest.param("127.0.0.0/8", ["203.0.113.9"], "203.0.113.9", id="our proxy"),
        pytest.param("127.0.0.0/8", ["198.51.100.1, 203.0.113.9"], "203.0.113.9", id="forged in front"),
        pytest.param("127.0.0.0/8", ["198.51.100.1", "203.0.113.9"], "203.0.113.9", id="two headers"),
        pytest.param("127.0.0.0/8", ["2001:db8::7"], "2001:db8::7", id="IPv6"),
        pytest.param("127.0.0.0/8", [], "127.0.0.1", id="the proxy says nothing"),
        pytest.param("127.0.0.0/8", ["<script>"], "127.0.0.1", id="no address"),
        pytest.param("10.0.0.0/8", ["203.0.113.9"], "127.0.0.1", id="a stranger's word"),
        pytest.param(None, ["203.0.113.9"], "127.0.0.1", id="no proxy trusted"),
    ],
)
async def test_the_address_of_a_caller_behind_a_trusted_proxy(
    serve_rpc: ServeRpc,
    make_process: MakeProcess,
    keyring: Keyring,
    trusted: str | None,
    forwarded_for: list[str],
    counts: str,
) -> None:
    seen: list[str] = []

    async def exchange(_credential: str, source_address: str) -> str:
        seen.append(source_address)
        return keyring.identity(cast.DANA)

    process = await make_process("link")
    process.settings = replace(process.settings, trusted_proxies=(ip_network(trusted),) if trusted else ())
    add = link_pb2_grpc.add_LinkServiceServicer_to_server
    channel = await serve_rpc("link", add, Links(), LINK, exchange=exchange, process=process)
    metadata = [("authorization", "Bearer onk_key"), *(("x-forwarded-for", value) for value in forwarded_for)]
    await link_pb2_grpc.LinkServiceStub(channel).GetPortal(link_pb2.GetPortalRequest(), metadata=metadata)
    assert seen == [counts]
