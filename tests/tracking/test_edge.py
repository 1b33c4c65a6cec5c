"""The public edge over real sockets: what each kind of request is answered with, and what is recorded."""

import contextlib
import socket
import sqlite3
import time
from dataclasses import dataclass
from uuid import UUID

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from opennotice.link.v1 import link_pb2
from opennotice.tracking.v1 import events_pb2

from services.chassis.names import millisecond_of
from tests.tracking.court import Answer, Court, exchange, in_seconds, read_answer, wait_for

PAGES = [
    link_pb2.Page(slug="hearing", title="Your hearing", markdown="On **3 March**"),
    link_pb2.Page(slug="payment", title="How to pay", markdown="By card"),
]
NOBODYS = "A" * 22
# Everything that must not differ between two unknown links; the date is the only header that may.
UNKNOWN_HEADERS = {
    "cache-control": "no-store",
    "referrer-policy": "no-referrer",
    "x-robots-tag": "noindex, nofollow",
    "x-content-type-options": "nosniff",
    "content-type": "text/html; charset=utf-8",
}


@dataclass(frozen=True)
class Made:
    """Tokens of one court, made once."""

    external: str
    hosted: str
    redirect: str


@pytest.fixture(scope="session")
def made(_court: Court) -> Made:
    """Gives an external link, a hosted link and a redirect."""
    external, _ = _court.new_link(_court.portal())
    hosted, _ = _court.new_link(_court.portal(pages=PAGES))
    redirect, _ = _court.redirect("https://forms.court.example/f?x=1#part")
    return Made(external, hosted, redirect)


def record_of(court: Court, answer: Answer) -> events_pb2.OpenRecorded:
    """Returns the record of an answer that says that it was recorded."""
    assert answer.open_id is not None, f"{answer.status} without X-Open-Id"
    return court.record(answer.open_id)


def test_a_link_to_an_external_portal_leads_there_and_is_recorded(court: Court) -> None:
    portal = court.portal()
    token, link = court.new_link(portal)
    before = time.time_ns() // 1_000_000
    answer = court.ask(
        f"/{token}?utm=1", headers=[("User-Agent", "Mozilla/5.0 (iPhone)"), ("Referer", "https://m.example")]
    )
    assert answer.status == 302
    assert answer.header("location") == "https://portal.court.example/start?a=b"
    record = record_of(court, answer)
    assert answer.open_id is not None
    assert record.open_time.ToMilliseconds() == millisecond_of(answer.open_id)
    assert before <= record.open_time.ToMilliseconds() <= before + 5_000
    assert record.link_id == link.name.partition("/")[2]
    assert record.portal_id == portal.name.partition("/")[2]
    assert record.agency_id == str(court.agency_id)
    assert (record.kind, record.link_state) == (events_pb2.OPEN_KIND_PORTAL, link_pb2.LINK_STATE_ACTIVE)
    assert (record.method, record.status, record.page) == ("GET", 302, "")
    assert (record.user_agent, record.referrer, record.query) == ("Mozilla/5.0 (iPhone)", "https://m.example", "utm=1")
    assert record.ip_address == "127.0.0.1"
    assert not record.token_repaired


def test_a_hosted_portal_is_shown_page_by_page_each_an_open_of_its_own(court: Court, made: Made) -> None:
    first = court.ask(f"/{made.hosted}")
    assert first.status == 200
    assert b"<h1>Your hearing</h1>" in first.body
    assert f'href="/{made.hosted}/payment"'.encode() in first.body
    second = court.ask(f"/{made.hosted}/payment")
    assert b"<h1>How to pay</h1>" in second.body
    assert record_of(court, first).page == "hearing"
    assert record_of(court, second).page == "payment"
    assert first.open_id != second.open_id


def test_an_unknown_page_of_a_known_link_shows_the_way_back_and_is_recorded(court: Court, made: Made) -> None:
    answer = court.ask(f"/{made.hosted}/nowhere")
    assert answer.status == 404
    assert f'href="/{made.hosted}"'.encode() in answer.body
    assert (record_of(court, answer).page, record_of(court, answer).status) == ("nowhere", 404)


