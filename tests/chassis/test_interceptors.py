"""Every rpc is surrounded by the same checks, whatever its kind."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from opennotice.identity.v1 import identity_pb2, identity_pb2_grpc
from opennotice.link.v1 import link_pb2, link_pb2_grpc
from opennotice.reporting.v1 import reporting_pb2, reporting_pb2_grpc

from services.chassis import errors
from services.chassis.access import RuleMissing, rule_of
from services.chassis.identity import Caller, caller
from services.chassis.interceptors import still_valid
from tests import cast
from tests.fix_rpc import Keyring, MakeProcess, ServeRpc, free_address

LINK = link_pb2.DESCRIPTOR.services_by_name["LinkService"]
REPORTING = reporting_pb2.DESCRIPTOR.services_by_name["ReportingService"]


class Links(link_pb2_grpc.LinkServiceServicer):
    """Answers with what the frame told it about the caller, or raises what it is given."""

    def __init__(self) -> None:
        self.raises: BaseException | None = None
        self.seen: Caller | None = None

    async def GetPortal(self, request: link_pb2.GetPortalRequest, context: Any) -> link_pb2.Portal:
        if self.raises:
            raise self.raises
        self.seen = caller()
        return link_pb2.Portal(name=request.name, display_name=self.seen.display_name)

    async def ResolveToken(self, request: Any, context: Any) -> link_pb2.DirectoryEntries:
        return link_pb2.DirectoryEntries(feed_revision=7)

    async def CreateLinks(
        self, requests: AsyncIterator[link_pb2.CreateLinkRequest], context: Any
    ) -> AsyncIterator[link_pb2.CreateLinksResponse]:
        count = 0
        async for _ in requests:
            count += 1
            yield link_pb2.CreateLinksResponse(results=[link_pb2.CreateLinkResult(index=count)])
        if self.raises:
            raise self.raises


class Opens(reporting_pb2_grpc.ReportingServiceServicer):
    """A stream that lives until its caller is no longer valid."""

    async def WatchOpens(self, request: Any, context: Any) -> AsyncIterator[reporting_pb2.WatchOpensResponse]:
        while True:
            yield reporting_pb2.WatchOpensResponse()
            await asyncio.sleep(0.05)
            await still_valid()


@pytest.fixture
async def links() -> Links:
    return Links()


@pytest.fixture
async def stub(serve_rpc: ServeRpc, links: Links) -> link_pb2_grpc.LinkServiceStub:
    channel = await serve_rpc("link", link_pb2_grpc.add_LinkServiceServicer_to_server, links, LINK)
    return link_pb2_grpc.LinkServiceStub(channel)


async def refused(call: Any) -> errors.ServiceError:
    """Returns the error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return errors.from_rpc_error(caught.value)


async def test_the_caller_is_known_inside_the_rpc(stub: Any, links: Links, keyring: Keyring) -> None:
    answer = await stub.GetPortal(link_pb2.GetPortalRequest(name="portals/x"), metadata=keyring.as_person(cast.ALICE))
    assert answer.display_name == "Alice Novak"
    assert links.seen is not None
    assert links.seen.agency == cast.FIRST_COURT
    assert links.seen.own_clients_only


async def test_without_an_identity_nothing_is_answered(stub: Any) -> None:
    error = await refused(stub.GetPortal(link_pb2.GetPortalRequest()))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_MISSING")


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        pytest.param((("opennotice-identity", "nonsense"),), "IDENTITY_INVALID", id="G01 forged identity"),
        pytest.param((("authorization", "Bearer onk_unknown"),), "CREDENTIAL_UNKNOWN", id="G01 unknown key"),
        pytest.param((("authorization", "Basic abc"),), "CREDENTIAL_UNKNOWN", id="G01 other scheme"),
        pytest.param((("authorization", "Bearer ons_session"),), "CREDENTIAL_UNKNOWN", id="a session is no API key"),
    ],
)
async def test_a_wrong_credential_is_refused(stub: Any, metadata: Any, reason: str) -> None:
    error = await refused(stub.GetPortal(link_pb2.GetPortalRequest(), metadata=metadata))
    assert (error.code, error.reason) == (grpc.StatusCode.UNAUTHENTICATED, reason)


