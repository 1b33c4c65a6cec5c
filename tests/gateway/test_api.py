"""The JSON API: every resource round trip, and what happens to wrong input."""

import json
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.cast import DANA, MORGAN
from tests.gateway.conftest import House, make_client, make_link, make_portal

NO_SUCH = "01890000-0000-7000-8000-0000000000ff"


@pytest.fixture
def api(house: House) -> Any:
    with house.api() as http:
        yield http


def _fields(answer: httpx.Response) -> set[str]:
    return {error["field"] for error in answer.json()["errors"]}


def test_a_hosted_portal_is_created_listed_read_and_changed(api: httpx.Client) -> None:
    made = make_portal(api, display_name="Check-in")
    assert made["name"].startswith("portals/")
    assert (made["kind"], made["active"], made["target_uri"]) == ("hosted", True, None)
    assert made["pages"] == [{"slug": "hearing", "title": "Your hearing", "markdown": "Bring this letter."}]
    assert made["name"] in {portal["name"] for portal in api.get("/api/v1/portals").json()["portals"]}
    assert api.get(f"/api/v1/{made['name']}").json() == made
    change = {"active": False, "revision": made["revision"]}
    changed = api.patch(f"/api/v1/{made['name']}", json=change)
    assert changed.status_code == 200
    assert changed.json()["active"] is False
    assert changed.json()["pages"] == made["pages"], "what is not sent stays"


def test_two_who_change_the_same_thing_do_not_undo_each_other(api: httpx.Client) -> None:
    made = make_portal(api)
    first = {"display_name": "First", "revision": made["revision"]}
    second = {"display_name": "Second", "revision": made["revision"]}
    assert api.patch(f"/api/v1/{made['name']}", json=first).status_code == 200
    answer = api.patch(f"/api/v1/{made['name']}", json=second)
    assert (answer.status_code, answer.json()["reason"]) == (409, "CHANGED_MEANWHILE"), "A12"
    assert api.get(f"/api/v1/{made['name']}").json()["display_name"] == "First"


@pytest.mark.parametrize("revision", [-1, 2**63, 2**200])
def test_a_revision_that_no_service_could_read_is_an_error_of_its_field(api: httpx.Client, revision: int) -> None:
    answer = api.patch(f"/api/v1/{make_portal(api)['name']}", json={"active": False, "revision": revision})
    assert (answer.status_code, [error["field"] for error in answer.json()["errors"]]) == (422, ["revision"])


def test_a_client_is_created_found_and_changed(api: httpx.Client) -> None:
    ref = f"2026-CR-{uuid4()}"
    made = make_client(api, display_name="Ana Rivera", ref=ref, email="ana@example.org", phone="+1 555 0100")
    assert made["name"].startswith("clients/")
    assert [made[key] for key in ("ref", "email", "phone", "officer")] == [ref, "ana@example.org", "+1 555 0100", None]
    found = api.get("/api/v1/clients", params={"query": ref}).json()
    assert [client["name"] for client in found["clients"]] == [made["name"]]
    assert found["next_page_token"] is None
    changed = api.patch(f"/api/v1/{made['name']}", json={"phone": None, "display_name": "Ana María Rivera"}).json()
    assert (changed["phone"], changed["display_name"], changed["ref"]) == (None, "Ana María Rivera", ref)


def test_a_ref_belongs_to_one_client(api: httpx.Client) -> None:
    ref = str(uuid4())
    make_client(api, ref=ref)
    answer = api.post("/api/v1/clients", json={"display_name": "Other", "ref": ref})
    assert (answer.status_code, answer.json()["reason"]) == (409, "REF_TAKEN")


