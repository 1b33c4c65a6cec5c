"""Opens as they arrive: the stream behind the live page."""

import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest

from gateway import live
from services.auth.secret import digest
from tests.cast import ALICE, CHARLIE, DANA, MORGAN, OTHER_COURT
from tests.gateway.conftest import House, make_client, until
from tests.gateway.test_opens import id_of, put
from tests.reporting.sample import an_open


@dataclass(frozen=True)
class Event:
    """One server-sent event; a comment has only its text."""

    name: str
    data: str
    comment: str
    at: float


class Reader:
    """Reads a stream in the background, as a browser does."""

    def __init__(self, answer: httpx.Response) -> None:
        self.events: queue.Queue[Event | None] = queue.Queue()
        self.seen: list[Event] = []
        threading.Thread(target=self._read, args=(answer,), daemon=True).start()

    def _read(self, answer: httpx.Response) -> None:
        try:
            lines: list[str] = []
            for line in answer.iter_lines():
                if line:
                    lines.append(line)
                elif lines:
                    self.events.put(_event(lines))
                    lines = []
        except httpx.HTTPError:
            pass
        self.events.put(None)

    def next(self, *, name: str | None = None, containing: str = "", seconds: float = 10) -> Event:
        """Returns the next event of a name (empty for rows) that contains a text; fails when none comes."""
        end = time.monotonic() + seconds
        while True:
            try:
                event = self.events.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"no event {name!r} containing {containing!r}; seen {self.seen}")
            if event is None:
                pytest.fail(f"the stream ended; seen {self.seen}")
            self.seen.append(event)
            if (name is None or (event.name == name and not event.comment)) and containing in event.data:
                return event

    def ended(self, seconds: float = 10) -> bool:
        """Whether the stream ends in time; what came before is kept."""
        end = time.monotonic() + seconds
        while True:
            try:
                event = self.events.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return False
            if event is None:
                return True
            self.seen.append(event)


def _event(lines: list[str]) -> Event:
    fields: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name, []).append(value.removeprefix(" "))
    return Event(
        name="".join(fields.get("event", [])),
        data="\n".join(fields.get("data", [])),
        comment="".join(fields.get("", [])),
        at=time.monotonic(),
    )


@contextmanager
def watching(http: httpx.Client, **params: Any) -> Iterator[Reader]:
    """Opens the stream of a filter and waits until it is there."""
    with http.stream("GET", "/opens/live", params=params) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        reader = Reader(answer)
        reader.next()
        # The first comment comes before reporting has answered; an open published now could be too early.
        time.sleep(0.3)
        yield reader