def test_a_redirect_leads_to_its_target_in_its_own_place_only(court: Court, made: Made) -> None:
    answer = court.ask(f"/r/{made.redirect}")
    assert (answer.status, answer.header("location")) == (302, "https://forms.court.example/f?x=1#part")
    record = record_of(court, answer)
    assert (record.kind, record.portal_id) == (events_pb2.OPEN_KIND_REDIRECT, "")
    assert court.ask(f"/{made.redirect}").status == 404
    assert court.ask(f"/r/{made.external}").status == 404


def test_the_pixel_is_always_the_same_image_and_not_an_open(court: Court, made: Made) -> None:
    answers = [court.ask(f"/p/{token}.gif") for token in (NOBODYS, made.external)]
    assert [answer.status for answer in answers] == [200, 200]
    assert answers[0].body == answers[1].body
    assert answers[0].body.startswith(b"GIF89a")
    assert answers[0].open_id is None


def test_robots_are_told_to_stay_away(court: Court) -> None:
    assert court.ask("/robots.txt").body == b"User-agent: *\nDisallow: /\n"
    assert court.ask("/favicon.ico").status == 204


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("/" + NOBODYS, id="well-formed"),
        pytest.param("/", id="empty"),
        pytest.param("/7", id="1-character"),
        pytest.param("/" + "A" * 21, id="21-characters"),
        pytest.param("/" + "A" * 23, id="23-characters"),
        pytest.param("/" + "A" * 500, id="500-characters"),
        pytest.param("/" + "A" * 8000, id="8000-characters"),
        pytest.param("/{external_swapped}", id="changed-case"),
        pytest.param("/{external}).", id="two-marks"),
        pytest.param("/%2541{external_tail}", id="twice"),
        pytest.param("/../../etc/passwd", id="dots"),
        pytest.param("/..%2f..%2fetc", id="encoded"),
        pytest.param("/%00", id="nul"),
        pytest.param("/\\", id="backslash"),
        pytest.param("//evil.example", id="host"),
        pytest.param("/{external};jsessionid=1", id="jsessionid"),
        pytest.param("/%EF%BC%97" + "A" * 21, id="full-width"),
        pytest.param("/%E2%80%AE" + "A" * 21, id="right-to-left"),
        pytest.param("/%ff%fe", id="invalid-utf-8"),
        pytest.param("/r/" + NOBODYS, id="redirect"),
        pytest.param("/" + NOBODYS + "/page", id="page"),
        pytest.param("/r/", id="redirect-empty"),
    ],
)
def test_every_kind_of_unknown_is_answered_byte_for_byte_alike(court: Court, made: Made, target: str) -> None:
    asked = target.format(
        external=made.external, external_swapped=made.external.swapcase(), external_tail=made.external[1:]
    )
    answer, usual = court.ask(asked), court.ask("/" + "B" * 22)
    assert (answer.status, usual.status) == (404, 404)
    assert answer.body == usual.body
    without_date = [[pair for pair in each.headers if pair[0] != "date"] for each in (answer, usual)]
    assert without_date[0] == without_date[1]
    assert UNKNOWN_HEADERS.items() <= dict(answer.headers).items()
    assert answer.open_id is None


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(b"/\xff\xfe", id="raw-bytes"),
        pytest.param("/АHqX".encode(), id="raw-cyrillic"),
        pytest.param(b"/a b", id="space"),
    ],
)
def test_bytes_that_no_target_may_hold_are_unknown_or_refused(court: Court, target: bytes) -> None:
    assert court.ask(target).status in (400, 404)


@pytest.mark.parametrize(
    ("length", "status"), [pytest.param(8192, 404, id="8-KiB"), pytest.param(8193, 414, id="longer")]
)
def test_a_target_may_be_8_kib_long(court: Court, length: int, status: int) -> None:
    assert court.ask("/" + "A" * (length - 1)).status == status


@pytest.mark.parametrize("mark", [".", ",", ")", "%3E", "%22", "'", "%20", "%E2%80%8B", "%C2%AD"])
def test_one_mark_after_a_token_is_taken_away_and_said(court: Court, made: Made, mark: str) -> None:
    answer = court.ask(f"/{made.external}{mark}")
    assert answer.status == 302
    assert record_of(court, answer).token_repaired


def test_a_token_is_decoded_once(court: Court, made: Made) -> None:
    encoded = "".join(f"%{ord(char):02X}" for char in made.external)
    answer = court.ask(f"/{encoded}")
    assert answer.status == 302
    assert not record_of(court, answer).token_repaired


