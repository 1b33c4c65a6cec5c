"""The five services, as the gateway calls them: one channel each, the caller's identity with every call, a deadline."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import grpc
from google.protobuf.message import Message
from opennotice.auth.v1 import auth_pb2_grpc
from opennotice.enrichment.v1 import enrichment_pb2_grpc
from opennotice.identity.v1 import identity_pb2_grpc
from opennotice.link.v1 import link_pb2_grpc
from opennotice.reporting.v1 import reporting_pb2_grpc
from opennotice.tracking.v1 import tracking_pb2_grpc

from services.chassis.errors import from_rpc_error, invalid
from services.chassis.identity import IDENTITY_METADATA, Signer

if TYPE_CHECKING:
    from opennotice.auth.v1.auth_pb2_grpc import AuthServiceAsyncStub
    from opennotice.enrichment.v1.enrichment_pb2_grpc import EnrichmentServiceAsyncStub
    from opennotice.identity.v1.identity_pb2_grpc import IdentityServiceAsyncStub
    from opennotice.link.v1.link_pb2_grpc import LinkServiceAsyncStub
    from opennotice.reporting.v1.reporting_pb2_grpc import ReportingServiceAsyncStub
    from opennotice.tracking.v1.tracking_pb2_grpc import TrackingServiceAsyncStub

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)

# A page that cannot be shown says so within three seconds; a search has to answer in two.
PAGE_SECONDS = 2.5
# Checking a password costs up to half a second of a core and may wait for others.
SIGN_IN_SECONDS = 10.0
EXPORT_SECONDS = 600.0
# What a service takes in one message; the frame refuses more.
LARGEST_REQUEST_BYTES = 256 * 1024


@dataclass(frozen=True)
class Connections:
    """The stubs, made once per process."""

    identity: IdentityServiceAsyncStub
    auth: AuthServiceAsyncStub
    link: LinkServiceAsyncStub
    tracking: TrackingServiceAsyncStub
    enrichment: EnrichmentServiceAsyncStub
    reporting: ReportingServiceAsyncStub
    signer: Signer

    def calls(self, identity_token: str) -> Calls:
        """Returns the services as the holder of a signed identity sees them."""
        return Calls(self, identity_token)

    def as_gateway(self) -> Calls:
        """Returns the services as the gateway itself sees them; never to be used for what a person asked for."""
        return Calls(self, self.signer.as_process())


def connect(
    *,
    auth: grpc.aio.Channel,
    link: grpc.aio.Channel,
    tracking: grpc.aio.Channel,
    enrichment: grpc.aio.Channel,
    reporting: grpc.aio.Channel,
    signer: Signer,
) -> Connections:
    """Makes the stubs on channels that their owner closes."""
    return Connections(
        identity=identity_pb2_grpc.IdentityServiceStub(auth),
        auth=auth_pb2_grpc.AuthServiceStub(auth),
        link=link_pb2_grpc.LinkServiceStub(link),
        tracking=tracking_pb2_grpc.TrackingServiceStub(tracking),
        enrichment=enrichment_pb2_grpc.EnrichmentServiceStub(enrichment),
        reporting=reporting_pb2_grpc.ReportingServiceStub(reporting),
        signer=signer,
    )


class Calls:
    """The services on behalf of one caller; what a handler is given as `calls`."""

    def __init__(self, connections: Connections, identity_token: str) -> None:
        self.auth = connections.auth
        self.link = connections.link
        self.tracking = connections.tracking
        self.enrichment = connections.enrichment
        self.reporting = connections.reporting
        self._metadata = ((IDENTITY_METADATA, identity_token),)

    async def ask(
        self,
        rpc: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        seconds: float = PAGE_SECONDS,
    ) -> Response:
        """Makes one call; raises the ServiceError that the service meant."""
        if request.ByteSize() > LARGEST_REQUEST_BYTES:
            raise invalid("body", f"is larger than {LARGEST_REQUEST_BYTES // 1024} KiB", "BODY_TOO_LARGE")
        try:
            return await rpc(request, metadata=self._metadata, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error

    async def stream(
        self,
        rpc: grpc.aio.UnaryStreamMultiCallable[Request, Response],
        request: Request,
        *,
        seconds: float | None = EXPORT_SECONDS,
    ) -> AsyncIterator[Response]:
        """Yields what a service streams; ends the stream there when the reader leaves here."""
        call = rpc(request, metadata=self._metadata, timeout=seconds)
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        finally:
            call.cancel()
