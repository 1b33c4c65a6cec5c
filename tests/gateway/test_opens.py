"""Opens over the JSON API: filters, words, paging, detail, counts."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from opennotice.enrichment.v1 import events_pb2
from opennotice.link.v1 import link_pb2
from opennotice.reporting.v1 import reporting_pb2
from opennotice.tracking.v1 import events_pb2 as tracking_pb2

from gateway.words import OPEN_COLUMNS, open_json
from tests.cast import ALICE, CHARLIE, DANA, OTHER_COURT
from tests.gateway.conftest import House, make_client, make_link, make_portal, until
from tests.reporting.sample import an_open

# As architecture.md gives them; other people's programs rely on names and order.
COLUMNS = [
    "open_id",
    "opened_at",
    "client",
    "client_ref",
    "portal",
    "page",
    "kind",
    "device",
    "browser",
    "os",
    "ip_address",
    "network",
    "asn",
    "country",
    "region",
    "city",
    "link_state",
    "verdict",
    "reasons",
    "active_seconds",
    "referrer",
    "language",
    "message_id",
    "link_id",
    "user_agent",
]
START = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)


@pytest.fixture
def api(house: House) -> Iterator[httpx.Client]:
    with house.api() as http:
        yield http


def id_of(made: dict[str, Any]) -> UUID:
    """Returns the id in the name of what the API made."""
    return UUID(made["name"].rpartition("/")[2])


def listed(http: httpx.Client, **params: Any) -> list[dict[str, Any]]:
    """Returns the first page of a filter."""
    answer = http.get("/api/v1/opens", params=params)
    assert answer.status_code == 200, answer.text
    opens: list[dict[str, Any]] = answer.json()["opens"]
    return opens


@pytest.fixture
def client(house: House, api: httpx.Client) -> dict[str, Any]:
    """A client of their own for each test, known to reporting."""
    return make_client(api, display_name=f"Ana Rivera {uuid4()}", ref=f"CR-{uuid4()}")


def put(house: House, http: httpx.Client, client: dict[str, Any], *opens: events_pb2.OpenEnriched) -> list[str]:
    """Publishes opens of a client and waits until they can be found under the client's name."""
    house.publish(*opens)
    wanted = {one.open.open_id for one in opens}

    def arrived() -> bool:
        found = listed(http, client=client["ref"], page_size=200)
        return wanted <= {one["open_id"] for one in found if one["client"]}

    until(arrived, "the opens")
    return [one.open.open_id for one in sorted(opens, key=lambda one: one.open.open_id, reverse=True)]


def test_an_open_is_one_flat_object_whose_keys_are_the_columns(
    house: House, api: httpx.Client, client: dict[str, Any]
) -> None:
    item = an_open(START + timedelta(milliseconds=7), client_id=id_of(client), message_id=uuid4())
    (open_id,) = put(house, api, client, item)
    (shown,) = listed(api, client=client["name"])
    assert tuple(COLUMNS) == OPEN_COLUMNS
    assert list(shown) == [*COLUMNS, "client_name", "portal_name"]
    assert shown["open_id"] == open_id
    assert shown["opened_at"] == "2026-11-20T08:00:00.007Z"
    assert (shown["client"], shown["client_ref"]) == (client["display_name"], client["ref"])
    assert (shown["client_name"], shown["portal_name"]) == (client["name"], None)
    assert (shown["kind"], shown["device"], shown["link_state"]) == ("portal", "mobile", "active")
    assert (shown["verdict"], shown["reasons"]) == ("unconfirmed", ["no_evidence"])
    assert (shown["browser"], shown["os"]) == ("Mobile Safari 17.5", "iOS 17.5.1")
    assert (shown["asn"], shown["country"], shown["active_seconds"]) == (7922, "US", None)
    assert shown["link_id"] == item.open.link_id
    assert shown["message_id"] == item.open.message_id
    assert shown["user_agent"] == item.open.user_agent


def test_one_open_has_a_detail_besides(house: House, api: httpx.Client, client: dict[str, Any]) -> None:
    (open_id,) = put(house, api, client, an_open(START, client_id=id_of(client)))
    shown = api.get(f"/api/v1/opens/{open_id}").json()
    assert list(shown) == [*COLUMNS, "client_name", "portal_name", "detail"]
    detail = shown["detail"]
    assert detail["reasons"] == [{"code": "no_evidence", "sentence": "The page gave no sign either way."}]
    assert detail["headers"] == [{"name": "sec-fetch-mode", "value": "navigate"}]
    assert (detail["method"], detail["status"], detail["network_status"]) == ("GET", 200, "found")


