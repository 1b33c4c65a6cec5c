"""The public edge at the level of bytes and connections: odd, hostile and broken visitors, and those who go away."""

import concurrent.futures
import contextlib
import http.client
import resource
import socket
import struct
from dataclasses import dataclass

import pytest
from opennotice.tracking.v1 import events_pb2

from tests.tracking.court import Answer, Court, log_lines, read_answer, wait_for

NOBODYS = "A" * 22
HOST = b"Host: 127.0.0.1\r\n"


@dataclass(frozen=True)
class Target:
    """A link of its own for one test, whose opens can be counted."""

    court: Court
    token: str
    link_id: str

    def opens(self) -> list[events_pb2.OpenRecorded]:
        """Returns what is on record for the link."""
        found = self.court.rows("select record from tracking.raw_opens where link_id = %s", self.link_id)
        return [events_pb2.OpenRecorded.FromString(row[0]) for row in found]

    def opened(self, path: str = "") -> Answer:
        """Opens the link and waits until that is on record: all that was answered before is on record by then."""
        answer = self.court.ask(f"/{self.token}{path}")
        assert answer.open_id is not None
        self.court.record(answer.open_id)
        return answer


@pytest.fixture
def target(court: Court) -> Target:
    """Gives a link that was never opened."""
    token, link = court.known_link()
    return Target(court, token, link.name.partition("/")[2])


def missed(court: Court, answer: str) -> float:
    """Returns how many requests named no link."""
    try:
        return court.tracking.metric(f'opennotice_misses_total{{answer="{answer}"}}')
    except AssertionError:
        return 0.0