def test_a_message_is_created_and_its_delivery_reported(api: httpx.Client) -> None:
    client = make_client(api)
    campaign = api.post("/api/v1/campaigns", json={"display_name": "December hearings"}).json()
    assert campaign["name"].startswith("campaigns/")
    body = {
        "client": client["name"],
        "campaign": campaign["name"],
        "channel": "sms",
        "send_time": "2026-11-20T09:30:00-05:00",
        "delivery_status": "sent",
        "deadline_time": "2026-12-03T14:00:00Z",
    }
    made = api.post("/api/v1/messages", json=body)
    assert made.status_code == 201
    shown = made.json()
    assert shown["send_time"] == "2026-11-20T14:30:00.000Z"
    assert (shown["channel"], shown["delivery_status"]) == ("sms", "sent")
    report = {"status": "delivered", "event_time": "2026-11-20T14:31:00Z"}
    reported = api.post(f"/api/v1/{shown['name']}:reportDelivery", json=report)
    assert (reported.status_code, reported.json()["delivery_status"]) == (200, "delivered")
    deliveries = api.get(f"/api/v1/{shown['name']}").json()["deliveries"]
    assert {"status": "delivered", "event_time": "2026-11-20T14:31:00.000Z"} in deliveries
    listed = api.get("/api/v1/messages", params={"client": client["name"]}).json()["messages"]
    assert [message["name"] for message in listed] == [shown["name"]]


def test_a_link_is_created_revealed_extended_and_revoked(api: httpx.Client) -> None:
    portal, client = make_portal(api), make_client(api)
    made = make_link(api, portal=portal["name"], client=client["name"], expire_time="2099-01-01T00:00:00Z")
    assert made["name"].startswith("links/")
    token = made["url"].rpartition("/")[2]
    assert len(token) == 22
    path = f"/api/v1/{made['name']}"
    assert api.get(path).json()["url"] is None, "a list or a look shows no secret"
    assert api.post(f"{path}:reveal").json()["url"] == made["url"]
    extended = api.post(f"{path}:extend", json={"expire_time": None})
    assert (extended.status_code, extended.json()["expire_time"]) == (200, None)
    assert api.post(f"{path}:revoke", json={}).json()["state"] == "revoked"
    refused = api.post(f"{path}:extend", json={"expire_time": "2099-01-01T00:00:00Z"})
    assert (refused.status_code, refused.json()["reason"]) == (409, "LINK_REVOKED")
    listed = api.get("/api/v1/links", params={"client": client["name"]}).json()["links"]
    assert [(link["name"], link["state"]) for link in listed] == [(made["name"], "revoked")]


def test_a_link_without_a_client_is_shared(api: httpx.Client) -> None:
    made = make_link(api, portal=make_portal(api)["name"])
    assert (made["client"], made["state"], made["expire_time"]) == (None, "active", None)


def test_a_redirect_is_created_and_switched_off(api: httpx.Client) -> None:
    answer = api.post("/api/v1/redirects", json={"display_name": "Pay", "target_uri": "https://pay.example.org/fines"})
    assert answer.status_code == 201
    made = answer.json()
    assert "/r/" in made["url"]
    assert api.post(f"/api/v1/{made['name']}:reveal").json()["url"] == made["url"]
    assert api.patch(f"/api/v1/{made['name']}", json={"active": False}).json()["active"] is False
    assert api.get(f"/api/v1/{made['name']}").json()["url"] is None