def test_an_open_of_a_revoked_link_says_how_it_was_served_and_when_it_was_revoked(
    house: House, api: httpx.Client, client: dict[str, Any]
) -> None:
    # As when the public page could not be told in time, and served the visitor.
    portal = make_portal(api)
    link = make_link(api, portal=portal["name"], client=client["name"])
    revoked = api.post(f"/api/v1/{link['name']}:revoke", json={}).json()["revoke_time"]
    moment = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=5)
    ids = {"link_id": id_of(link), "portal_id": id_of(portal), "client_id": id_of(client)}
    (open_id,) = put(house, api, client, an_open(moment, **ids))

    def told() -> dict[str, Any] | None:
        shown = api.get(f"/api/v1/opens/{open_id}").json()
        return shown if shown["detail"]["revoke_time"] else None

    shown = until(told, "the link to be known as revoked")
    assert (shown["link_state"], shown["detail"]["revoke_time"]) == ("active", revoked)
    page = house.browser(DANA).get(f"/opens/{open_id}").text
    assert "The link had been revoked before" in page
    assert "served as if the link were active" in page
    assert "Revoked, but served as active" in page


def test_opens_of_a_shared_link_have_no_client(house: House, api: httpx.Client) -> None:
    link_id = uuid4()
    house.publish(an_open(START, link_id=link_id))
    shown = until(lambda: listed(api, link=f"links/{link_id}"), "the open")[0]
    assert (shown["client"], shown["client_ref"], shown["client_name"]) == (None, None, None)


FILTERS: list[Any] = [
    pytest.param({"device": "tablet"}, {"device": events_pb2.DEVICE_TABLET}, id="device"),
    pytest.param({"kind": "email"}, {"open_kind": tracking_pb2.OPEN_KIND_EMAIL}, id="kind"),
    pytest.param({"link_state": "expired"}, {"open_link_state": link_pb2.LINK_STATE_EXPIRED}, id="link-state"),
    pytest.param({"verdict": "machine_certain"}, {"verdict": events_pb2.VERDICT_MACHINE_CERTAIN}, id="verdict"),
    pytest.param({"network": "verizon"}, {"network": "Verizon Business"}, id="network"),
    pytest.param({"network": "AS64500"}, {"asn": 64500}, id="network-number"),
    pytest.param({"ip": "198.51.100.0/24"}, {"open_ip_address": "198.51.100.77"}, id="ip-range"),
    pytest.param({"ip": "2001:db8::1"}, {"open_ip_address": "2001:db8::1"}, id="ip-six"),
]


@pytest.mark.parametrize(("params", "fields"), FILTERS)
def test_a_filter_finds_exactly_what_it_says(
    house: House, api: httpx.Client, client: dict[str, Any], params: dict[str, str], fields: dict[str, Any]
) -> None:
    matching = an_open(START, client_id=id_of(client), **fields)
    other = an_open(START + timedelta(seconds=1), client_id=id_of(client))
    put(house, api, client, matching, other)
    found = listed(api, client=client["ref"], **params)
    assert [one["open_id"] for one in found] == [matching.open.open_id]


def test_enums_may_be_repeated_and_mean_any_of_them(house: House, api: httpx.Client, client: dict[str, Any]) -> None:
    items = [
        an_open(START + timedelta(seconds=number), client_id=id_of(client), device=device)
        for number, device in enumerate(
            (events_pb2.DEVICE_MOBILE, events_pb2.DEVICE_TABLET, events_pb2.DEVICE_DESKTOP, events_pb2.DEVICE_OTHER)
        )
    ]
    put(house, api, client, *items)
    found = listed(api, client=client["ref"], device=["tablet", "other"])
    assert [one["device"] for one in found] == ["other", "tablet"]


