"""Errors have one shape: every status and reason, for programs, browsers and htmx."""

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from litestar import Request, get
from litestar.exceptions import HTTPException

from gateway import pages
from gateway.app import create_app
from gateway.clients import PAGE_SECONDS, connect
from gateway.errors import Problem, field_name, local_path, problem_of
from services.chassis import errors
from services.chassis.errors import Faults, InvalidArgument, NotFound, ServiceError
from tests.cast import DANA
from tests.fix_rpc import Keyring, free_address
from tests.gateway.conftest import COOKIE, SERVICES, House, gateway_settings, until

STATUSES = {
    errors.InvalidArgument: 422,
    errors.Unauthenticated: 401,
    errors.PermissionDenied: 403,
    errors.NotFound: 404,
    errors.AlreadyExists: 409,
    errors.Aborted: 409,
    errors.FailedPrecondition: 409,
    errors.ResourceExhausted: 429,
    errors.Unavailable: 503,
    errors.DeadlineExceeded: 503,
}


def _assert_shape(answer: httpx.Response, status: int) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    assert list(body) == ["type", "title", "status", "reason", "errors"]
    assert body["status"] == status
    assert re.fullmatch(r"[A-Z][A-Z0-9_]{2,62}", body["reason"])
    assert body["type"] == "urn:opennotice:problem:" + body["reason"].lower().replace("_", "-")
    assert body["errors"]
    for error in body["errors"]:
        assert list(error) == ["field", "message"]
        assert error["message"]


class _Raiser:
    """A route that raises what a test puts here."""

    error: Exception = RuntimeError("nothing was put here")


@get(["/api/v1/raise", "/raise"], public=True, include_in_schema=False)
async def _raise(request: Request[Any, Any, Any]) -> None:
    raise _Raiser.error