def test_an_expired_link_gets_a_helpful_page_and_is_recorded_as_expired(court: Court) -> None:
    token, _ = court.new_link(court.portal(), expire_time=in_seconds(1.2))
    assert court.ask(f"/{token}").status == 302
    answer = wait_for(lambda: (found := court.ask(f"/{token}")).status == 410 and found)
    assert b"This link has expired" in answer.body
    assert record_of(court, answer).link_state == link_pb2.LINK_STATE_EXPIRED


def test_extending_an_expired_link_brings_it_back_within_two_seconds(court: Court) -> None:
    token, link = court.new_link(court.portal(), expire_time=in_seconds(1.0))
    wait_for(lambda: court.ask(f"/{token}").status == 410)
    court.call("ExtendLink", link_pb2.ExtendLinkRequest(name=link.name, expire_time=in_seconds(3600)))
    wait_for(lambda: court.ask(f"/{token}").status == 302, 2)


def test_a_revoked_link_ends_within_two_seconds_and_is_recorded_as_revoked(court: Court) -> None:
    # It also expires, and revoked comes first.
    token, link = court.new_link(court.portal(), expire_time=in_seconds(1.0))
    assert court.ask(f"/{token}").status == 302
    court.call("RevokeLink", link_pb2.RevokeLinkRequest(name=link.name))
    answer = wait_for(lambda: (found := court.ask(f"/{token}")).status == 410 and found, 2)
    assert record_of(court, answer).link_state == link_pb2.LINK_STATE_REVOKED
    assert b"no longer in use" in answer.body


def test_a_portal_that_is_switched_off_ends_its_links_within_two_seconds(court: Court) -> None:
    portal = court.portal(pages=PAGES)
    token, _ = court.new_link(portal)
    assert court.ask(f"/{token}").status == 200
    portal.active = False
    court.call("UpdatePortal", link_pb2.UpdatePortalRequest(portal=portal, update_mask=FieldMask(paths=["active"])))
    answer = wait_for(lambda: (found := court.ask(f"/{token}/payment")).status == 410 and found, 2)
    assert record_of(court, answer).link_state == link_pb2.LINK_STATE_PORTAL_INACTIVE


def test_a_redirect_that_is_switched_off_ends_and_what_follows_is_recorded(court: Court) -> None:
    token, redirect = court.redirect("https://forms.court.example/old")
    assert court.ask(f"/r/{token}").status == 302
    redirect.active = False
    court.call(
        "UpdateRedirect", link_pb2.UpdateRedirectRequest(redirect=redirect, update_mask=FieldMask(paths=["active"]))
    )
    answer = wait_for(lambda: (found := court.ask(f"/r/{token}")).status == 410 and found, 2)
    assert answer.header("location") is None
    record = record_of(court, answer)
    assert (record.kind, record.link_state) == (events_pb2.OPEN_KIND_REDIRECT, link_pb2.LINK_STATE_PORTAL_INACTIVE)


def test_a_changed_page_is_shown_within_two_seconds(court: Court) -> None:
    portal = court.portal(pages=PAGES)
    token, _ = court.new_link(portal, page="payment")
    assert b"By card" in court.ask(f"/{token}").body
    portal.pages[1].markdown = "In cash"
    court.call("UpdatePortal", link_pb2.UpdatePortalRequest(portal=portal, update_mask=FieldMask(paths=["pages"])))
    wait_for(lambda: b"In cash" in court.ask(f"/{token}").body, 2)


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("next=https://evil.example", id="next"),
        pytest.param("url=https://evil.example&u=//evil.example", id="url"),
        pytest.param("&".join(f"a{n}=" for n in range(1500)), id="many"),
        pytest.param("q=" + "x" * 8000, id="8-KB"),
    ],
)
def test_the_query_never_decides_where_a_link_leads(court: Court, made: Made, query: str) -> None:
    answer = court.ask(f"/{made.external}?{query}"[:8192])
    assert answer.header("location") == "https://portal.court.example/start?a=b"
    assert record_of(court, answer).query == query[:2048]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "TRACE", "PROPFIND", "PATCH", "get", "FOO"])