def test_from_is_included_and_to_is_not_but_a_whole_day_is(
    house: House, api: httpx.Client, client: dict[str, Any]
) -> None:
    first, second, third = (
        an_open(moment, client_id=id_of(client))
        for moment in (START, START + timedelta(hours=1), START + timedelta(days=1))
    )
    put(house, api, client, first, second, third)

    def between(**params: str) -> list[str]:
        return [one["open_id"] for one in listed(api, client=client["ref"], **params)]

    assert between(**{"from": "2026-11-20T08:00:00Z", "to": "2026-11-20T09:00:00Z"}) == [first.open.open_id]
    assert between(**{"from": "2026-11-20T03:00:00-06:00"}) == [third.open.open_id, second.open.open_id]
    assert between(**{"from": "2026-11-20", "to": "2026-11-20"}) == [second.open.open_id, first.open.open_id]


def test_pages_of_opens_fit_together(house: House, api: httpx.Client, client: dict[str, Any]) -> None:
    moment = START - timedelta(days=3)
    wanted = put(house, api, client, *[an_open(moment, number=n, client_id=id_of(client)) for n in range(1, 8)])
    seen: list[str] = []
    token = ""
    while True:
        params: dict[str, Any] = {"client": client["ref"], "page_size": 3, "page_token": token}
        page = api.get("/api/v1/opens", params=params).json()
        seen += [one["open_id"] for one in page["opens"]]
        if not page["next_page_token"]:
            break
        token = page["next_page_token"]
    assert seen == wanted
    foreign = api.get("/api/v1/opens", params={"page_token": token})
    assert (foreign.status_code, foreign.json()["reason"]) == (422, "PAGE_TOKEN_INVALID"), "G09"


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        pytest.param("colour=red", {"colour"}, id="unknown"),
        pytest.param("device=phone", {"device"}, id="G10-unknown-word"),
        pytest.param("device=", {"device"}, id="G10-empty-word"),
        pytest.param("device=MOBILE", {"device"}, id="G10-upper-case"),
        pytest.param("device=unspecified", {"device"}, id="G10-unspecified"),
        pytest.param("verdict=person", {"verdict"}, id="G10-verdict"),
        pytest.param("client=a&client=b", {"client"}, id="A10-twice"),
        pytest.param("client=" + "x" * 201, {"client"}, id="A03-long"),
        pytest.param("portal=hearing", {"portal"}, id="portal-by-word"),
        pytest.param("ip=300.1.1.1", {"ip"}, id="no-address"),
        pytest.param("ip=10.0.0.0/33", {"ip"}, id="no-range"),
        pytest.param("from=2026-02-31", {"from"}, id="A04-31-february"),
        pytest.param("from=0000-00-00", {"from"}, id="A04-zeros"),
        pytest.param("from=yesterday", {"from"}, id="A04-word"),
        pytest.param("to=99999-01-01T00:00:00Z", {"to"}, id="A04-year-99999"),
        pytest.param("to=9999-12-31", {"to"}, id="A04-last-day"),
        pytest.param("from=2026-11-20T08:00:00", {"from"}, id="A04-without-offset"),
        pytest.param("from=1234567890", {"from"}, id="A04-number"),
        pytest.param("device=phone&from=x&page_size=-1", {"device", "from", "page_size"}, id="several-at-once"),
        pytest.param("client=%FF%FE", {"query"}, id="no-utf-8"),
        pytest.param("&".join(f"device=mobile&x{n}=1" for n in range(150)), {"query"}, id="300-parameters"),
    ],
)
@pytest.mark.parametrize("path", ["opens", "opens.csv", "opens:summary"])
def test_a_wrong_filter_is_one_clear_error_naming_its_fields(
    api: httpx.Client, path: str, query: str, fields: set[str]
) -> None:
    if path != "opens" and "page_size" in query:
        fields = {"device", "from", "page_size"}
    by = "&by=day" if path == "opens:summary" else ""
    answer = api.get(f"/api/v1/{path}?{query}{by}")
    assert answer.status_code == 422, answer.text
    assert {error["field"] for error in answer.json()["errors"]} == fields


def test_from_after_to_is_refused(api: httpx.Client) -> None:
    answer = api.get("/api/v1/opens", params={"from": "2026-11-21", "to": "2026-11-19"})
    assert answer.status_code == 422, "A04, G11"
    assert {error["field"] for error in answer.json()["errors"]} <= {"from", "to"}


