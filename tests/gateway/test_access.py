"""Who gets in, and what keeps others out: rules on routes, sessions, keys, roles, forged requests, headers."""

from ipaddress import ip_network
from typing import Any

import httpx
import pytest
from litestar import Request, get

from gateway import pages
from gateway.access import RouteWithoutRule, gate_of
from gateway.app import create_app
from gateway.clients import connect
from services.chassis.access import PERMISSIONS
from tests.auth.conftest import PASSWORD, email_of
from tests.cast import ALICE, BOB, CHARLIE, DANA, EVERYBODY, MORGAN, SAM, Person
from tests.fix_rpc import Keyring
from tests.gateway.conftest import COOKIE, SERVICES, House, gateway_settings, make_client, make_link, make_portal, until

# Method, path, permission: what the JSON API promises. Written out, so that a changed rule is seen in review.
ROUTES = [
    ("GET", "/api/v1/caller", "signed-in"),
    ("GET", "/api/v1/campaigns", "messages:read"),
    ("GET", "/api/v1/campaigns/{campaign_id}", "messages:read"),
    ("POST", "/api/v1/campaigns", "messages:write"),
    ("GET", "/api/v1/clients", "clients:read"),
    ("GET", "/api/v1/clients/{client_id}", "clients:read"),
    ("GET", "/api/v1/clients/{client_id}/timeline", "clients:read"),
    ("PATCH", "/api/v1/clients/{client_id}", "clients:write"),
    ("POST", "/api/v1/clients", "clients:write"),
    ("GET", "/api/v1/links", "links:read"),
    ("GET", "/api/v1/links/{link_id}", "links:read"),
    ("POST", "/api/v1/links", "links:write"),
    ("POST", "/api/v1/links/{link_id}:extend", "links:write"),
    ("POST", "/api/v1/links/{link_id}:reveal", "links:reveal"),
    ("POST", "/api/v1/links/{link_id}:revoke", "links:write"),
    ("GET", "/api/v1/messages", "messages:read"),
    ("GET", "/api/v1/messages/{message_id}", "messages:read"),
    ("POST", "/api/v1/messages", "messages:write"),
    ("POST", "/api/v1/messages/{message_id}:reportDelivery", "delivery:write"),
    ("GET", "/api/v1/opens", "opens:read"),
    ("GET", "/api/v1/opens.csv", "opens:export"),
    ("GET", "/api/v1/opens/{open_id}", "opens:read"),
    ("GET", "/api/v1/opens:summary", "opens:read"),
    ("GET", "/api/v1/portals", "portals:read"),
    ("GET", "/api/v1/portals/{portal_id}", "portals:read"),
    ("PATCH", "/api/v1/portals/{portal_id}", "portals:write"),
    ("POST", "/api/v1/portals", "portals:write"),
    ("GET", "/api/v1/redirects", "redirects:read"),
    ("GET", "/api/v1/redirects/{redirect_id}", "redirects:read"),
    ("PATCH", "/api/v1/redirects/{redirect_id}", "redirects:write"),
    ("POST", "/api/v1/redirects", "redirects:write"),
    ("POST", "/api/v1/redirects/{redirect_id}:reveal", "links:reveal"),
]
NO_SUCH = "01890000-0000-7000-8000-0000000000ff"


def _app(keyring: Keyring, **changes: Any) -> Any:
    import grpc

    channels = {service: grpc.aio.insecure_channel("127.0.0.1:1") for service in SERVICES}
    connections = connect(**channels, signer=keyring.signer("gateway"))
    return create_app(gateway_settings(keyring, **changes), connections, keyring.checker())


async def test_every_route_says_who_may_call_it(keyring: Keyring) -> None:
    declared = set()
    for route in _app(keyring).routes:
        for handler in getattr(route, "route_handlers", []):
            if handler.fn.__name__ == "options_handler":
                continue
            permission = handler.opt.get("permission")
            assert handler.opt.get("public") or permission in PERMISSIONS or permission == "signed-in", route.path
            if route.path.startswith("/api/v1/"):
                path = route.path.replace(":str}", "}").replace("/:", ":")
                declared |= {(str(method), path, permission) for method in handler.http_methods}
    assert declared == set(ROUTES)


