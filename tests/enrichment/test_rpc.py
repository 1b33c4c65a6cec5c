"""EnrichmentService through a real stub, behind the real frame."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from opennotice.enrichment.v1 import enrichment_pb2, enrichment_pb2_grpc, events_pb2
from opennotice.tracking.v1 import events_pb2 as tracking_events_pb2

from services.chassis.errors import ServiceError, from_rpc_error
from services.chassis.serve import CLIENT_OPTIONS, Process
from services.enrichment import store
from services.enrichment.settings import Settings
from services.enrichment.store import Agency
from tests.cast import ALICE, CHARLIE, FIRST_COURT, OTHER_COURT, Person
from tests.enrichment import ip_data
from tests.enrichment.conftest import IPHONE, Outside, Start
from tests.fix_rpc import Keyring


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gives a folder of IP data."""
    return ip_data.write_all(tmp_path_factory.mktemp("ip-data"))


async def call(process: Process, method: str, request: Any, metadata: Any) -> Any:
    """Calls an rpc; raises what the service meant."""
    assert isinstance(process.settings, Settings)
    async with grpc.aio.insecure_channel(str(process.settings.grpc_bind), options=CLIENT_OPTIONS) as channel:
        stub = enrichment_pb2_grpc.EnrichmentServiceStub(channel)
        try:
            return await getattr(stub, method)(request, metadata=metadata, timeout=10)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error


def request(**changes: Any) -> enrichment_pb2.ExplainOpenRequest:
    """Asks for the explanation of an open."""
    values = {"kind": tracking_events_pb2.OPEN_KIND_PORTAL, "user_agent": IPHONE, "ip_address": "73.162.1.1"}
    return enrichment_pb2.ExplainOpenRequest(open=tracking_events_pb2.OpenRecorded(**{**values, **changes}))


async def test_an_open_is_explained_as_it_would_be_now(
    start: Start, outside: Outside, keyring: Keyring, data: Path
) -> None:
    process = await start(ip_data_dir=data)
    found = await call(process, "ExplainOpen", request(), keyring.as_person(ALICE))
    assert (found.browser, found.network, found.city) == ("Mobile Safari", "Comcast Xfinity", "San Jose")
    assert found.open.agency_id == str(FIRST_COURT)
    found = await call(process, "ExplainOpen", request(method="HEAD"), keyring.as_person(ALICE))
    assert [reason.code for reason in found.reasons] == ["method_head"]
    assert outside.published == []


@pytest.mark.parametrize(
    ("person", "verdict"),
    [
        pytest.param(ALICE, events_pb2.VERDICT_STAFF, id="own network"),
        pytest.param(CHARLIE, events_pb2.VERDICT_UNCONFIRMED, id="another agency's network is nothing to them"),
    ],
)
async def test_the_agency_is_the_callers(
    start: Start, outside: Outside, keyring: Keyring, person: Person, verdict: int
) -> None:
    process = await start()
    async with outside.pool.transaction() as conn:
        await store.save_agencies(conn, [Agency(FIRST_COURT, ["73.162.0.0/16"], 1), Agency(OTHER_COURT, [], 1)])
    # Whatever agency the request claims.
    asked = request(agency_id=str(FIRST_COURT))
    found = await call(process, "ExplainOpen", asked, keyring.as_person(person))
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        pytest.param({"kind": 0}, "open.kind", id="no kind"),
        pytest.param({"ip_address": "1.2.3.4.5"}, "open.ip_address", id="no address"),
        pytest.param({"ip_address": "8.8.8.8:80"}, "open.ip_address", id="port"),
        pytest.param({"user_agent": "x" * 2_049}, "open.user_agent", id="too long"),
        pytest.param({"method": "x" * 33}, "open.method", id="long method"),
    ],
)
async def test_a_wrong_request_names_its_field(
    start: Start, keyring: Keyring, changes: dict[str, object], field: str
) -> None:
    with pytest.raises(ServiceError) as raised:
        await call(await start(), "ExplainOpen", request(**changes), keyring.as_person(ALICE))
    assert (raised.value.code, raised.value.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELDS_INVALID")
    assert [named for named, _ in raised.value.fields] == [field]


async def test_a_request_without_an_open_names_it(start: Start, keyring: Keyring) -> None:
    with pytest.raises(ServiceError) as raised:
        await call(await start(), "ExplainOpen", enrichment_pb2.ExplainOpenRequest(), keyring.as_person(ALICE))
    assert [named for named, _ in raised.value.fields] == ["open"]


async def test_the_status_shows_rules_and_data_with_date_and_credit(start: Start, keyring: Keyring, data: Path) -> None:
    process = await start(ip_data_dir=data)
    status = await call(process, "GetStatus", enrichment_pb2.GetStatusRequest(), keyring.as_person(ALICE))
    assert status.rule_pack
    shown = {(found.purpose, found.title, found.build_time.seconds, found.problem) for found in status.data_sets}
    assert shown == {("network", "ip-location-db asn", ip_data.BUILT, ""), ("place", "dbip-city", ip_data.BUILT, "")}
    assert all("https://db-ip.com" in found.credit for found in status.data_sets)


async def test_the_status_says_what_is_missing(start: Start, keyring: Keyring) -> None:
    process = await start()
    status = await call(process, "GetStatus", enrichment_pb2.GetStatusRequest(), keyring.as_person(ALICE))
    shown = [(found.purpose, found.problem) for found in status.data_sets]
    assert ("network", "no file for IPv4 addresses") in shown
    assert ("place", "no file for IPv6 addresses") in shown
    assert all(not found.HasField("build_time") and found.title == "" for found in status.data_sets)


@pytest.mark.parametrize("method", ["ExplainOpen", "GetStatus"])
async def test_nobody_is_answered_without_an_identity(start: Start, method: str) -> None:
    message = request() if method == "ExplainOpen" else enrichment_pb2.GetStatusRequest()
    with pytest.raises(ServiceError) as raised:
        await call(await start(), method, message, ())
    assert raised.value.code == grpc.StatusCode.UNAUTHENTICATED