@pytest.mark.parametrize("by", ["day", "portal", "device", "verdict"])
def test_opens_are_counted(house: House, api: httpx.Client, client: dict[str, Any], by: str) -> None:
    portal = uuid4()
    items = [an_open(START + timedelta(seconds=n), client_id=id_of(client), portal_id=portal) for n in range(3)]
    put(house, api, client, *items)
    answer = api.get("/api/v1/opens:summary", params={"client": client["ref"], "by": by})
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    value = {"day": "2026-11-20", "portal": f"portals/{portal}", "device": "mobile", "verdict": "unconfirmed"}[by]
    assert (shown["by"], shown["total"]) == (by, 3)
    assert [(group["value"], group["count"]) for group in shown["groups"]] == [(value, 3)]


@pytest.mark.parametrize(
    ("query", "field"),
    [("", "by"), ("by=hour", "by"), ("by=day&by=portal", "by"), ("by=day&time_zone=Mars/Phobos", "time_zone")],
)
def test_a_wrong_count_is_refused(api: httpx.Client, query: str, field: str) -> None:
    answer = api.get(f"/api/v1/opens:summary?{query}")
    assert answer.status_code == 422
    assert {error["field"] for error in answer.json()["errors"]} == {field}


def test_another_agency_sees_none_of_it(house: House, api: httpx.Client, client: dict[str, Any]) -> None:
    (open_id,) = put(house, api, client, an_open(START, client_id=id_of(client)))
    with house.api(by=CHARLIE) as other:
        assert other.get(f"/api/v1/opens/{open_id}").status_code == 404, "G12"
        assert open_id not in other.get("/api/v1/opens", params={"page_size": 200}).text
        assert open_id not in other.get("/api/v1/opens.csv").text
        assert other.get("/api/v1/opens:summary", params={"by": "day", "client": client["ref"]}).json()["total"] == 0
        link_id = uuid4()
        house.publish(an_open(START, agency_id=OTHER_COURT, link_id=link_id))
        until(lambda: listed(other, link=f"links/{link_id}"), "the open of the other court")
    assert listed(api, link=f"links/{link_id}") == []


def test_a_clerk_sees_opens_of_own_clients_only(house: House, api: httpx.Client, client: dict[str, Any]) -> None:
    (open_id,) = put(house, api, client, an_open(START, client_id=id_of(client)))
    with house.browser(ALICE) as alice:
        assert alice.get(f"/api/v1/opens/{open_id}").status_code == 404
        assert listed(alice, client=client["ref"]) == []
        own = make_client(alice, ref=f"CR-{uuid4()}")
        (own_id,) = put(house, alice, own, an_open(START, client_id=id_of(own)))
        assert alice.get(f"/api/v1/opens/{own_id}").status_code == 200


def test_a_clients_history_tells_messages_deliveries_and_opens(
    house: House, api: httpx.Client, client: dict[str, Any]
) -> None:
    body = {"client": client["name"], "channel": "sms", "send_time": "2026-11-20T07:00:00Z", "delivery_status": "sent"}
    message = api.post("/api/v1/messages", json=body).json()
    report = {"status": "delivered", "event_time": "2026-11-20T07:01:00Z"}
    api.post(f"/api/v1/{message['name']}:reportDelivery", json=report)
    (open_id,) = put(house, api, client, an_open(START, client_id=id_of(client)))

    def entries() -> list[dict[str, Any]]:
        answer = api.get(f"/api/v1/{client['name']}/timeline")
        assert answer.status_code in (200, 404)
        return list(answer.json().get("entries", []))

    until(lambda: {"open", "delivery", "message"} <= {entry["kind"] for entry in entries()}, "the whole history")
    shown = entries()
    assert [entry["time"] for entry in shown] == sorted((entry["time"] for entry in shown), reverse=True)
    assert shown[0]["open"]["open_id"] == open_id
    assert {entry["message"]["name"] for entry in shown if entry["kind"] == "message"} == {message["name"]}


def test_what_is_not_set_is_null() -> None:
    shown = open_json(reporting_pb2.Open(name="opens/01890000-0000-7000-8000-000000000001"))
    assert {value for key, value in shown.items() if key not in ("open_id", "reasons")} == {None}


def test_a_value_of_a_newer_service_is_null_and_no_fault() -> None:
    newer: Any = 77
    assert open_json(reporting_pb2.Open(device=newer))["device"] is None