async def test_an_identity_of_another_install_is_refused(stub: Any) -> None:
    from joserfc.jwk import OKPKey

    from services.chassis.identity import Signer

    foreign = Signer("auth", OKPKey.generate_key("Ed25519").as_pem(private=True).decode())
    token, _ = foreign.sign(subject="users/x", agency_id=cast.FIRST_COURT, permissions=frozenset({"portals:read"}))
    error = await refused(stub.GetPortal(link_pb2.GetPortalRequest(), metadata=(("opennotice-identity", token),)))
    assert error.reason == "IDENTITY_INVALID"


async def test_a_process_speaks_only_for_itself(stub: Any, keyring: Keyring) -> None:
    token, _ = keyring.signer("tracking").sign(subject="users/x", permissions=frozenset({"portals:read"}))
    error = await refused(stub.GetPortal(link_pb2.GetPortalRequest(), metadata=(("opennotice-identity", token),)))
    assert error.reason == "IDENTITY_INVALID"


async def test_a_missing_permission_is_named(stub: Any, keyring: Keyring) -> None:
    nobody = cast.Person("users/n", "N", cast.FIRST_COURT, "clerk", frozenset())
    error = await refused(stub.GetPortal(link_pb2.GetPortalRequest(), metadata=keyring.as_person(nobody)))
    assert error.code == grpc.StatusCode.PERMISSION_DENIED
    assert error.metadata == {"needs": "portals:read"}


async def test_calls_between_processes_are_closed_to_people(stub: Any, keyring: Keyring) -> None:
    request = link_pb2.ResolveTokenRequest()
    assert (await stub.ResolveToken(request, metadata=keyring.as_process("tracking"))).feed_revision == 7
    for metadata in (keyring.as_person(cast.DANA), keyring.as_process("gateway")):
        assert (await refused(stub.ResolveToken(request, metadata=metadata))).code == grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("raised", "code", "told"),
    [
        pytest.param(errors.NotFound("PORTAL_UNKNOWN", "no such portal"), "NOT_FOUND", "no such portal", id="ours"),
        pytest.param(ValueError("secret detail"), "INTERNAL", "internal error", id="anything else tells nothing"),
        pytest.param(TimeoutError(), "DEADLINE_EXCEEDED", "the call took longer than its deadline", id="time-out"),
    ],
)
async def test_errors_cross_the_wire(
    stub: Any, links: Links, keyring: Keyring, raised: Any, code: str, told: str
) -> None:
    links.raises = raised
    error = await refused(stub.GetPortal(link_pb2.GetPortalRequest(), metadata=keyring.as_person(cast.DANA)))
    assert (error.code.name, error.message) == (code, told)


async def test_a_wrong_field_is_named_on_the_other_side(stub: Any, links: Links, keyring: Keyring) -> None:
    faults = errors.Faults()
    faults.add("portal.display_name", "must not be empty")
    with pytest.raises(errors.InvalidArgument) as caught:
        faults.stop()
    links.raises = caught.value
    error = await refused(stub.GetPortal(link_pb2.GetPortalRequest(), metadata=keyring.as_person(cast.DANA)))
    assert isinstance(error, errors.InvalidArgument)
    assert error.fields == [("portal.display_name", "must not be empty")]


async def test_a_stream_can_fail_after_its_first_answers(stub: Any, links: Links, keyring: Keyring) -> None:
    links.raises = errors.ResourceExhausted("TOO_MANY_LINKS", "too many")
    call = stub.CreateLinks(iter([link_pb2.CreateLinkRequest()] * 2), metadata=keyring.as_person(cast.DANA))
    seen = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for answer in call:
            seen.append(answer)
    assert len(seen) == 2
    assert errors.from_rpc_error(caught.value).reason == "TOO_MANY_LINKS"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff\xff\xff", id="G05 garbage"),
        pytest.param(b"\x0a\x02\xff\xfe", id="G05 invalid UTF-8"),
        pytest.param(b"\x13" * 4000 + b"\x14" * 4000, id="G05 4,000 nested levels"),
    ],
)
async def test_garbage_names_no_python_class(serve_rpc: ServeRpc, keyring: Keyring, data: bytes) -> None:
    channel = await serve_rpc("link", link_pb2_grpc.add_LinkServiceServicer_to_server, Links(), LINK)
    call = channel.unary_unary("/opennotice.link.v1.LinkService/GetPortal")
    error = await refused(call(data, metadata=keyring.as_person(cast.DANA)))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "MESSAGE_UNREADABLE")