async def test_a_route_without_a_rule_keeps_the_gateway_from_starting(
    keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    @get("/forgotten")
    async def forgotten() -> str:
        return "everything"

    @get("/misspelled", permission="opens:reed")
    async def misspelled() -> str:
        return "everything"

    monkeypatch.setattr(pages, "HANDLERS", [*pages.HANDLERS, forgotten, misspelled])
    with pytest.raises(RouteWithoutRule, match=r"/forgotten \(forgotten\), /misspelled \(misspelled\)"):
        _app(keyring)


def _try(http: httpx.Client, method: str, path: str) -> int:
    for parameter in ("campaign_id", "client_id", "link_id", "message_id", "open_id", "portal_id", "redirect_id"):
        path = path.replace("{" + parameter + "}", NO_SUCH)
    if "summary" in path:
        path += "?by=day"
    return http.request(method, path, json={} if method in ("POST", "PATCH") else None).status_code


@pytest.mark.parametrize("person", EVERYBODY, ids=lambda person: person.role + "-" + person.display_name.split()[0])
def test_each_role_may_do_exactly_what_its_permissions_say(house: House, person: Person) -> None:
    with house.browser(person) as http:
        for method, path, permission in ROUTES:
            status = _try(http, method, path)
            allowed = permission == "signed-in" or permission in person.permissions
            # What is asked for does not exist or has no body; getting so far means that the role is enough.
            assert status in ((200, 404, 422) if allowed else (403,)), (method, path, status)


def test_a_key_may_do_exactly_what_its_scopes_say(house: House) -> None:
    with house.api("opens:read", "links:write") as http:
        for method, path, permission in ROUTES:
            status = _try(http, method, path)
            allowed = permission in ("signed-in", "opens:read", "links:write")
            assert status in ((200, 404, 422) if allowed else (403,)), (method, path, status)


def test_nobody_gets_in_without_session_or_key(house: House) -> None:
    with house.stranger() as http:
        for method, path, _ in ROUTES:
            assert _try(http, method, path) == 401, (method, path)


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"authorization": "Bearer onk_" + "x" * 43}, id="A17-unknown-key"),
        pytest.param({"authorization": "Bearer " + "x" * 8000}, id="A17-8-kb-key"),
        pytest.param({"authorization": "Basic YTpi"}, id="G01-other-scheme"),
        pytest.param({"authorization": "Bearer"}, id="G01-empty-key"),
        pytest.param({"cookie": f"{COOKIE}=ons_{'x' * 43}"}, id="A17-unknown-session"),
        pytest.param({"cookie": f"{COOKIE}=ons_{'x' * 8000}"}, id="A17-8-kb-session"),
        pytest.param({"cookie": f"{COOKIE}=onk_{'x' * 43}"}, id="A17-key-as-cookie"),
        pytest.param({"opennotice-identity": "eyJhbGciOiJub25lIn0."}, id="G01-forged-identity"),
    ],
)
def test_a_bad_credential_is_one_clear_error(house: House, headers: dict[str, str]) -> None:
    with house.stranger(**headers) as http:
        answer = http.get("/api/v1/opens")
    assert answer.status_code == 401
    assert answer.json()["reason"] in ("CREDENTIAL_MISSING", "CREDENTIAL_UNKNOWN")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_session_sent_as_a_key_does_not_go_round_the_form_token(house: House) -> None:
    with house.stranger(authorization=f"Bearer {house.session_of(DANA)}") as http:
        assert http.post("/api/v1/clients", json={"display_name": "Forged"}).status_code == 401


def test_a_key_opens_no_page(house: House) -> None:
    with house.stranger(authorization=f"Bearer {house.key('all')}") as http:
        answer = http.get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")


def test_a_revoked_key_is_refused_within_five_seconds(house: House) -> None:
    from opennotice.auth.v1 import auth_pb2

    request = auth_pb2.CreateApiKeyRequest(api_key=auth_pb2.ApiKey(display_name="to revoke", scopes=["opens:read"]))
    made = house.ask("auth", "CreateApiKey", request, by=DANA)
    with house.stranger(authorization=f"Bearer {made.secret}") as http:
        assert http.get("/api/v1/opens").status_code == 200
        house.ask("auth", "RevokeApiKey", auth_pb2.RevokeApiKeyRequest(name=made.api_key.name), by=DANA)
        until(lambda: http.get("/api/v1/opens").status_code == 401, "the refusal", seconds=5)


def test_the_agencies_do_not_see_each_other(house: House) -> None:
    with house.api() as ours, house.api(by=CHARLIE) as theirs:
        client = make_client(ours)
        portal = make_portal(ours)
        link = make_link(ours, portal=portal["name"], client=client["name"])
        for name in (client["name"], portal["name"], link["name"]):
            assert ours.get(f"/api/v1/{name}").status_code == 200
            assert theirs.get(f"/api/v1/{name}").status_code == 404, "A07"
        answer = theirs.post("/api/v1/links", json={"portal": portal["name"]})
        assert (answer.status_code, answer.json()["reason"]) == (404, "PORTAL_UNKNOWN")
        for verb, body in (("revoke", {}), ("reveal", {}), ("extend", {"expire_time": None})):
            assert theirs.post(f"/api/v1/{link['name']}:{verb}", json=body).status_code == 404, verb
        assert theirs.get("/api/v1/clients").json()["clients"] == []
        assert ours.get(f"/api/v1/{link['name']}").json()["state"] == "active"