@pytest.fixture
async def app(keyring: Keyring, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A gateway with that route, whose services are all away."""
    monkeypatch.setattr(pages, "HANDLERS", [*pages.HANDLERS, _raise])
    channels = {service: grpc.aio.insecure_channel(str(free_address())) for service in SERVICES}
    return create_app(
        gateway_settings(keyring), connect(**channels, signer=keyring.signer("gateway")), keyring.checker()
    )


def _http(app: Any, **headers: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", headers=headers)


def _all_errors() -> list[tuple[Exception, int]]:
    found: list[tuple[Exception, int]] = [
        (kind("SOME_REASON", "some message", fields=[("link.portal", "is unknown")]), status)
        for kind, status in STATUSES.items()
    ]
    found += [
        (ServiceError("INTERNAL", "secret detail"), 500),
        (RuntimeError("secret detail"), 500),
        (KeyError("x"), 500),
    ]
    found += [(HTTPException(status_code=status), status) for status in (404, 405, 413, 418)]
    return found


def test_every_kind_of_service_error_has_a_status() -> None:
    assert set(STATUSES) == set(ServiceError.__subclasses__())


async def test_every_error_has_the_same_shape(app: Any) -> None:
    async with _http(app) as http:
        for error, status in _all_errors():
            _Raiser.error = error
            answer = await http.get("/api/v1/raise")
            _assert_shape(answer, status)
            assert "secret" not in answer.text
            if status in (429, 503):
                assert answer.headers["retry-after"] == "2"


async def test_every_error_is_a_page_for_a_browser_and_a_fragment_for_htmx(app: Any) -> None:
    async with _http(app) as http:
        for error, status in _all_errors():
            _Raiser.error = error
            page = await http.get("/raise")
            fragment = await http.get("/raise", headers={"hx-request": "true"})
            if status == 401:
                assert (page.status_code, page.headers["location"]) == (303, "/sign-in?next=/raise")
                assert fragment.headers["hx-redirect"].startswith("/sign-in")
                continue
            assert (page.status_code, fragment.status_code) == (status, status)
            for answer in (page, fragment):
                assert answer.headers["content-type"] == "text/html; charset=utf-8"
                assert answer.headers["cache-control"] == "no-store"
                assert "secret" not in answer.text
            assert "<html" in page.text
            assert "<html" not in fragment.text


async def test_an_error_page_shows_text_and_runs_nothing(app: Any) -> None:
    _Raiser.error = NotFound("LINK_UNKNOWN", "<script>alert(1)</script>")
    async with _http(app) as http:
        assert "<script>alert" not in (await http.get("/raise")).text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/", 404),
        ("PUT", "/api/v1/links", 405),
        ("DELETE", "/api/v1/links/x", 405),
        ("GET", "/api/v1/links", 401),
    ],
)
async def test_what_the_router_refuses_has_the_shape_too(app: Any, method: str, path: str, status: int) -> None:
    async with _http(app) as http:
        _assert_shape(await http.request(method, path), status)


@pytest.mark.parametrize(
    ("field", "shown"),
    [
        ("portal.display_name", "display_name"),
        ("link.portal", "portal"),
        ("portal", "portal"),
        ("client", "client"),
        ("filter.devices", "device"),
        ("filter.kinds[0]", "kind"),
        ("filter.start_time", "from"),
        ("filter.end_time", "to"),
        ("start_time", "from"),
        ("filter.ip", "ip"),
        ("portal.pages[3].slug", "pages[3].slug"),
        ("pages[3].slug", "pages[3].slug"),
        ("request_id", "request_id"),
        ("name", "id"),
        ("link.name", "id"),
    ],
)
def test_fields_are_named_as_the_api_names_them(field: str, shown: str) -> None:
    assert field_name(field) == shown


def test_all_faults_of_a_request_are_told_together() -> None:
    faults = Faults()
    faults.add("portal.display_name", "must have 1 to 200 characters")
    faults.add("portal.pages", "must not be empty")
    with pytest.raises(InvalidArgument) as caught:
        faults.stop()
    problem = problem_of(caught.value)
    assert problem == Problem(
        422,
        "Something that was sent is wrong",
        "FIELDS_INVALID",
        [("display_name", "must have 1 to 200 characters"), ("pages", "must not be empty")],
    )


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/opens?device=mobile", "/opens?device=mobile"),
        ("/", "/"),
        (None, "/"),
        ("", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example/", "/"),
        ("javascript:alert(1)", "/"),
        ("/\tevil", "/"),
        ("/a\nSet-Cookie: x", "/"),
        ("/sign-in?next=/sign-in", "/"),
        ("opens", "/"),
    ],
)
def test_after_sign_in_nobody_is_led_off_the_site(text: str | None, path: str) -> None:
    assert local_path(text) == path


async def test_a_service_that_is_away_is_a_clear_error_within_three_seconds(app: Any) -> None:
    began = time.monotonic()
    async with _http(app, authorization="Bearer onk_" + "x" * 43) as http:
        _assert_shape(await http.get("/api/v1/opens"), 503)
    async with _http(app, cookie=f"{COOKIE}=ons_" + "x" * 43) as http:
        page = await http.get("/opens")
    assert page.status_code == 503
    assert "not answer" in page.text
    assert time.monotonic() - began < 6, "two requests"


async def test_a_service_that_hangs_is_a_clear_error_within_three_seconds(
    keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    server = await asyncio.start_server(silence, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    channels = {service: grpc.aio.insecure_channel(address) for service in SERVICES}
    app = create_app(
        gateway_settings(keyring), connect(**channels, signer=keyring.signer("gateway")), keyring.checker()
    )
    async with asyncio.timeout(PAGE_SECONDS + 0.5), _http(app, authorization="Bearer onk_" + "x" * 43) as http:
        _assert_shape(await http.get("/api/v1/opens"), 503)
    server.close()


def test_a_malformed_request_line_does_not_end_the_gateway(house: House) -> None:
    import socket

    for sent in (b"\x16\x03\x01" + b"\x00" * 50, b"GET / HTTP/9.9\r\n\r\n", b"GET " + b"a" * 100_000, b"\r\n\r\n"):
        with socket.create_connection((house.address.host, house.address.port), timeout=5) as connection:
            connection.sendall(sent)
    with house.browser(DANA) as http:
        until(lambda: http.get("/api/v1/caller").status_code == 200, "an answer")


def test_each_reason_that_people_are_told_about_is_in_the_contract() -> None:
    from gateway.errors import _SENTENCES

    root = Path(__file__).resolve().parents[2]
    protos = "".join(path.read_text(encoding="utf-8") for path in (root / "proto").rglob("*.proto"))
    own = {"BODY_TOO_LARGE", "CSRF_REFUSED", "PERMISSION_MISSING"}
    assert {reason for reason in _SENTENCES if reason not in protos} <= own