def test_other_methods_are_refused_with_what_is_allowed(court: Court, made: Made, method: str) -> None:
    answer = court.ask(f"/{made.external}", method=method)
    assert (answer.status, answer.header("allow")) == (405, "GET, HEAD, OPTIONS")
    assert answer.open_id is None


def test_connect_is_refused(court: Court) -> None:
    answer = exchange(court.public_port, b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n")
    assert answer.status == 405


def test_head_is_get_without_a_body_and_recorded(court: Court, made: Made) -> None:
    head, get = court.ask(f"/{made.hosted}", method="HEAD"), court.ask(f"/{made.hosted}")
    same = ("content-type", "content-length", "content-security-policy", "cache-control")
    assert head.status == 200
    assert [head.header(name) for name in same] == [get.header(name) for name in same]
    assert record_of(court, head).method == "HEAD"


def test_options_is_answered_and_no_open(court: Court, made: Made) -> None:
    answer = court.ask(f"/{made.external}", method="OPTIONS")
    assert (answer.status, answer.header("allow"), answer.open_id) == (204, "GET, HEAD, OPTIONS", None)


@pytest.mark.parametrize(
    ("agent", "kept"),
    [
        pytest.param(None, "", id="none"),
        pytest.param(b"", "", id="empty"),
        pytest.param(b"x" * 65536, "x" * 2048, id="64-KB"),
        pytest.param(b"a\tb", "a\tb", id="tab"),
        pytest.param(b"Caf\xe9", "Café", id="latin-1"),
        pytest.param("😀 é".encode(), "😀 é", id="emoji"),
        pytest.param(b"x" + b" " * 4000 + b"y", "x" + " " * 2047, id="spaces"),
        pytest.param(b"\xed\xa0\x80", "\xed\xa0\x80", id="surrogate"),
    ],
)
def test_any_user_agent_is_recorded(court: Court, made: Made, agent: bytes | None, kept: str) -> None:
    answer = court.ask(f"/{made.external}", headers=[("User-Agent", agent)] if agent is not None else [])
    assert answer.status == 302
    assert record_of(court, answer).user_agent == kept


@pytest.mark.parametrize("agent", [pytest.param(b"a\0b", id="NUL"), pytest.param(b"a\x01\x1bb", id="control")])
def test_control_characters_in_a_header_are_refused_by_the_parser(court: Court, made: Made, agent: bytes) -> None:
    # No browser sends them. Taking them would need the parser's lenient mode, which lets requests be smuggled in.
    assert court.ask(f"/{made.external}", headers=[("User-Agent", agent)]).status == 400


@pytest.mark.parametrize(
    ("head", "statuses"),
    [
        pytest.param(b"GET /{t} HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: 127.0.0.1\r\n\r\n", {400}, id="two"),
        pytest.param(b"GET /{t} HTTP/1.1\r\n\r\n", {400}, id="none"),
        pytest.param(b"GET /{t} HTTP/1.0\r\n\r\n", {400}, id="none-1.0"),
        pytest.param(b"GET /{t} HTTP/1.1\r\nHost: evil.example\r\n\r\n", {421}, id="evil"),
        pytest.param(b"GET /{t} HTTP/1.1\r\nHost: a@127.0.0.1\r\n\r\n", {400}, id="user"),
        pytest.param(b"GET http://evil.example/{t} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", {400, 421}, id="absolute"),
    ],
)
def test_a_wrong_host_is_refused_and_not_recorded(court: Court, made: Made, head: bytes, statuses: set[int]) -> None:
    answer = exchange(court.public_port, head.replace(b"{t}", made.external.encode()))
    assert answer.status in statuses
    assert answer.open_id is None


def test_forwarded_hosts_are_ignored(court: Court, made: Made) -> None:
    answer = court.ask(f"/{made.external}", headers=[("X-Forwarded-Host", "evil.example")])
    assert answer.header("location") == "https://portal.court.example/start?a=b"


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        pytest.param("203.0.113.9", "203.0.113.9", id="visitor"),
        pytest.param("6.6.6.6, 203.0.113.9, 198.51.100.3", "203.0.113.9", id="through-two-proxies"),
        pytest.param(", ".join(["6.6.6.6"] * 1000) + ", 203.0.113.9", "203.0.113.9", id="1000-entries"),
        pytest.param("203.0.113.9, 010.0.0.1", "127.0.0.1", id="leading-zeros"),
        pytest.param("::ffff:203.0.113.9", "203.0.113.9", id="mapped"),
        pytest.param("2001:db9::5", "2001:db9::5", id="ipv6"),
        pytest.param("unknown", "127.0.0.1", id="unknown"),
    ],
)
def test_the_address_is_the_first_untrusted_from_the_right(
    court: Court, made: Made, forwarded: str, address: str
) -> None:
    answer = court.ask(f"/{made.external}", headers=[("X-Forwarded-For", forwarded), ("X-Real-IP", "7.7.7.7")])
    assert record_of(court, answer).ip_address == address


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("Sec-Purpose", "prefetch", id="sec-purpose"),
        pytest.param("Purpose", "prefetch", id="purpose"),
        pytest.param("X-Moz", "prefetch", id="x-moz"),
        pytest.param("Sec-Fetch-Dest", "image", id="dest"),
        pytest.param("Range", "bytes=0-0", id="range"),
    ],
)
def test_prefetch_and_range_are_answered_normally_and_kept(court: Court, made: Made, name: str, value: str) -> None:
    answer = court.ask(f"/{made.hosted}", headers=[(name, value)])
    assert answer.status == 200
    assert answer.body.endswith(b"</html>")
    assert {(header.name, header.value) for header in record_of(court, answer).headers} >= {(name.lower(), value)}


