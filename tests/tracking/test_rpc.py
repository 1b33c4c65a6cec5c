"""GetStatus through a real stub, by the gateway and by nobody else."""

import grpc
import pytest
from opennotice.tracking.v1 import tracking_pb2, tracking_pb2_grpc

from services.chassis.identity import IDENTITY_METADATA
from tests.tracking.court import Court, wait_for


def status_of(court: Court, issuer: str) -> tracking_pb2.Status:
    """Asks as a process."""
    channel = grpc.insecure_channel(court.tracking.environment["OPENNOTICE_TRACKING_GRPC_BIND"])
    metadata = ((IDENTITY_METADATA, court.keyring.signer(issuer).as_process()),)
    stub = tracking_pb2_grpc.TrackingServiceStub(channel)
    found: tracking_pb2.Status = stub.GetStatus(tracking_pb2.GetStatusRequest(), metadata=metadata, timeout=5)
    return found


def test_the_gateway_is_told_how_the_edge_is_doing(court: Court) -> None:
    before = status_of(court, "gateway")
    court.new_link(court.portal())
    wait_for(lambda: status_of(court, "gateway").directory_links == before.directory_links + 1)
    after = status_of(court, "gateway")
    assert after.directory_revision >= before.directory_revision + 2
    assert (after.directory_stale, after.spooled_opens, after.unrecorded_opens) == (False, 0, 0)
    assert after.HasField("start_time")


def test_the_status_is_told_while_postgresql_is_away(court: Court) -> None:
    court.gates["postgres"].shut()
    assert status_of(court, "host").directory_links >= 0


@pytest.mark.parametrize("issuer", ["link", "reporting", "enrichment"])
def test_other_processes_are_refused(court: Court, issuer: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        status_of(court, issuer)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