def test_a_clerk_sees_only_own_clients(house: House) -> None:
    with house.browser(ALICE) as alice, house.browser(MORGAN) as morgan:
        own = make_client(alice, display_name="Of Alice")
        other = make_client(morgan, display_name="Of nobody")
        assert own["officer"] == ALICE.name
        assert alice.get(f"/api/v1/{own['name']}").status_code == 200
        assert alice.get(f"/api/v1/{other['name']}").status_code == 404
        listed = {client["name"] for client in alice.get("/api/v1/clients").json()["clients"]}
        assert own["name"] in listed
        assert other["name"] not in listed


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        pytest.param({"x-csrf-token": ""}, "token missing", id="A08-missing"),
        pytest.param({"x-csrf-token": "A" * 43}, "token of another session", id="A08-invented"),
        pytest.param({"sec-fetch-site": "cross-site"}, "sec-fetch-site is cross-site", id="A08-other-site"),
        pytest.param({"sec-fetch-site": "same-site"}, "sec-fetch-site is same-site", id="A08-sister-site"),
        pytest.param({"origin": "https://evil.example"}, "origin is another site", id="A08-other-origin"),
        pytest.param({"origin": "null"}, "origin is another site", id="A08-hidden-origin"),
    ],
)
def test_a_forged_request_is_refused_and_audited(house: House, headers: dict[str, str], reason: str) -> None:
    name = f"Forged {reason} {headers}"
    with house.browser(DANA) as http:
        answer = http.post("/api/v1/clients", json={"display_name": name}, headers=headers)
        assert (answer.status_code, answer.json()["reason"]) == (403, "CSRF_REFUSED")
        found = http.get("/api/v1/clients", params={"query": name}).json()["clients"]
    assert found == []
    lines = house.rows("select * from auth.actions where verb = 'request.forge' order by act_time desc limit 1")
    assert lines[0]["details"]["reason"] == reason
    assert lines[0]["actor"] == DANA.name


def test_the_token_of_another_person_or_an_earlier_session_does_not_fit(house: House) -> None:
    first, second = house.session_of(DANA), house.sign_in(DANA)
    for session, token_of in ((first, house.session_of(MORGAN)), (second, first)):
        with house.browser(DANA, session) as http:
            headers = {"x-csrf-token": house.form_token(token_of)}
            assert http.post("/api/v1/clients", json={"display_name": "Forged"}, headers=headers).status_code == 403
            assert http.post("/api/v1/clients", json={"display_name": "Honest"}).status_code == 201


def test_a_change_is_never_a_get_and_no_override_makes_it_one(house: House) -> None:
    with house.browser(DANA) as http:
        portal = make_portal(http)
        link = make_link(http, portal=portal["name"])
        assert http.get(f"/api/v1/{link['name']}:revoke").status_code == 405
        overridden = http.get(f"/api/v1/{link['name']}", params={"_method": "POST"})
        assert overridden.status_code == 422
        headers = {"x-http-method-override": "PATCH"}
        assert http.get(f"/api/v1/{link['name']}", headers=headers).json()["state"] == "active"


def test_the_verb_of_a_path_cannot_be_typed_as_the_router_sees_it(house: House) -> None:
    with house.api() as http:
        portal = make_portal(http)
        link = make_link(http, portal=portal["name"])
        for path in (
            f"{link['name']}/:revoke",
            f"{link['name']}/:revoke/",
            f"{link['name']}:unknown",
            f"{link['name']}:",
        ):
            assert http.post(f"/api/v1/{path}", json={}).status_code in (404, 405), path
        assert http.get(f"/api/v1/{link['name']}").json()["state"] == "active"


@pytest.mark.parametrize("path", ["/api/v1/opens", "/api/docs", "/nothing", "/", "/api/v1/opens?x=1"])
def test_every_answer_has_the_security_headers(house: House, path: str) -> None:
    with house.browser(DANA) as http:
        headers = http.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert "referrer-policy" in headers
    assert "server" not in headers