async def test_a_message_over_the_limit_is_refused(stub: Any, keyring: Keyring) -> None:
    request = link_pb2.GetPortalRequest(name="x" * 300_000)
    error = await refused(stub.GetPortal(request, metadata=keyring.as_person(cast.DANA)))
    assert error.code == grpc.StatusCode.RESOURCE_EXHAUSTED, "G04"


async def test_an_unknown_method_is_unimplemented(serve_rpc: ServeRpc, keyring: Keyring) -> None:
    channel = await serve_rpc("link", link_pb2_grpc.add_LinkServiceServicer_to_server, Links(), LINK)
    error = await refused(
        channel.unary_unary("/opennotice.link.v1.LinkService/Nothing")(b"", metadata=keyring.as_person(cast.DANA))
    )
    assert error.code == grpc.StatusCode.UNIMPLEMENTED, "G06"


async def test_a_stream_ends_soon_after_its_key_was_revoked(
    serve_rpc: ServeRpc, keyring: Keyring, monkeypatch: Any
) -> None:
    from services.chassis.identity import Exchanger

    monkeypatch.setattr(Exchanger, "KEEP_SECONDS", 0.1)
    valid = True

    async def exchange(_credential: str, _source_address: str) -> str:
        if not valid:
            raise errors.Unauthenticated("CREDENTIAL_UNKNOWN", "the credential is not known")
        return keyring.identity(cast.DANA)

    channel = await serve_rpc(
        "reporting", reporting_pb2_grpc.add_ReportingServiceServicer_to_server, Opens(), REPORTING, exchange=exchange
    )
    stub = reporting_pb2_grpc.ReportingServiceStub(channel)
    watch = stub.WatchOpens(reporting_pb2.WatchOpensRequest(), metadata=(("authorization", "Bearer onk_key"),))
    await watch.read()
    valid = False
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await watch.read() is not grpc.aio.EOF:
            pass
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_an_rpc_without_a_rule_keeps_the_process_from_starting() -> None:
    from google.protobuf import descriptor_pb2, descriptor_pool

    file = descriptor_pb2.FileDescriptorProto(name="bare.proto", package="bare")
    file.message_type.add(name="M")
    service = file.service.add(name="Bare")
    service.method.add(name="Do", input_type=".bare.M", output_type=".bare.M")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    with pytest.raises(RuleMissing, match=r"bare\.Bare\.Do"):
        rule_of(pool.FindServiceByName("bare.Bare").methods_by_name["Do"])


async def test_a_key_is_exchanged_in_the_name_of_the_process(make_process: MakeProcess) -> None:
    seen: list[tuple[Caller, str]] = []

    class Identities(identity_pb2_grpc.IdentityServiceServicer):
        async def IssueIdentity(self, request: identity_pb2.IssueIdentityRequest, context: Any) -> Any:
            seen.append((caller(), request.credential))
            return identity_pb2.Identity(token="the identity")

    service = identity_pb2.DESCRIPTOR.services_by_name["IdentityService"]
    bind = free_address()
    auth = await make_process("auth")
    auth.add_servicer(identity_pb2_grpc.add_IdentityServiceServicer_to_server, Identities(), service)
    await auth.serve_calls(bind, no_exchange)
    link = await make_process("link")
    assert await link.exchange_at(bind)("onk_anything", "192.0.2.7") == "the identity"
    assert [(who.process, credential) for who, credential in seen] == [("link", "onk_anything")]


async def no_exchange(_credential: str, _source_address: str) -> str:
    raise errors.Unauthenticated("CREDENTIAL_UNKNOWN", "the credential is not known")