def all_of(conn: socket.socket) -> bytes:
    """Reads until the other side ends."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while part := conn.recv(65536):
            data += part
    return data


def sent(court: Court, request: bytes) -> bytes:
    """Sends bytes and returns everything until the connection ends."""
    with socket.create_connection(("127.0.0.1", court.public_port), timeout=20) as conn:
        # What is refused early may not be taken to its end.
        with contextlib.suppress(OSError):
            conn.sendall(request)
        return all_of(conn)


# What is no open.


def test_unknown_links_are_counted_told_in_few_lines_and_no_opens(court: Court, target: Target) -> None:
    before = missed(court, "unknown")
    rows = court.rows("select count(*) from tracking.raw_opens")[0][0]
    told = len([line for line in log_lines(court.tracking) if line["event"] == "unknown links were asked for"])
    for number in range(50):
        assert court.ask(f"/{number:022d}").status == 404
    target.opened()
    assert missed(court, "unknown") - before == 50
    assert court.rows("select count(*) from tracking.raw_opens")[0][0] - rows == 1
    lines = [line for line in log_lines(court.tracking) if line["event"] == "unknown links were asked for"]
    assert lines
    assert len(lines) - told <= 5
    assert all(set(line) <= {"event", "count", "level", "time", "process", "logger"} for line in lines)


@pytest.mark.parametrize(
    "path", ["{token}.gif", "{token}", NOBODYS + ".gif", ".gif", "x.php", "x.gif.exe", "x.gif?{token}", ""]
)
@pytest.mark.parametrize("headers", [(), (("Accept", "text/html"), ("If-None-Match", "*"), ("Range", "bytes=0-0"))])
def test_everybody_gets_the_same_image_whatever_they_ask_it_for(
    court: Court, target: Target, path: str, headers: tuple[tuple[str, str], ...]
) -> None:
    before = missed(court, "pixel")
    answer = court.ask("/p/" + path.format(token=target.token), headers=headers)
    usual = court.ask("/p/usual.gif")
    assert (answer.status, answer.header("content-type")) == (200, "image/gif")
    assert answer.body == usual.body
    assert [pair for pair in answer.headers if pair[0] != "date"] == [p for p in usual.headers if p[0] != "date"]
    assert (answer.header("cache-control"), answer.header("x-content-type-options")) == ("no-store", "nosniff")
    assert answer.open_id is None
    assert missed(court, "pixel") - before == 2
    target.opened()
    assert len(target.opens()) == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_the_image_takes_nothing(court: Court, method: str) -> None:
    answer = court.ask(f"/p/{NOBODYS}.gif", method=method)
    assert (answer.status, answer.header("allow")) == (405, "GET, HEAD, OPTIONS")
    head = court.ask(f"/p/{NOBODYS}.gif", method="HEAD")
    assert (head.status, head.header("content-type")) == (200, "image/gif")


@pytest.mark.parametrize("request_", ["OPTIONS /{t}", "POST /{t}", "GET /{t}/../x", "GET /p/{t}.gif", "GET /r/{t}"])
def test_what_is_answered_without_its_page_is_no_open(court: Court, target: Target, request_: str) -> None:
    method, _, path = request_.format(t=target.token).partition(" ")
    assert court.ask(path, method=method).open_id is None
    target.opened()
    assert len(target.opens()) == 1


# Targets and headers.


@pytest.mark.parametrize(
    ("query", "status"),
    [("#https://evil.example", 302), ("?a=1#b", 302), ("?" + "&".join(f"a{n}=" for n in range(10_000)), 414)],
    ids=["fragment", "query and fragment", "10,000 parameters"],
)
def test_nothing_behind_a_link_decides_where_it_leads(court: Court, target: Target, query: str, status: int) -> None:
    answer = court.ask(f"/{target.token}{query}")
    assert answer.status == status
    assert answer.header("location") == ("https://portal.court.example/start?a=b" if status == 302 else None)
    target.opened()
    assert len(target.opens()) == (2 if status == 302 else 1)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("%D0%90" + "A" * 21, id="Cyrillic"),
        pytest.param("%CE%91" + "A" * 21, id="Greek"),
        pytest.param("%EF%BC%A1" + "A" * 21, id="full width"),
        pytest.param("A" * 21 + "%E2%80%AE", id="right to left at the end"),
        pytest.param("%C0%AF" + "A" * 20, id="overlong"),
        pytest.param("%ED%A0%80" + "A" * 19, id="surrogate"),
        pytest.param("%", id="a percent sign"),
        pytest.param("%zz" + "A" * 19, id="no hexadecimal"),
    ],
)
def test_letters_that_only_look_alike_are_unknown(court: Court, path: str) -> None:
    answer, usual = court.ask(f"/{path}"), court.ask(f"/{NOBODYS}")
    assert (answer.status, answer.body) == (404, usual.body)


@pytest.mark.parametrize(
    ("name", "value", "field", "kept"),
    [
        pytest.param("Accept-Language", "es-MX,es;q=0.9," * 400, "accept_language", 255, id="5 KB of languages"),
        pytest.param("Referer", "https://x.example/" + "y" * 20_000, "referrer", 2_048, id="20 KB of referrer"),
    ],
)
def test_long_headers_are_cut(court: Court, target: Target, name: str, value: str, field: str, kept: int) -> None:
    answer = court.ask(f"/{target.token}", headers=[(name, value)])
    assert answer.open_id is not None
    assert getattr(court.record(answer.open_id), field) == value[:kept]


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([("Accept", "image/*")], id="wants an image"),
        pytest.param([("Accept", "")], id="wants nothing"),
        pytest.param([("Accept-Encoding", "gzip;q=1.0, identity;q=0")], id="wants it packed"),
        pytest.param([("Cookie", "opennotice_session=forged; " + "c" * 8_192)], id="brings cookies of 8 KB"),
        pytest.param([("Cookie", "a" * 20_000)], id="brings 20 KB in one line"),
        pytest.param([("Authorization", "Bearer onk_forged")], id="brings a key"),
        pytest.param([("Opennotice-Identity", "forged")], id="brings an identity"),
        pytest.param([("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQAAP__")], id="would speak HTTP/2"),
        pytest.param([("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")], id="would speak something else"),
        pytest.param([("Expect", "100-continue")], id="expects something"),
        pytest.param([(f"X-{number}", "v" * 500) for number in range(120)], id="64 KB in 120 lines"),
    ],
)
def test_what_a_visitor_brings_changes_nothing_and_secrets_are_not_kept(
    court: Court, target: Target, headers: list[tuple[str, str]]
) -> None:
    plain, answer = target.opened(), court.ask(f"/{target.token}", headers=headers)
    varying = ("date", "x-open-id", "connection")
    assert answer.status == plain.status == 302
    assert [p for p in answer.headers if p[0] not in varying] == [p for p in plain.headers if p[0] not in varying]
    assert answer.header("set-cookie") is None
    assert answer.open_id is not None
    record = court.record(answer.open_id)
    assert {"cookie", "authorization", "opennotice-identity"}.isdisjoint(header.name for header in record.headers)
    assert b"forged" not in record.SerializeToString()


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        pytest.param("203.0.113.9:4711", "203.0.113.9", id="port"),
        pytest.param("[2001:db9::5]:443", "2001:db9::5", id="brackets and port"),
        pytest.param("[2001:db9::5]", "2001:db9::5", id="brackets"),
        pytest.param("fe80::1%eth0", "fe80::1", id="zone"),
        pytest.param("", "127.0.0.1", id="empty"),
        pytest.param("203.0.113.9,", "127.0.0.1", id="nothing at the right"),
        pytest.param("203.0.113.9, '; drop table opens; --", "127.0.0.1", id="no address at all"),
        pytest.param("::ffff:203.0.113.9", "203.0.113.9", id="IPv4 in IPv6 clothes"),
        pytest.param("203.0.113.256", "127.0.0.1", id="number too large"),
    ],
)
def test_a_forwarded_address_is_read_strictly_and_stored_in_one_form(
    court: Court, target: Target, forwarded: str, address: str
) -> None:
    answer = court.ask(f"/{target.token}", headers=[("X-Forwarded-For", forwarded)])
    assert answer.open_id is not None
    assert court.record(answer.open_id).ip_address == address


# Bytes that are no request, or two.


BROKEN = {
    "CR in a value": b"X: a\rY: b\r\n",
    "LF in a value": b"X: a\nContent-Length: 9\r\n",
    "space before the colon": b"X : a\r\n",
    "no colon": b"no colon\r\n",
    "no name": b": a\r\n",
    "folded": b"X: a\r\n b\r\n",
    "NUL in a name": b"X\0Y: a\r\n",
    "negative length": b"Content-Length: -5\r\n",
    "signed length": b"Content-Length: +5\r\n",
    "length in hexadecimal": b"Content-Length: 0x5\r\n",
    "length of 20 digits": b"Content-Length: 99999999999999999999\r\n",
    "length twice": b"Content-Length: 5\r\nContent-Length: 6\r\n",
    "length and chunks": b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n",
    "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n",
    "chunked, identity": b"Transfer-Encoding: chunked, identity\r\n",
    "xchunked": b"Transfer-Encoding: xchunked\r\n",
    "chunked twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
}
BODIES = {
    "a body with a length": b"Content-Length: 5\r\n\r\nhello",
    "good chunks": b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "a chunk that does not end": b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
    "a chunk size of 17 digits": b"Transfer-Encoding: chunked\r\n\r\n10000000000000005\r\nhello\r\n0\r\n\r\n",
    "a chunk size that is none": b"Transfer-Encoding: chunked\r\n\r\nz\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_head_that_two_programs_could_read_differently_is_refused_and_ends_the_connection(
    court: Court, target: Target, case: str
) -> None:
    first = f"GET /{target.token} HTTP/1.1\r\n".encode() + HOST + BROKEN[case] + b"\r\n"
    second = f"GET /{target.token}?second HTTP/1.1\r\n".encode() + HOST + b"Connection: close\r\n\r\n"
    answers = sent(court, first + second)
    assert answers.startswith(b"HTTP/1.1 400 ")
    assert answers.count(b"HTTP/1.1 ") == 1
    target.opened()
    assert len(target.opens()) == 1


@pytest.mark.parametrize("case", BODIES)
def test_a_body_is_never_read_and_never_taken_for_a_request(court: Court, target: Target, case: str) -> None:
    first = f"GET /{target.token}?first HTTP/1.1\r\n".encode() + HOST + BODIES[case]
    second = f"GET /{target.token}?second HTTP/1.1\r\n".encode() + HOST + b"Connection: close\r\n\r\n"
    answers = sent(court, first + second)
    assert answers.count(b"HTTP/1.1 ") == 1
    target.opened()
    assert {record.query for record in target.opens()} <= {"first", ""}


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", id="HTTP/2"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 300, id="TLS"),
        pytest.param(b"GET / HTTP/9.9\r\n" + HOST + b"\r\n", id="HTTP/9.9"),
        pytest.param(bytes(range(256)), id="noise"),
    ],
)
def test_what_is_not_http_1_is_refused_and_ends_the_connection(court: Court, target: Target, first: bytes) -> None:
    second = f"GET /{target.token} HTTP/1.1\r\n".encode() + HOST + b"Connection: close\r\n\r\n"
    answers = sent(court, first + second)
    assert answers.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 405 "))
    assert answers.count(b"HTTP/1.1 ") == 1
    target.opened()
    assert len(target.opens()) == 1


# Visitors who come often, slowly, or are gone.


def test_each_of_a_thousand_opens_by_one_visitor_is_an_open_of_its_own(court: Court, target: Target) -> None:
    def visit(_: int) -> list[str | None]:
        conn = http.client.HTTPConnection("127.0.0.1", court.public_port, timeout=20)
        found = []
        for _ in range(100):
            conn.request(
                "GET", f"/{target.token}", headers={"User-Agent": "the same", "X-Forwarded-For": "203.0.113.77"}
            )
            answer = conn.getresponse()
            answer.read()
            assert answer.status == 302
            found.append(answer.getheader("x-open-id"))
        conn.close()
        return found

    with concurrent.futures.ThreadPoolExecutor(10) as threads:
        answered = [each for found in threads.map(visit, range(10)) for each in found]
    records = target.opens()
    assert len(records) == 1_000
    assert sorted(record.open_id for record in records) == sorted(str(each) for each in answered)
    assert {record.ip_address for record in records} == {"203.0.113.77"}


def test_five_hundred_slow_visitors_are_given_up_and_keep_nobody_waiting(court: Court, target: Target) -> None:
    half = f"GET /{target.token}?slow HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: x".encode()
    with contextlib.ExitStack() as stack:
        slow = [
            stack.enter_context(socket.create_connection(("127.0.0.1", court.public_port), timeout=30))
            for _ in range(500)
        ]
        for conn in slow:
            conn.sendall(half)
        # One byte now and then is no reason to wait for the next one.
        for conn in slow[::10]:
            conn.sendall(b"x")
        for _ in range(20):
            assert court.ask(f"/{target.token}?quick").status == 302
        assert {read_answer(conn).status for conn in slow} == {408}
        assert {conn.recv(1) for conn in slow} == {b""}
    target.opened("?quick")
    assert {record.query for record in target.opens()} == {"quick"}


def test_a_visitor_who_leaves_before_the_request_is_complete_has_opened_nothing(court: Court, target: Target) -> None:
    whole = f"GET /{target.token} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
    for end in (1, 10, len(whole) // 2, len(whole) - 2, len(whole) - 1):
        with socket.create_connection(("127.0.0.1", court.public_port), timeout=10) as conn:
            conn.sendall(whole[:end])
            conn.shutdown(socket.SHUT_WR)
            all_of(conn)
    target.opened()
    assert len(target.opens()) == 1


@pytest.mark.parametrize("how", ["closes", "breaks off"])
def test_a_visitor_who_is_gone_before_the_answer_has_opened_the_link_once(
    court: Court, target: Target, how: str
) -> None:
    # PostgreSQL does not answer, so the visitor is gone before anything is on record, and surely before an answer.
    active = 'opennotice_opens_total{state="active"}'
    target.opened()
    before = court.tracking.metric(active)
    court.gates["postgres"].hold()
    conn = socket.create_connection(("127.0.0.1", court.public_port), timeout=10)
    conn.sendall(f"GET /{target.token}?gone HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    wait_for(lambda: court.tracking.metric(active) > before)
    if how == "breaks off":
        conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.close()
    court.gates["postgres"].open()
    wait_for(lambda: len(target.opens()) == 2, 30)
    wait_for(lambda: court.tracking.metric("opennotice_postgres_away") == 0)
    wait_for(lambda: court.tracking.metric("opennotice_spool_opens") == 0)
    target.opened()
    assert sorted(record.query for record in target.opens()) == ["", "", "gone"]


def test_more_visitors_at_once_than_an_account_may_have_files_are_all_answered(court: Court, target: Target) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    court.tracking.end()
    # What an ordinary account begins with.
    resource.setrlimit(resource.RLIMIT_NOFILE, (1_024, hard))
    try:
        court.tracking.start()
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4_096, hard), hard))
        with contextlib.ExitStack() as stack:
            for _ in range(1_100):
                stack.enter_context(socket.create_connection(("127.0.0.1", court.public_port), timeout=5))
            assert target.opened().status == 302
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