@pytest.mark.parametrize(
    "header", ["If-None-Match: *", "If-Modified-Since: Mon, 23 Nov 2026 00:00:00 GMT", "Cache-Control: only-if-cached"]
)
def test_nothing_is_ever_not_modified(court: Court, made: Made, header: str) -> None:
    name, _, value = header.partition(": ")
    answer = court.ask(f"/{made.hosted}", headers=[(name, value)])
    assert (answer.status, answer.header("cache-control")) == (200, "no-store")


def test_a_token_in_the_referrer_is_not_stored(court: Court, made: Made) -> None:
    answer = court.ask(f"/{made.hosted}/payment", headers=[("Referer", f"http://x.example/{made.hosted}")])
    assert record_of(court, answer).referrer == "http://x.example/[token]"


@pytest.mark.parametrize("kept", [4, 21])
def test_a_token_where_a_long_referrer_is_cut_off_is_not_stored_in_part(court: Court, made: Made, kept: int) -> None:
    before = "https://x.example/".ljust(2_048 - kept, "-")
    record = record_of(court, court.ask(f"/{made.hosted}", headers=[("Referer", before + made.hosted)]))
    assert record.referrer == before
    before = "1.1 ".ljust(1_000 - kept, "-")
    record = record_of(court, court.ask(f"/{made.hosted}", headers=[("Via", before + made.hosted)]))
    assert [header.value for header in record.headers if header.name == "via"] == [before]


def test_a_body_on_get_is_not_read_and_the_visit_is_recorded(court: Court, made: Made) -> None:
    head = f"GET /{made.external} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", court.public_port), timeout=10) as conn:
        conn.sendall(head.encode() + b"GET /x HTTP/1.1\r\n")
        answer = read_answer(conn)
        assert answer.status == 302
        assert answer.header("connection") == "close"
        record_of(court, answer)


def test_requests_that_follow_each_other_on_one_connection_are_answered_in_order(court: Court, made: Made) -> None:
    with socket.create_connection(("127.0.0.1", court.public_port), timeout=10) as conn:
        for path in (made.external, "A" * 22, made.hosted):
            conn.sendall(f"GET /{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert [_one(conn).status for _ in range(3)] == [302, 404, 200]


def _one(conn: socket.socket) -> Answer:
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += conn.recv(1)
    lines = data.decode().split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines[1:-2])]
    left = int(dict(headers).get("content-length", 0))
    while left:
        left -= len(conn.recv(left))
    return Answer(int(lines[0].split(" ")[1]), headers, b"")


def test_a_request_is_answered_before_what_follows_it_is_refused(court: Court, made: Made) -> None:
    with socket.create_connection(("127.0.0.1", court.public_port), timeout=10) as conn:
        conn.sendall(f"GET /{made.external} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nno request\r\n\r\n".encode())
        answer = _one(conn)
        assert answer.status == 302
        assert record_of(court, answer).status == 302
        assert _one(conn).status == 405
        assert conn.recv(1) == b""


