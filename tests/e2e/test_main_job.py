"""The main job on the whole product: a link is made, somebody opens it, staff see who, when and how.

Once on the bundle and once on the containers, through their proxy and TLS.
"""

import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.product import IPHONE, T_MOBILE, Product

pytestmark = pytest.mark.e2e
COLUMNS = (
    "open_id,opened_at,client,client_ref,portal,page,kind,device,browser,os,ip_address,network,asn,country,region,city,"
    "link_state,verdict,reasons,active_seconds,referrer,language,message_id,link_id,user_agent"
)


@pytest.fixture(scope="module")
def api(product: Product) -> Any:
    with product.api(product.new_key()) as client:
        yield client


def made(answer: httpx.Response) -> Any:
    """Returns what a creation answered."""
    assert answer.status_code == 201, answer.text
    return answer.json()


def eventually(look: Callable[[], Any], seconds: float = 10) -> Any:
    """Returns the first thing found; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "nothing came in time"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def portal(api: httpx.Client) -> Any:
    pages = [
        {"slug": "hearing-details", "title": "Your hearing", "markdown": "Room **4**, 9:00.\n\n- Bring your papers"},
        {"slug": "payment", "title": "How to pay", "markdown": "At the desk."},
    ]
    return made(api.post("portals", json={"display_name": "Hearing details", "kind": "hosted", "pages": pages}))


def new_client(api: httpx.Client, name: str = "Jordan Miles") -> Any:
    return made(api.post("clients", json={"display_name": name, "ref": f"CR-{uuid4()}"}))


def new_link(api: httpx.Client, portal: Any, client: Any = None, **more: Any) -> Any:
    body = {"portal": portal["name"], **({"client": client["name"]} if client else {}), **more}
    return made(api.post("links", json=body))


def opens_of(api: httpx.Client, **query: Any) -> list[Any]:
    answer = api.get("opens", params=query)
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()["opens"]
    return found


def test_an_open_is_seen_with_device_network_and_place(product: Product, api: httpx.Client, portal: Any) -> None:
    client = new_client(api)
    link = new_link(api, portal, client)
    visit = product.visit(link["url"], address=T_MOBILE)
    assert visit.status_code == 200
    assert "Your hearing" in visit.text
    assert "<strong>4</strong>" in visit.text
    assert visit.headers["cache-control"] == "no-store"
    assert visit.headers["referrer-policy"] == "no-referrer"
    (row,) = eventually(lambda: opens_of(api, client=client["name"]))
    assert row["open_id"] == visit.headers["x-open-id"]
    expected = {
        "client": "Jordan Miles",
        "client_ref": client["ref"],
        "portal": "Hearing details",
        "page": "hearing-details",
        "kind": "portal",
        "device": "mobile",
        "browser": "Mobile Safari 17.5",
        "os": "iOS 17.5.1",
        "ip_address": T_MOBILE,
        "asn": 21928,
        "country": "US",
        "region": product.place[0],
        "city": product.place[1],
        "link_state": "active",
        "verdict": "unconfirmed",
        "user_agent": IPHONE,
        "active_seconds": None,
        "message_id": None,
        "link_id": link["name"].removeprefix("links/"),
        "client_name": client["name"],
        "portal_name": portal["name"],
    }
    assert {key: row[key] for key in expected} == expected
    assert "T-Mobile" in row["network"]
    detail = api.get(f"opens/{row['open_id']}").json()["detail"]
    assert detail, "by id everything else is told too"


def test_a_link_works_with_the_very_next_request(product: Product, api: httpx.Client, portal: Any) -> None:
    for _ in range(25):
        assert product.visit(new_link(api, portal)["url"]).status_code == 200


def test_an_expired_link_answers_410_and_its_open_stays_with_the_client(
    product: Product, api: httpx.Client, portal: Any
) -> None:
    client = new_client(api, "Late Larry")
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 2))
    link = new_link(api, portal, client, expire_time=soon)
    time.sleep(2.5)
    visit = product.visit(link["url"])
    assert visit.status_code == 410
    assert visit.headers["x-open-id"]
    (row,) = eventually(lambda: opens_of(api, client=client["ref"], link_state="expired"))
    assert (row["client"], row["link_state"]) == ("Late Larry", "expired")
    timeline = api.get(f"{client['name']}/timeline").json()
    assert "expired" in str(timeline)


def test_a_revoked_link_stops_within_two_seconds_and_is_still_recorded(
    product: Product, api: httpx.Client, portal: Any
) -> None:
    client = new_client(api)
    link = new_link(api, portal, client)
    assert product.visit(link["url"]).status_code == 200
    assert api.post(f"{link['name']}:revoke").status_code == 200
    eventually(lambda: product.visit(link["url"]).status_code == 410, 2)
    assert eventually(lambda: opens_of(api, client=client["name"], link_state="revoked"))


def test_every_visit_is_its_own_open(product: Product, api: httpx.Client, portal: Any) -> None:
    client = new_client(api)
    link = new_link(api, portal, client)
    answered = {product.visit(link["url"]).headers["x-open-id"] for _ in range(20)}
    assert len(answered) == 20
    seen = eventually(lambda: len(rows := opens_of(api, client=client["name"])) >= 20 and rows)
    assert {row["open_id"] for row in seen} == answered


def test_machines_are_labelled_with_a_reason_and_not_dropped(product: Product, api: httpx.Client, portal: Any) -> None:
    client = new_client(api)
    url = new_link(api, portal, client)["url"]
    product.visit(url, method="HEAD")
    product.visit(url, headers={"sec-purpose": "prefetch;prerender"})
    product.visit(url, agent="curl/8.5.0")
    product.visit(url, agent="Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)")
    rows = eventually(lambda: len(rows := opens_of(api, client=client["name"])) == 4 and rows)
    assert {row["verdict"] for row in rows} == {"machine_certain"}
    codes = {code for row in rows for code in row["reasons"]}
    assert {"method_head", "purpose_prefetch", "ua_library", "ua_preview"} <= codes


def test_a_redirect_is_tracked_apart(product: Product, api: httpx.Client) -> None:
    redirect = made(api.post("redirects", json={"display_name": "Pay", "target_uri": "https://pay.example.org/x"}))
    visit = product.visit(redirect["url"])
    assert (visit.status_code, visit.headers["location"]) == (302, "https://pay.example.org/x")
    rows = eventually(lambda: [row for row in opens_of(api, kind="redirect") if row["portal"] == "Pay"])
    assert rows[0]["link_id"] == redirect["name"].removeprefix("redirects/")


def test_the_csv_has_exactly_the_filtered_rows(product: Product, api: httpx.Client, portal: Any) -> None:
    client = new_client(api, '=HYPERLINK("http://evil.example")')
    url = new_link(api, portal, client)["url"]
    for _ in range(3):
        product.visit(url)
    product.visit(new_link(api, portal)["url"])
    eventually(lambda: len(opens_of(api, client=client["name"])) == 3)
    answer = api.get("opens.csv", params={"client": client["name"]})
    assert answer.status_code == 200
    header, *rows = answer.content.decode("utf-8-sig").strip().split("\r\n")
    assert header == COLUMNS
    assert len(rows) == 3
    assert all("'=HYPERLINK" in row for row in rows)


def test_another_agency_sees_nothing(product: Product, api: httpx.Client, portal: Any) -> None:
    client = new_client(api)
    link = new_link(api, portal, client)
    product.visit(link["url"])
    (row,) = eventually(lambda: opens_of(api, client=client["name"]))
    other = product.json("agency", "create", "--name", "Other Court", "--admin-email", f"{uuid4()}@other.example")
    with product.api(product.new_key("--agency", other["name"])) as stranger:
        assert opens_of(stranger) == []
        for path in (f"opens/{row['open_id']}", client["name"], portal["name"], link["name"]):
            assert stranger.get(path).status_code == 404, path
        assert stranger.post(f"{link['name']}:revoke").status_code == 404
        body = {"portal": portal["name"]}
        assert stranger.post("links", json=body).status_code in (404, 422)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"colour": "red"}, "colour"),
        ({"device": "toaster"}, "device"),
        ({"from": "yesterday"}, "from"),
        ({"from": "2026-02-31"}, "from"),
        ({"ip": "300.1.1.1"}, "ip"),
        ({"page_size": "-1"}, "page_size"),
        ({"page_token": "forged"}, "page_token"),
        ({"portal": "portals/nonsense"}, "portal"),
    ],
)
def test_a_wrong_filter_is_one_clear_error(api: httpx.Client, query: dict[str, str], field: str) -> None:
    answer = api.get("opens", params=query)
    assert answer.status_code == 422
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert [error["field"] for error in answer.json()["errors"]] == [field]


def test_a_missing_key_is_one_clear_error(product: Product) -> None:
    with product.api("") as nobody:
        answer = nobody.get("opens")
    assert answer.status_code == 401
    assert set(answer.json()) >= {"type", "title", "status", "reason"}


def test_nothing_was_set_aside(product: Product) -> None:
    assert product.json("dead-letters", "list")["dead_letters"] == []