def test_the_same_request_id_creates_once(api: httpx.Client) -> None:
    body = {"display_name": "Once", "request_id": str(uuid4())}
    first, second = (api.post("/api/v1/clients", json=body) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["name"] == second.json()["name"], "A13"
    other = api.post("/api/v1/clients", json=body | {"display_name": "Other"})
    assert (other.status_code, other.json()["reason"]) == (409, "REQUEST_ID_REUSED"), "G13"


def test_who_is_asking(house: House) -> None:
    with house.browser(MORGAN) as http:
        shown = http.get("/api/v1/caller").json()
    assert (shown["name"], shown["role"], shown["time_zone"]) == (MORGAN.name, "manager", "America/New_York")
    assert "opens:export" in shown["permissions"]


CLIENT_FAULTS: list[Any] = [
    pytest.param({}, "display_name", id="G10-missing"),
    pytest.param({"display_name": ""}, "display_name", id="A02-empty"),
    pytest.param({"display_name": "   "}, "display_name", id="A02-spaces"),
    pytest.param({"display_name": "x" * 10_000}, "display_name", id="A02-10000-characters"),
    pytest.param({"display_name": "a\x00b"}, "display_name", id="A02-nul"),
    pytest.param({"display_name": 5}, "display_name", id="G10-number"),
    pytest.param({"display_name": None}, "display_name", id="G10-null"),
    pytest.param({"display_name": "A", "role": "admin"}, "role", id="A09-role"),
    pytest.param({"display_name": "A", "agency_id": "2"}, "agency_id", id="A09-agency"),
    pytest.param({"display_name": "A", "is_locked": False}, "is_locked", id="A09-locked"),
    pytest.param({"display_name": "A", "ref": "x" * 300}, "ref", id="C13-long-ref"),
    pytest.param({"display_name": "A", "request_id": "not-a-uuid"}, "request_id", id="G13-no-uuid"),
]


@pytest.mark.parametrize(("body", "field"), CLIENT_FAULTS)
def test_a_wrong_client_is_one_clear_error_naming_the_field(api: httpx.Client, body: Any, field: str) -> None:
    answer = api.post("/api/v1/clients", json=body)
    assert answer.status_code == 422
    assert field in _fields(answer)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("<script>alert(1)</script>", id="A02-script"),
        pytest.param("{{7*7}} ${7*7}", id="A02-template"),
        pytest.param("😀 e\u0301 Zoë", id="A02-emoji-combining"),
        pytest.param("=cmd|' /C calc'!A0", id="C08-formula"),
    ],
)
def test_a_strange_name_is_kept_as_typed(api: httpx.Client, name: str) -> None:
    made = make_client(api, display_name=name)
    assert api.get(f"/api/v1/{made['name']}").json()["display_name"] == name


TARGETS: list[Any] = [
    pytest.param(target, id=f"A01-{name}")
    for name, target in {
        "javascript": "javascript:alert(1)",
        "data": "data:text/html,x",
        "file": "file:///etc/passwd",
        "ftp": "ftp://court.example.org/x",
        "two-slashes": "//evil.example.org",
        "backslash": "/\\evil.example.org",
        "no-slashes": "https:evil.example.org",
        "user": "https://court.example.org@evil.example.org/",
        "port-22": "https://court.example.org:22/",
        "address": "https://203.0.113.7/",
        "decimal-address": "https://2130706433/",
        "mapped-address": "https://[::ffff:127.0.0.1]/",
        "localhost": "https://localhost/",
        "metadata": "https://169.254.169.254/latest",
        "newline": "https://court.example.org/\nx",
        "tab": "https://court\t.example.org/",
        "http": "http://court.example.org/",
        "empty": "",
    }.items()
]


@pytest.mark.parametrize("target", TARGETS)
def test_an_address_that_may_not_be_linked_to_is_refused(api: httpx.Client, target: str) -> None:
    redirect = api.post("/api/v1/redirects", json={"display_name": "x", "target_uri": target})
    portal = api.post("/api/v1/portals", json={"display_name": "x", "kind": "external", "target_uri": target})
    for answer in (redirect, portal):
        assert answer.status_code == 422
        assert "target_uri" in _fields(answer)


LINK_FAULTS: list[Any] = [
    pytest.param({"expire_time": "2026-02-31T00:00:00Z"}, "expire_time", id="A04-31-february"),
    pytest.param({"expire_time": "99999-01-01T00:00:00Z"}, "expire_time", id="A04-year-99999"),
    pytest.param({"expire_time": "0000-00-00"}, "expire_time", id="A04-zeros"),
    pytest.param({"expire_time": "2099-01-01T00:00:00"}, "expire_time", id="A04-without-offset"),
    pytest.param({"expire_time": 4070908800}, "expire_time", id="G10-number-as-time"),
    pytest.param({"expire_time": "1971-01-01T00:00:00Z"}, "expire_time", id="A04-past"),
    pytest.param({"portal": 5}, "portal", id="G10-number-as-name"),
    pytest.param({"url": "https://x.example"}, "url", id="A09-output-only"),
]