def test_a_visitor_who_has_said_all_gets_the_answer(court: Court, made: Made) -> None:
    with socket.create_connection(("127.0.0.1", court.public_port), timeout=10) as conn:
        conn.sendall(f"GET /{made.external} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        conn.shutdown(socket.SHUT_WR)
        answer = _one(conn)
        assert (answer.status, answer.header("connection")) == (302, "close")
        record_of(court, answer)
        assert conn.recv(1) == b""


def test_no_visitor_makes_answers_pile_up_that_they_do_not_take(court: Court, made: Made) -> None:
    request = f"GET /{made.hosted} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", court.public_port), timeout=2) as conn:
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with pytest.raises(TimeoutError):
            while True:
                conn.sendall(request * 200)
    assert court.ask(f"/{made.external}").status == 302


@pytest.mark.parametrize(
    ("head", "status"),
    [
        pytest.param(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n", 431, id="200-headers"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nx: " + b"y" * 300_000, 431, id="no-end"),
        pytest.param(b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400, id="no-colon"),
        pytest.param(b"garbage\r\n\r\n", 405, id="garbage"),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            id="both-lengths",
        ),
        pytest.param(
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            400,
            id="two-lengths",
        ),
    ],
)
def test_heads_that_are_too_large_or_broken_end_the_connection(court: Court, head: bytes, status: int) -> None:
    with socket.create_connection(("127.0.0.1", court.public_port), timeout=10) as conn:
        # It may be refused before all of it was sent.
        with contextlib.suppress(OSError):
            conn.sendall(head)
        assert read_answer(conn).status == status


def test_the_61st_miss_of_an_address_is_too_many_but_its_links_still_work(court: Court, made: Made) -> None:
    visitor = [("X-Forwarded-For", "2001:db9:7:7::1")]
    neighbor = [("X-Forwarded-For", "2001:db9:7:7:ffff::2")]
    statuses = [court.ask("/nothing", headers=visitor).status for _ in range(61)]
    assert statuses == [404] * 60 + [429]
    too_many = court.ask("/" + NOBODYS, headers=neighbor)
    assert (too_many.status, too_many.header("retry-after")) == (429, "60")
    assert court.ask(f"/{made.external}", headers=visitor).status == 302
    new, _ = court.new_link(court.portal())
    assert court.ask(f"/{new}", headers=visitor).status == 302
    assert [court.ask("/nothing").status for _ in range(70)] == [404] * 70


def test_every_answer_keeps_the_link_to_itself(court: Court, made: Made) -> None:
    for path in (made.external, made.hosted, f"{made.hosted}/nowhere", NOBODYS):
        answer = court.ask(f"/{path}")
        assert answer.header("cache-control") == "no-store"
        assert answer.header("referrer-policy") == "no-referrer"
        assert str(answer.header("x-robots-tag")).startswith("noindex")
        assert answer.header("x-content-type-options") == "nosniff"
        assert answer.header("server") is None
        if answer.status != 302:
            assert "default-src 'none'" in str(answer.header("content-security-policy"))


def test_no_token_or_address_reaches_the_log(court: Court, made: Made) -> None:
    court.ask(f"/{made.external}.", headers=[("X-Forwarded-For", "203.0.113.44")])
    text = court.tracking.log.read_text()
    assert made.external not in text
    assert "203.0.113.44" not in text


def test_a_visitor_who_gets_an_error_though_the_link_works_is_counted(court: Court) -> None:
    token, link = court.known_link()
    court.tracking.end()
    with contextlib.closing(sqlite3.connect(court.folder / "data" / "directory.sqlite")) as conn, conn:
        portal = UUID(link.portal.partition("/")[2]).bytes
        conn.execute("update portals set target_uri = 'damaged' where portal_id = ?", (portal,))
    court.tracking.start()
    answer = court.ask(f"/{token}")
    assert (answer.status, answer.header("retry-after")) == (503, "2")
    assert answer.open_id, "the visit is on record all the same"
    assert court.tracking.metric('opennotice_failed_answers_total{status="503"}') == 1
    assert court.tracking.metric('opennotice_failed_answers_total{status="500"}') == 0