@pytest.fixture(autouse=True)
def _lively(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the reader of a quiet stream notice soon that its test is over."""
    monkeypatch.setattr(live, "HEARTBEAT_SECONDS", 0.5)


@pytest.fixture
def client(house: House) -> dict[str, Any]:
    """A client of their own for each test, whom reporting knows."""
    with house.api() as http:
        made = make_client(http, display_name=f"Live {uuid4()}", ref=f"CR-{uuid4()}")
        put(house, http, made, an_open(datetime(2026, 11, 1, tzinfo=UTC), client_id=id_of(made)))
    return made


def now() -> datetime:
    """Returns the time as opens carry it."""
    return datetime.now(UTC).replace(microsecond=0)


def test_an_open_arrives_as_a_row_within_a_second(house: House, client: dict[str, Any]) -> None:
    with house.browser(DANA) as http, watching(http, client=client["ref"]) as reader:
        item = an_open(now(), client_id=id_of(client))
        began = time.monotonic()
        house.publish(item)
        event = reader.next(name="", containing=item.open.open_id)
        assert "<tr" in event.data
        assert event.at - began < 1.5


def test_only_what_the_filter_says_arrives(house: House, client: dict[str, Any]) -> None:
    with house.browser(DANA) as http, watching(http, client=client["ref"], device="tablet") as reader:
        other = an_open(now(), client_id=id_of(client))
        wanted = an_open(now(), client_id=id_of(client), device=2)
        house.publish(other)
        house.publish(wanted)
        reader.next(name="", containing=wanted.open.open_id)
        assert not [event for event in reader.seen if other.open.open_id in event.data]


def test_neither_another_agency_nor_a_clerk_of_other_clients_sees_it(house: House, client: dict[str, Any]) -> None:
    with house.api() as http:
        own = make_client(http, ref=f"CR-{uuid4()}", officer=ALICE.name)
        put(house, http, own, an_open(datetime(2026, 11, 1, tzinfo=UTC), client_id=id_of(own)))
    with (
        house.browser(CHARLIE) as other,
        house.browser(ALICE) as clerk,
        watching(other) as theirs,
        watching(clerk) as hers,
    ):
        item = an_open(now(), client_id=id_of(client))
        house.publish(item)
        # What they may see comes after it, so what they may not see would have come by then.
        of_theirs = an_open(now(), agency_id=OTHER_COURT)
        of_hers = an_open(now(), client_id=id_of(own))
        house.publish(of_theirs, of_hers)
        theirs.next(name="", containing=of_theirs.open.open_id)
        hers.next(name="", containing=of_hers.open.open_id)
        assert not [event for reader in (theirs, hers) for event in reader.seen if item.open.open_id in event.data]


def test_the_stream_ends_within_five_seconds_after_sign_out(house: House) -> None:
    session = house.sign_in(MORGAN)
    with house.browser(MORGAN, session) as http, watching(http) as reader:
        began = time.monotonic()
        assert http.post("/sign-out").status_code == 303
        event = reader.next(name="signed-out", seconds=8)
        assert event.at - began < 5.5
        assert reader.ended(2)


def test_the_stream_outlives_the_identity_it_began_with_and_brings_each_open_once(
    house: House, client: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # An identity is good for 60 seconds: renewed with 57 left, the stream is opened anew every few seconds.
    monkeypatch.setattr(live, "RENEW_SECONDS", 57.0)
    begun: list[float] = []
    begin = live.Feed._begin

    async def counted(feed: live.Feed) -> None:
        if feed._chosen.client == client["ref"]:
            begun.append(time.monotonic())
        await begin(feed)

    monkeypatch.setattr(live.Feed, "_begin", counted)
    published: list[str] = []
    with house.browser(DANA) as http, watching(http, client=client["ref"]) as reader:

        def renewed_twice() -> bool:
            published.append(_publish(house, client))
            return len(begun) >= 3

        until(renewed_twice, "two renewals", seconds=40)
        reader.next(name="", containing=published[-1])
        for open_id in published:
            times = sum(event.data.count(f'id="open-{open_id}"') for event in reader.seen)
            assert times == 1, f"{open_id} came {times} times"
        assert not [event for event in reader.seen if event.name == "missed"]


def _publish(house: House, client: dict[str, Any]) -> str:
    item = an_open(now(), client_id=id_of(client))
    house.publish(item)
    time.sleep(0.1)
    return str(item.open.open_id)


def test_a_quiet_stream_says_that_it_lives(house: House) -> None:
    with house.browser(DANA) as http, watching(http, client=str(uuid4())) as reader:
        assert reader.next(seconds=6).comment == "still here"


def test_one_session_holds_only_so_many_streams(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MOST_PER_SESSION", 2)
    session = house.sign_in(DANA)
    with house.browser(DANA, session) as http:
        with watching(http), watching(http):
            assert http.get("/opens/live").status_code == 429

        def opens_again() -> bool:
            with http.stream("GET", "/opens/live") as answer:
                return answer.status_code == 200

        until(opens_again, "room after the others left")


def test_an_open_page_alone_does_not_keep_a_session_from_ending(house: House) -> None:
    session = house.sign_in(DANA)
    with house.browser(DANA, session) as http, watching(http) as reader:
        almost = "update auth.sessions set use_time = now() - interval '29 minutes 57 seconds' where session_hash = %s"
        house.rows(almost, digest(session))
        assert reader.next(name="signed-out", seconds=12)