@pytest.mark.parametrize(("change", "field"), LINK_FAULTS)
def test_a_wrong_link_is_one_clear_error_naming_the_field(api: httpx.Client, change: Any, field: str) -> None:
    body = {"portal": make_portal(api)["name"]} | change
    answer = api.post("/api/v1/links", json=body)
    assert answer.status_code == 422
    assert field in _fields(answer)


@pytest.mark.parametrize(
    "identifier",
    [
        pytest.param(NO_SUCH, id="A07-unknown"),
        pytest.param("9223372036854775808", id="A07-two-to-63"),
        pytest.param("-1", id="A07-negative"),
        pytest.param(NO_SUCH.upper(), id="A07-upper-case"),
        pytest.param("{" + NO_SUCH + "}", id="A07-braces"),
        pytest.param(NO_SUCH.replace("-", ""), id="A07-without-dashes"),
        pytest.param("%00", id="A07-nul"),
        pytest.param("%F0%9F%98%80", id="A07-emoji"),
        pytest.param("%FF%FE", id="A07-no-utf-8"),
        pytest.param("x" * 5000, id="A07-long"),
    ],
)
@pytest.mark.parametrize("collection", ["opens", "links", "clients", "portals", "messages", "campaigns", "redirects"])
def test_an_id_that_is_none_of_ours_is_not_found(api: httpx.Client, collection: str, identifier: str) -> None:
    answer = api.get(f"/api/v1/{collection}/{identifier}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


BODIES: list[Any] = [
    pytest.param(b"{", "application/json", 422, id="half-an-object"),
    pytest.param(b"[]", "application/json", 422, id="a-list"),
    pytest.param(b"null", "application/json", 422, id="null"),
    pytest.param(b'{"display_name": "\xff\xfe"}', "application/json", 422, id="no-utf-8"),
    pytest.param(b'{"display_name": "\\ud800"}', "application/json", 422, id="half-a-surrogate"),
    pytest.param(b'{"display_name": NaN}', "application/json", 422, id="G19-nan"),
    pytest.param(b"[" * 4000, "application/json", 422, id="G05-4000-levels"),
    pytest.param(b"display_name=A", "application/x-www-form-urlencoded", 422, id="a-form"),
    pytest.param(b'{"display_name": "A"}', "text/plain", 422, id="text"),
    pytest.param(b'{"display_name": "' + b"x" * 2_000_000 + b'"}', "application/json", 413, id="G04-two-megabytes"),
    pytest.param(b'{"display_name": "' + b"x" * 400_000 + b'"}', "application/json", 413, id="G04-400-kilobytes"),
]


@pytest.mark.parametrize(("body", "media_type", "status"), BODIES)
def test_a_body_that_cannot_be_read_is_refused(api: httpx.Client, body: bytes, media_type: str, status: int) -> None:
    answer = api.post("/api/v1/clients", content=body, headers={"content-type": media_type})
    assert answer.status_code == status, answer.text
    assert answer.json()["status"] == status


def test_a_wrong_field_deep_inside_is_named_with_its_place(api: httpx.Client) -> None:
    pages = [{"slug": "a", "title": "A"}, {"slug": "b", "title": "B", "html": "<b>"}]
    answer = api.post("/api/v1/portals", json={"display_name": "x", "kind": "hosted", "pages": pages})
    assert answer.status_code == 422
    assert _fields(answer) == {"pages[1].html"} or _fields(answer) == {"pages[...].html"}


def test_what_a_service_refuses_is_named_as_the_api_names_it(api: httpx.Client) -> None:
    answer = api.post("/api/v1/portals", json={"display_name": "", "kind": "hosted", "pages": []})
    assert answer.status_code == 422
    assert {"display_name", "pages"} <= _fields(answer)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        pytest.param("page=-1", "page", id="A05-page-number"),
        pytest.param("sort=secret", "sort", id="A06-sort"),
        pytest.param("page_size=-1", "page_size", id="A05-negative"),
        pytest.param("page_size=ten", "page_size", id="A05-text"),
        pytest.param("page_size=1e3", "page_size", id="A05-exponent"),
        pytest.param("page_size=%2B5", "page_size", id="A05-sign"),
        pytest.param("page_size=5&page_size=6", "page_size", id="A10-twice"),
        pytest.param("page_token=forged", "page_token", id="A05-forged-token"),
        pytest.param("query=a&query=b", "query", id="A10-search-twice"),
        pytest.param("query=%00", "query", id="A03-nul"),
        pytest.param("query=" + "x" * 10_000, "query", id="A03-10-kb"),
    ],
)
def test_a_wrong_parameter_is_one_clear_error_naming_it(api: httpx.Client, query: str, field: str) -> None:
    answer = api.get(f"/api/v1/clients?{query}")
    assert answer.status_code == 422
    assert _fields(answer) == {field}


