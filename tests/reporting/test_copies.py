"""Copies of what link owns: the newest state of everything, with holes filled, in any order, from the real link."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from opennotice.link.v1 import events_pb2, link_pb2
from opennotice.reporting.v1 import reporting_pb2

from services.chassis.bus import Bus
from services.chassis.clock import to_proto
from services.chassis.consumer import Received
from services.chassis.dead_letters import DeadLetters
from services.chassis.names import new_id, parse_name
from services.chassis.postgres import Database as Pool
from services.reporting.arrivals.events import Announcer, Arrivals
from services.reporting.copies.events import CONSUMERS, Copies, Export
from tests.cast import ALICE, DANA
from tests.fix_postgres import Database
from tests.reporting.conftest import PutOpens, Reporting
from tests.reporting.sample import NOON, a_client, a_message, a_pack, a_portal, an_open, entry

MARIA = UUID("01890000-0000-7000-8000-0000000000c1")
HEARINGS = UUID("01890000-0000-7000-8000-0000000000d1")
MESSAGE = UUID("01890000-0000-7000-8000-0000000000e3")


def people(*entries: link_pb2.DirectoryEntry) -> list[Received[events_pb2.PeopleChanged]]:
    """Returns entries as the consumer hands them over."""
    return [Received(events_pb2.PeopleChanged(event_id=str(new_id()), entries=entries), attempts=1, sequence=1)]


def export_of(*parts: list[link_pb2.DirectoryEntry]) -> Export:
    """Returns the export of a link that has these entries."""

    async def export(_request: link_pb2.ExportDirectoryRequest) -> AsyncIterator[link_pb2.DirectoryEntries]:
        for entries in parts:
            yield link_pb2.DirectoryEntries(entries=entries)
        last = max((one.revision for entries in parts for one in entries), default=0)
        yield link_pb2.DirectoryEntries(complete=True, feed_revision=last)

    return export


@pytest.fixture
def copies(ingest: Pool) -> Copies:
    """Copies whose link has nothing to export."""
    return Copies(ingest, export_of(), DeadLetters(ingest, "reporting"))


def rows(database: Database, query: str) -> list[Any]:
    """Returns what a query of the superuser finds."""
    with psycopg.connect(database.admin_url) as conn:
        return conn.execute(query.encode()).fetchall()


async def eventually(found: Callable[[], Awaitable[bool]]) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(30):
        while not await found():
            await asyncio.sleep(0.05)


def revision(database: Database, feed: str) -> int:
    """Returns up to where a feed has been taken in."""
    return int(rows(database, f"select revision from reporting.feeds where feed = '{feed}'")[0][0])


async def test_the_newest_revision_counts_in_whatever_order_they_come(copies: Copies, database: Database) -> None:
    states = [entry(number, client=a_client(MARIA, f"Name {number}")) for number in range(1, 9)]
    random.Random(5).shuffle(states)
    for state in states:
        await copies.take_people(people(state))
    await copies.take_people(people(*states))
    assert rows(database, "select display_name, revision from reporting.clients") == [("Name 8", 8)]


async def test_the_mark_stops_at_a_hole_and_goes_on_when_it_is_filled(copies: Copies, database: Database) -> None:
    def state(number: int) -> link_pb2.DirectoryEntry:
        return entry(number, client=a_client(new_id(), f"Client {number}"))

    await copies.take_people(people(state(1), state(2), state(4)))
    assert revision(database, "people") == 2
    assert rows(database, "select count(*) from reporting.clients") == [(3,)], "what lies behind the hole is there"
    await copies.take_people(people(state(3)))
    assert revision(database, "people") == 3
    await copies.take_people(people(state(4), state(5)))
    assert revision(database, "people") == 5
    await copies.take_people(people(state(1)))
    assert revision(database, "people") == 5, "it never goes back"
    assert revision(database, "visitors") == 0, "the feeds count on their own"


async def test_two_processes_with_parts_of_one_change_leave_no_hole(copies: Copies, database: Database) -> None:
    parts = [people(entry(number, client=a_client(new_id(), "C"))) for number in range(1, 20)]
    await asyncio.gather(*(copies.take_people(part) for part in parts))
    await asyncio.gather(*(copies.take_people(part) for part in parts))
    for part in parts:
        await copies.take_people(part)
    assert revision(database, "people") == 19


async def test_a_message_brings_its_deliveries_each_once(copies: Copies, database: Database) -> None:
    reports = [
        link_pb2.Delivery(status=link_pb2.DELIVERY_STATUS_SENT, event_time=to_proto(NOON)),
        link_pb2.Delivery(status=link_pb2.DELIVERY_STATUS_DELIVERED, event_time=to_proto(NOON + timedelta(seconds=3))),
    ]
    await copies.take_people(people(entry(1, message=a_message(MESSAGE, MARIA, deliveries=reports[:1]))))
    for _ in range(5):
        await copies.take_people(people(entry(2, message=a_message(MESSAGE, MARIA, deliveries=reports))))
    assert rows(database, "select status from reporting.deliveries order by event_time") == [(2,), (3,)]


@pytest.mark.parametrize("place", [0, 2, 4, 5], ids=["open first", "in between", "before the delivery", "open last"])
async def test_what_comes_in_another_order_than_it_happened_is_joined_all_the_same(
    copies: Copies, ingest: Pool, bus: Bus, reporting: Reporting, database: Database, place: int
) -> None:
    link_id, delivered = new_id(), NOON + timedelta(minutes=5)
    report = link_pb2.Delivery(status=link_pb2.DELIVERY_STATUS_DELIVERED, event_time=to_proto(delivered))
    message = a_message(MESSAGE, MARIA)
    told_late = a_message(MESSAGE, MARIA, deliveries=[report])
    link = link_pb2.Link(name=f"links/{link_id}", portal=f"portals/{HEARINGS}", client=f"clients/{MARIA}")
    # The open comes before its client, its portal, its link and its message are known, or before the delivery is.
    opened = an_open(number=1, client_id=MARIA, portal_id=HEARINGS, link_id=link_id, message_id=MESSAGE)
    steps: list[Callable[[], Awaitable[None]]] = [
        lambda: copies.take_people(people(entry(1, client=a_client(MARIA, "Maria", ref="CASE-1")))),
        lambda: copies.take_visitors(
            [Received(events_pb2.DirectoryChanged(entries=[entry(1, portal=a_portal(HEARINGS, "Hearings"))]), 1, 1)]
        ),
        lambda: copies.take_visitors([Received(events_pb2.DirectoryChanged(entries=[entry(2, link=link)]), 1, 1)]),
        lambda: copies.take_people(people(entry(2, message=message))),
        lambda: copies.take_people(people(entry(3, message=told_late))),
    ]
    letters = DeadLetters(ingest, "reporting")
    pack = [Received(a_pack([opened]), 1, 1)]
    steps.insert(place, lambda: Arrivals(ingest, letters, Announcer(bus)).take(pack))
    for step in steps:
        await step()
    (found,) = (await reporting.page()).opens
    assert (found.client_display_name, found.client_ref, found.portal_display_name) == ("Maria", "CASE-1", "Hearings")
    assert await reporting.list(client="maria", portal=f"portals/{HEARINGS}") == [found.name]
    request = reporting_pb2.GetClientTimelineRequest(client=f"clients/{MARIA}")
    told = (await reporting.stub.GetClientTimeline(request, metadata=reporting.as_(DANA))).entries
    assert [one.WhichOneof("entry") for one in told] == ["delivery", "open", "message"]
    assert rows(database, "select 1 from reporting.dead_letters") == []


BAD = [
    pytest.param(entry(2, client=a_client(MARIA, "a\0b")), id="NUL in a name"),
    pytest.param(entry(2, client=link_pb2.Client(name="clients/1")), id="a name that is none"),
    pytest.param(entry(2, client=link_pb2.Client(name=f"portals/{MARIA}")), id="a name of another kind"),
    pytest.param(entry(2), id="no object, or one of a newer version"),
    pytest.param(link_pb2.DirectoryEntry(revision=2, agency_id="first"), id="no agency"),
]


@pytest.mark.parametrize("bad", BAD)
async def test_a_bad_entry_is_kept_aside_alone(
    copies: Copies, database: Database, bad: link_pb2.DirectoryEntry
) -> None:
    good = [entry(1, client=a_client(new_id(), "One")), entry(3, client=a_client(new_id(), "Three"))]
    await copies.take_people(people(good[0], bad, good[1]))
    assert rows(database, "select display_name from reporting.clients order by revision") == [("One",), ("Three",)]
    kept = rows(database, "select consumer, payload from reporting.dead_letters")
    assert [(consumer, link_pb2.DirectoryEntry.FromString(payload)) for consumer, payload in kept] == [
        (CONSUMERS["people"], bad)
    ]
    assert revision(database, "people") == 3, "one bad entry does not stop the feed"


@contextlib.contextmanager
def refusing(database: Database, condition: str) -> Iterator[None]:
    """The database refuses clients for which something is so."""
    with psycopg.connect(database.admin_url, autocommit=True) as conn:
        conn.execute(f"alter table reporting.clients add constraint refusing check (not ({condition}))".encode())
        try:
            yield
        finally:
            conn.execute("alter table reporting.clients drop constraint refusing")


async def test_an_entry_that_the_database_refuses_is_kept_aside_alone_until_it_is_taken_in_again(
    copies: Copies, database: Database, ingest: Pool
) -> None:
    made = [entry(number, client=a_client(new_id(), f"Client {number}")) for number in (1, 2, 3)]
    with refusing(database, "display_name = 'Client 2'"):
        await copies.take_people(people(*made))
    assert rows(database, "select display_name from reporting.clients order by revision") == [
        ("Client 1",),
        ("Client 3",),
    ]
    assert revision(database, "people") == 3, "one refused entry does not stop the feed"
    kept = rows(database, "select id, payload from reporting.dead_letters")
    assert [link_pb2.DirectoryEntry.FromString(payload) for _, payload in kept] == [made[1]]
    letters = DeadLetters(ingest, "reporting")
    Copies(ingest, export_of(), letters)
    assert await letters.replay(kept[0][0]) == ""
    assert len(rows(database, "select from reporting.clients")) == 3
    assert not rows(database, "select from reporting.dead_letters")


async def test_when_the_database_refuses_all_entries_nothing_is_kept_aside(copies: Copies, database: Database) -> None:
    made = [entry(number, client=a_client(new_id(), f"Client {number}")) for number in (1, 2)]
    with refusing(database, "true"), pytest.raises(psycopg.errors.CheckViolation):
        await copies.take_people(people(*made))
    assert not rows(database, "select from reporting.dead_letters")
    assert revision(database, "people") == 0


async def test_a_refused_entry_that_comes_alone_is_tried_again_by_the_frame_but_does_not_stop_an_export(
    copies: Copies, database: Database, ingest: Pool
) -> None:
    bad = entry(1, client=a_client(new_id(), "Bad"))
    good = entry(2, client=a_client(new_id(), "Good"))
    with refusing(database, "display_name = 'Bad'"):
        with pytest.raises(psycopg.errors.CheckViolation):
            await copies.take_people(people(bad))
        assert not rows(database, "select from reporting.dead_letters")
        letters = DeadLetters(ingest, "reporting")
        await Copies(ingest, export_of([bad], [good]), letters).catch_up("people")
    assert rows(database, "select display_name from reporting.clients") == [("Good",)]
    assert len(rows(database, "select from reporting.dead_letters")) == 1
    assert revision(database, "people") == 2


async def test_an_export_goes_no_further_than_what_it_left_out_is_kept(database: Database, ingest: Pool) -> None:
    """What lies before the mark is never exported again."""
    good, bad = entry(1, client=a_client(new_id(), "Good")), entry(2, client=a_client(new_id(), "a\0b"))
    copies = Copies(ingest, export_of([good, bad]), DeadLetters(ingest, "reporting"))
    with psycopg.connect(database.admin_url, autocommit=True) as conn:
        conn.execute("revoke insert on reporting.dead_letters from reporting_ingest")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await copies.catch_up("people")
        assert revision(database, "people") == 0
        conn.execute("grant insert on reporting.dead_letters to reporting_ingest")
    await copies.catch_up("people")
    assert revision(database, "people") == 2
    ((payload,),) = rows(database, "select payload from reporting.dead_letters")
    assert link_pb2.DirectoryEntry.FromString(payload) == bad


async def test_names_come_from_link_as_they_are_changed(link: Any, reporting: Reporting, put_opens: PutOpens) -> None:
    dana = reporting.as_(DANA)
    made = await link.CreateClient(
        link_pb2.CreateClientRequest(client=link_pb2.Client(display_name="Maria García", ref="CASE-1")), metadata=dana
    )
    await put_opens(an_open(number=1, client_id=parse_name("clients", made.name)))

    async def named(words: str) -> bool:
        return len(await reporting.list(client=words)) == 1

    await eventually(lambda: named("garcía"))
    made.display_name, made.officer = "Maria López", ALICE.name
    await link.UpdateClient(link_pb2.UpdateClientRequest(client=made), metadata=dana)
    await eventually(lambda: named("lópez"))
    assert not await named("garcía")
    assert len(await reporting.list(ALICE)) == 1


async def test_a_copy_that_was_lost_and_a_stream_that_was_lost_are_made_good_by_links_export(
    link: Any, reporting: Reporting, bus: Bus, database: Database, ingest: Pool
) -> None:
    dana = reporting.as_(DANA)
    for number in range(3):
        client = link_pb2.Client(display_name=f"Client {number}")
        await link.CreateClient(link_pb2.CreateClientRequest(client=client), metadata=dana)
    portal = link_pb2.Portal(
        display_name="Payments", kind=link_pb2.PORTAL_KIND_EXTERNAL, target_uri="https://pay.court.gov/"
    )
    await link.CreatePortal(link_pb2.CreatePortalRequest(portal=portal), metadata=dana)

    async def complete() -> bool:
        found = rows(
            database, "select (select count(*) from reporting.clients), (select count(*) from reporting.portals)"
        )
        return found == [(3, 1)] and revision(database, "people") >= 3 and revision(database, "visitors") >= 1

    await eventually(complete)
    with psycopg.connect(database.admin_url, autocommit=True) as conn:
        conn.execute("truncate reporting.clients, reporting.portals")
        conn.execute("update reporting.feeds set revision = 0")
    # An event from far ahead shows the hole; every event before it is never seen again.
    pack = people(entry(1_000, client=a_client(MARIA, "From ahead")))[0].message
    await bus.publish(pack, pack.event_id)
    portals = events_pb2.DirectoryChanged(
        event_id=str(new_id()), entries=[entry(1_000, portal=a_portal(HEARINGS, "P"))]
    )
    await bus.publish(portals, portals.event_id)

    async def mended() -> bool:
        found = rows(
            database, "select (select count(*) from reporting.clients), (select count(*) from reporting.portals)"
        )
        return found == [(4, 2)] and revision(database, "people") >= 3

    await eventually(mended)


async def test_what_was_made_before_reporting_was_there_is_copied(
    link: Any, start_reporting: Any, database: Database, keyring: Any
) -> None:
    client = link_pb2.Client(display_name="Early")
    await link.CreateClient(link_pb2.CreateClientRequest(client=client), metadata=keyring.as_person(DANA))
    await start_reporting()

    async def copied() -> bool:
        return rows(database, "select display_name from reporting.clients") == [("Early",)]

    await eventually(copied)