async def test_static_files_are_kept_for_ever_and_set_no_cookie(keyring: Keyring) -> None:
    app = _app(keyring)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1") as http:
        answer = await http.get(f"{app.state.assets}/app.css")
        missing = await http.get("/static/older-version/app.css")
    assert answer.status_code == 200
    assert "immutable" in answer.headers["cache-control"]
    assert "set-cookie" not in answer.headers
    assert "content-security-policy" in answer.headers
    assert missing.status_code == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        pytest.param("127.0.0.1:8000", 401, id="its-own"),
        pytest.param("localhost", 401, id="loopback-name"),
        pytest.param("[::1]:8000", 401, id="loopback-six"),
        pytest.param("evil.example", 421, id="another-name"),
        pytest.param("127.0.0.1.evil.example", 421, id="own-name-in-front"),
        pytest.param("evil.example:127.0.0.1", 421, id="own-name-as-port"),
        pytest.param("evil@127.0.0.1", 401, id="own-name-with-user"),
    ],
)
def test_only_known_host_names_are_answered(house: House, host: str, status: int) -> None:
    with house.stranger(host=host, **{"x-forwarded-host": "127.0.0.1"}) as http:
        assert http.get("/api/v1/opens").status_code == status


async def test_over_https_cookies_are_host_bound_and_the_host_is_exact(keyring: Keyring) -> None:
    app = _app(keyring, staff_url="https://staff.court.example")
    gate = app.state.gate
    cookie = gate.cookie(gate.cookie_name, "value")
    text = cookie.to_header(header="")
    assert text.startswith("__Host-opennotice=value")
    assert {"HttpOnly", "Secure", "SameSite=lax", "Path=/"} <= set(text.split("; "))
    assert "Domain" not in text
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="https://staff.court.example"
    ) as http:
        assert "strict-transport-security" in (await http.get("/nothing")).headers
        assert (await http.get("/nothing", headers={"host": "localhost"})).status_code == 421


def test_browsers_without_a_session_are_led_to_sign_in_and_back(house: House) -> None:
    with house.stranger() as http:
        plain = http.get("/opens?device=mobile&client=O%27Neil")
        fragment = http.get(
            "/opens?device=mobile", headers={"hx-request": "true", "hx-current-url": f"{house.url}/opens?kind=portal"}
        )
    assert plain.status_code == 303
    assert plain.headers["location"] == "/sign-in?next=/opens%3Fdevice%3Dmobile%26client%3DO%2527Neil"
    assert fragment.headers["hx-redirect"] == "/sign-in?next=/opens%3Fkind%3Dportal"


def test_the_address_in_the_audit_log_is_the_sockets_and_not_a_headers(house: House) -> None:
    with house.browser(SAM) as http:
        headers = {"x-csrf-token": "", "x-forwarded-for": "198.51.100.9"}
        assert http.post("/api/v1/clients", json={"display_name": "x"}, headers=headers).status_code == 403
    line = house.rows("select * from auth.actions where actor = %s order by act_time desc limit 1", SAM.name)[0]
    assert str(line["source_address"]) == "127.0.0.1"


@pytest.mark.parametrize(
    ("peer", "forwarded", "counts"),
    [
        pytest.param("10.0.0.1", "198.51.100.9, 203.0.113.7", "203.0.113.7", id="through-the-proxy"),
        pytest.param("203.0.113.7", "198.51.100.9", "203.0.113.7", id="past-the-proxy"),
    ],
)
async def test_behind_a_trusted_proxy_the_address_is_the_one_it_saw(
    keyring: Keyring, monkeypatch: pytest.MonkeyPatch, peer: str, forwarded: str, counts: str
) -> None:
    @get("/address", public=True)
    async def address(request: Request[Any, Any, Any]) -> str:
        return gate_of(request).address_of(request)

    monkeypatch.setattr(pages, "HANDLERS", [*pages.HANDLERS, address])
    app = _app(keyring, trusted_proxies=(ip_network("10.0.0.0/8"),))
    transport = httpx.ASGITransport(app=app, client=(peer, 4711))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        assert (await http.get("/address", headers={"x-forwarded-for": forwarded})).text == counts


@pytest.mark.parametrize("headers", [{"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}])
def test_another_site_cannot_sign_somebody_in(house: House, headers: dict[str, str]) -> None:
    with house.stranger(**headers) as http:
        form = {"email": email_of(DANA), "password": PASSWORD, "next": "/"}
        answer = http.post("/sign-in", data=form)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_an_auditor_reads_and_changes_nothing(house: House) -> None:
    with house.browser(BOB) as http:
        assert http.get("/api/v1/opens").status_code == 200
        assert http.get("/api/v1/opens.csv").status_code == 403
        assert http.post("/api/v1/clients", json={"display_name": "No"}).status_code == 403