@pytest.mark.parametrize("text", ["%", "_", "\\", "'", '";--', "(", "NULL", "😀", "a", ".*"])
def test_a_search_means_what_was_typed(api: httpx.Client, text: str) -> None:
    marked = make_client(api, display_name=f"A03 {text} {uuid4()}")
    plain = make_client(api, display_name=f"A03 {uuid4()}")
    found = set()
    token: str | None = ""
    while token is not None:
        answer = api.get("/api/v1/clients", params={"query": f"A03 {text}", "page_size": 200, "page_token": token})
        assert answer.status_code == 200
        found |= {client["name"] for client in answer.json()["clients"]}
        token = answer.json()["next_page_token"]
    assert marked["name"] in found
    if text != "a":
        assert plain["name"] not in found


def test_pages_of_a_list_fit_together_and_their_tokens_belong_to_it(api: httpx.Client) -> None:
    portal = make_portal(api)
    made = [make_link(api, portal=portal["name"])["name"] for _ in range(5)]
    seen, token = [], ""
    while True:
        params = {"portal": portal["name"], "page_size": 2, "page_token": token}
        page = api.get("/api/v1/links", params=params).json()
        seen += [link["name"] for link in page["links"]]
        if page["next_page_token"] is None:
            break
        token = page["next_page_token"]
    assert seen == list(reversed(made))
    for wrong in (token[:-4] + "AAAA", token[1:]):
        answer = api.get("/api/v1/links", params={"portal": portal["name"], "page_token": wrong})
        assert (answer.status_code, answer.json()["reason"]) == (422, "PAGE_TOKEN_INVALID"), "G09"
    other = api.get("/api/v1/links", params={"page_token": token})
    assert (other.status_code, other.json()["reason"]) == (422, "PAGE_TOKEN_INVALID"), "G09"


def test_the_largest_page_is_lowered_and_not_refused(api: httpx.Client) -> None:
    for size in ("201", "1000000", str(2**31 - 1), str(10**30), "0"):
        assert api.get("/api/v1/clients", params={"page_size": size}).status_code == 200


def test_every_body_in_the_api_document_is_accepted_as_its_example_shows(api: httpx.Client) -> None:
    portal, client = make_portal(api), make_client(api)
    document = api.get("/api/docs/openapi.json").json()
    for path, key in (
        ("clients", "display_name"),
        ("portals", "kind"),
        ("campaigns", "display_name"),
        ("links", "portal"),
    ):
        operation = document["paths"][f"/api/v1/{path}"]["post"]
        example = json.loads(json.dumps(operation["requestBody"]["content"]["application/json"]["example"]))
        example.pop("ref", None)
        example |= {"portal": portal["name"], "client": client["name"]} if path == "links" else {}
        assert key in example
        assert api.post(f"/api/v1/{path}", json=example).status_code == 201


def test_the_address_bar_of_a_signed_in_browser_may_read_the_api(house: House) -> None:
    with house.browser(DANA) as http:
        assert http.get("/api/v1/clients").status_code == 200
