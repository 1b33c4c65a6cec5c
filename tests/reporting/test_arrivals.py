"""Opens come in by NATS: each once, whatever comes again, the bad ones aside, and searchable at once."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from opennotice.enrichment.v1 import events_pb2
from opennotice.reporting.v1 import reporting_pb2

from services.chassis.bus import Bus
from services.chassis.consumer import Consumer, Received
from services.chassis.dead_letters import DeadLetters, InDoubt
from services.chassis.postgres import Database as Pool
from services.reporting.arrivals.events import ARRIVED_SUBJECT, CONSUMER, Announcer, Arrivals, read_open
from tests.cast import CHARLIE, DANA, OTHER_COURT
from tests.fix_postgres import Database
from tests.reporting.conftest import PutOpens, Reporting
from tests.reporting.sample import NOON, a_pack, an_open, id_at, many_opens


@pytest.fixture
def arrivals(ingest: Pool, bus: Bus) -> Arrivals:
    return Arrivals(ingest, DeadLetters(ingest, "reporting"), Announcer(bus))


def received(*packs: events_pb2.OpensEnriched) -> list[Received[events_pb2.OpensEnriched]]:
    """Returns packs as the consumer hands them over."""
    return [Received(pack, attempts=1, sequence=number) for number, pack in enumerate(packs)]


def rows(database: Database, query: str) -> list[Any]:
    """Returns what a query of the superuser finds."""
    with psycopg.connect(database.admin_url) as conn:
        return conn.execute(query.encode()).fetchall()


async def eventually(found: Callable[[], Awaitable[bool]]) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(20):
        while not await found():
            await asyncio.sleep(0.02)


async def test_a_published_open_is_searchable(reporting: Reporting, publish_opens: PutOpens) -> None:
    await publish_opens(an_open(number=1), an_open(number=2, agency_id=OTHER_COURT))

    async def found() -> bool:
        return await reporting.list() == [f"opens/{id_at(NOON, 1)}"]

    await eventually(found)
    assert await reporting.list(CHARLIE) == [f"opens/{id_at(NOON, 2)}"]


async def test_a_pack_that_comes_five_times_changes_nothing(arrivals: Arrivals, database: Database) -> None:
    # At once, and again, and mixed with others.
    pack, other = a_pack([an_open(number=1), an_open(number=2)]), a_pack([an_open(number=2), an_open(number=3)])
    other.opens[0].CopyFrom(pack.opens[1])
    await asyncio.gather(*(arrivals.take(received(pack, other, pack)) for _ in range(3)))
    before = rows(database, "select * from reporting.opens order by open_id")
    for _ in range(5):
        await arrivals.take(received(other, pack))
    assert rows(database, "select * from reporting.opens order by open_id") == before
    assert len(before) == 3
    assert rows(database, "select * from reporting.verdicts") == []
    assert rows(database, "select * from reporting.dead_letters") == []


async def test_a_pack_that_comes_a_thousand_times_under_a_thousand_ids_has_no_further_effect(
    reporting: Reporting, bus: Bus, database: Database
) -> None:
    pack = a_pack([an_open(number=1), an_open(number=2)])
    for begin in range(0, 1_000, 100):
        await asyncio.gather(*(bus.publish(pack, f"again-{begin + number}") for number in range(100)))

    async def all_read() -> bool:
        info = await bus.js.consumer_info("ENRICHMENT", CONSUMER)
        return info.num_pending == 0 and info.num_ack_pending == 0

    await eventually(lambda: _settled(reporting, all_read))
    assert (await bus.js.stream_info("ENRICHMENT")).state.messages == 1_000
    assert len(await reporting.list()) == 2
    assert rows(database, "select * from reporting.verdicts") == []
    assert rows(database, "select * from reporting.dead_letters") == []


async def _settled(reporting: Reporting, all_read: Callable[[], Awaitable[bool]]) -> bool:
    return len(await reporting.list()) > 0 and await all_read()


async def test_two_readers_that_hold_the_same_pack_and_answer_late_leave_one_row(
    ingest: Pool, bus: Bus, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.chassis.consumer._ACK_WAIT_SECONDS", 0.5)
    letters = DeadLetters(ingest, "reporting")
    arrivals = Arrivals(ingest, letters, Announcer(bus))
    came: list[int] = []

    async def slowly(packs: list[Received[events_pb2.OpensEnriched]]) -> None:
        came.extend(one.attempts for one in packs)
        await arrivals.take(packs)
        # After the commit, and so long that the server gives the pack to the other reader.
        if len(came) == 1:
            async with asyncio.timeout(10):
                while len(came) == 1:
                    await asyncio.sleep(0.02)

    def reader() -> Consumer[events_pb2.OpensEnriched]:
        return Consumer(
            bus,
            stream="ENRICHMENT",
            durable=CONSUMER,
            message=events_pb2.OpensEnriched,
            handle=slowly,
            dead_letters=letters,
        )

    await bus.publish(pack := a_pack([an_open(number=1)]), pack.batch_id)
    tasks = [asyncio.create_task(reader().run()) for _ in range(2)]

    async def answered() -> bool:
        if len(came) < 2:
            return False
        info = await bus.js.consumer_info("ENRICHMENT", CONSUMER)
        return info.num_pending == 0 and info.num_ack_pending == 0

    await eventually(answered)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=5)
    assert came[:2] == [1, 2]
    assert rows(database, "select count(*) from reporting.opens") == [(1,)]
    assert rows(database, "select * from reporting.dead_letters") == []


async def test_the_service_itself_may_hold_and_release_what_it_reads_again(
    ingest: Pool, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = DeadLetters(ingest, "reporting")
    event: dict[str, Any] = {"consumer": CONSUMER, "subject": "s", "message_type": "t", "payload": b"p", "attempts": 1}
    number = await letters.hold(**event)
    assert number is not None
    for _ in range(2):
        with pytest.raises(InDoubt):
            await letters.hold(**event)
    monkeypatch.setattr("services.chassis.dead_letters._DOUBT_SECONDS", 0)
    assert await letters.hold(**event) is None
    assert rows(database, "select id from reporting.dead_letters") == [(number,)]
    await letters.release(number, taken=True)
    assert rows(database, "select id from reporting.dead_letters") == []


async def test_a_newer_explanation_replaces_the_one_before_which_stays_in_the_history(
    arrivals: Arrivals, reporting: Reporting, database: Database
) -> None:
    first = an_open(number=1)
    newer = events_pb2.OpenEnriched()
    newer.CopyFrom(first)
    newer.network, newer.asn = "Proofpoint, Inc.", 22843
    newer.verdict = events_pb2.VERDICT_MACHINE_LIKELY
    newer.device = events_pb2.DEVICE_DESKTOP
    newer.enrich_time.FromDatetime(NOON + timedelta(days=1))
    await arrivals.take(received(a_pack([first])))
    # In both orders, and twice: the newest counts.
    await arrivals.take(received(a_pack([newer, first]), a_pack([newer])))
    await arrivals.take(received(a_pack([first])))
    (found,) = (await reporting.page(network="AS22843")).opens
    assert (found.network, found.verdict, found.device) == ("Proofpoint, Inc.", newer.verdict, newer.device)
    assert await reporting.list(network="comcast") == []
    history = rows(database, "select verdict, record from reporting.verdicts")
    assert [(verdict, events_pb2.OpenEnriched.FromString(record)) for verdict, record in history] == [
        (first.verdict, first)
    ]


async def test_the_same_id_with_another_content_is_kept_aside_and_the_first_counts(
    arrivals: Arrivals, reporting: Reporting, database: Database
) -> None:
    # Also where the second says that it belongs to another agency.
    await arrivals.take(received(a_pack([an_open(number=1, open_ip_address="203.0.113.7", link_id=UUID(int=1))])))
    false = an_open(number=1, open_ip_address="198.51.100.9", link_id=UUID(int=1), agency_id=OTHER_COURT)
    false.enrich_time.FromDatetime(NOON + timedelta(days=9))
    await arrivals.take(received(a_pack([false, an_open(number=2)])))
    page = await reporting.page()
    assert [found.ip_address for found in page.opens] == ["203.0.113.7", "203.0.113.7"]
    assert await reporting.list(CHARLIE) == []
    kept = rows(database, "select consumer, message_type, payload, error from reporting.dead_letters")
    assert [(consumer, kind) for consumer, kind, _, _ in kept] == [(CONSUMER, "opennotice.enrichment.v1.OpenEnriched")]
    assert events_pb2.OpenEnriched.FromString(kept[0][2]) == false
    assert "first one counts" in kept[0][3]


async def test_two_contents_under_one_id_in_one_pack_leave_the_first(arrivals: Arrivals, database: Database) -> None:
    first = an_open(number=1, open_ip_address="203.0.113.7")
    second = an_open(number=1, open_ip_address="198.51.100.9")
    await arrivals.take(received(a_pack([first, second])))
    assert rows(database, "select host(ip_address) from reporting.opens") == [("203.0.113.7",)]
    kept = rows(database, "select payload from reporting.dead_letters")
    assert [events_pb2.OpenEnriched.FromString(payload) for (payload,) in kept] == [second]


@pytest.mark.parametrize("years", [-10, 10, -40, 400])
async def test_an_open_of_a_clock_that_is_years_wrong_is_kept_and_found(
    arrivals: Arrivals, reporting: Reporting, database: Database, years: int
) -> None:
    # Losing it would be worse. It lies in no month that has a partition yet, which is told and mended elsewhere.
    moment = NOON + timedelta(days=365 * years)
    await arrivals.take(received(a_pack([an_open(moment, number=1)])))

    async def found() -> bool:
        return await reporting.list() == [f"opens/{id_at(moment, 1)}"]

    await eventually(found)
    # Not in this loop: what gives the open its partition runs in it too, and may hold the table meanwhile.
    assert await asyncio.to_thread(rows, database, "select count(*) from reporting.opens") == [(1,)]
    assert await asyncio.to_thread(rows, database, "select 1 from reporting.dead_letters") == []


@pytest.mark.parametrize("seconds", [-1, 253_402_300_800, 2**62], ids=["before 1970", "year 10000", "no year at all"])
async def test_a_time_that_is_none_keeps_an_open_aside(arrivals: Arrivals, database: Database, seconds: int) -> None:
    bad, late = an_open(number=1), an_open(number=2)
    bad.open.open_time.CopyFrom(Timestamp(seconds=seconds))
    late.enrich_time.CopyFrom(Timestamp(seconds=seconds))
    await arrivals.take(received(a_pack([bad, late, an_open(number=3)])))
    assert rows(database, "select count(*) from reporting.opens") == [(1,)]
    kept = rows(database, "select payload from reporting.dead_letters order by id")
    assert [events_pb2.OpenEnriched.FromString(payload) for (payload,) in kept] == [bad, late]


BAD = [
    pytest.param({"open_open_id": ""}, id="no id"),
    pytest.param({"open_open_id": "9223372036854775808"}, id="a number"),
    pytest.param({"open_open_id": "01890000-0000-4000-8000-0000000000c1"}, id="not version 7"),
    pytest.param({"open_open_id": str(id_at(NOON + timedelta(hours=1)))}, id="another instant than open_time"),
    pytest.param({"open_agency_id": ""}, id="no agency"),
    pytest.param({"open_agency_id": "first-court"}, id="an agency that is no id"),
    pytest.param({"open_link_id": ""}, id="no link"),
    pytest.param({"open_client_id": "clients/1"}, id="a client that is no id"),
    pytest.param({"open_kind": 0}, id="kind not given"),
    pytest.param({"open_kind": 99}, id="a kind of a newer version"),
    pytest.param({"device": 0}, id="device not given"),
    pytest.param({"verdict": 77}, id="a verdict of a newer version"),
    pytest.param({"open_ip_address": "DROP TABLE"}, id="address text"),
    pytest.param({"open_ip_address": "fe80::1%eth0"}, id="an address with a zone"),
]


@pytest.mark.parametrize("wrong", BAD)
async def test_a_bad_open_is_kept_aside_alone_and_the_rest_of_its_pack_comes_in(
    arrivals: Arrivals, database: Database, wrong: dict[str, Any]
) -> None:
    bad = an_open(number=1, **wrong)
    await arrivals.take(received(a_pack([an_open(number=2), bad, an_open(number=3)])))
    assert rows(database, "select count(*) from reporting.opens") == [(2,)]
    kept = rows(database, "select payload from reporting.dead_letters")
    assert [events_pb2.OpenEnriched.FromString(payload) for (payload,) in kept] == [bad]


def test_times_out_of_range_are_refused() -> None:
    late = an_open(number=1)
    late.enrich_time.CopyFrom(Timestamp(seconds=2**62))
    with pytest.raises(ValueError, match="enrich_time"):
        read_open(late)
    ageless = an_open(number=1)
    ageless.ClearField("enrich_time")
    with pytest.raises(ValueError, match="enrich_time"):
        read_open(ageless)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\xff\xff\xff\xff", id="garbage"),
        pytest.param(a_pack([an_open()]).SerializeToString()[:-7], id="truncated"),
        pytest.param(b"{}", id="JSON"),
        pytest.param(b"", id="nothing at all"),
        pytest.param(b"\xff" * (1024 * 1024 - 2048), id="as large as may be"),
    ],
)
async def test_a_pack_that_is_no_pack_becomes_a_dead_letter_and_the_next_one_comes_in(
    reporting: Reporting, bus: Bus, publish_opens: PutOpens, database: Database, payload: bytes
) -> None:
    await bus.js.publish("opennotice.enrichment.v1.opens.enriched", payload)
    await publish_opens(an_open(number=1))

    async def found() -> bool:
        return bool(await reporting.list()) and bool(rows(database, "select 1 from reporting.dead_letters"))

    await eventually(found)
    assert rows(database, "select payload from reporting.dead_letters") == [(payload,)]


async def test_fields_of_a_later_version_are_kept_for_those_who_will_know_them(
    arrivals: Arrivals, database: Database
) -> None:
    later = b"\x9a\x06\x05later"
    pack = a_pack([an_open(number=1)])
    pack.opens[0].open.MergeFromString(later)
    await arrivals.take(received(pack))
    assert later in rows(database, "select record from reporting.opens")[0][0]


async def test_an_empty_pack_is_nothing(arrivals: Arrivals, database: Database) -> None:
    await arrivals.take(received(a_pack([]), events_pb2.OpensEnriched()))
    assert rows(database, "select 1 from reporting.dead_letters") == []


async def test_text_that_no_database_takes_is_shown_as_it_was_sent(
    arrivals: Arrivals, reporting: Reporting, database: Database
) -> None:
    agent = "a\0b \\ % ' 👩🏽‍⚖️ \u202e"
    await arrivals.take(received(a_pack([an_open(number=1, open_user_agent=agent, network="N\0t")])))
    (found,) = (await reporting.page()).opens
    assert (found.user_agent, await reporting.list(network="Nt")) == (agent, [found.name])
    assert rows(database, "select 1 from reporting.dead_letters") == []


async def test_ten_thousand_opens_at_once_come_in(arrivals: Arrivals, reporting: Reporting) -> None:
    # A full round of the consumer.
    opens = many_opens(10_000)
    packs = [a_pack(opens[begin : begin + 500]) for begin in range(0, 10_000, 500)]
    await arrivals.take(received(*packs))
    request = reporting_pb2.SummarizeOpensRequest(key=reporting_pb2.SUMMARY_KEY_DEVICE)
    assert (await reporting.stub.SummarizeOpens(request, metadata=reporting.as_(DANA))).total == 10_000


async def test_an_open_that_was_kept_aside_is_taken_in_once_it_can_be(
    ingest: Pool, reporting: Reporting, database: Database, bus: Bus
) -> None:
    letters = DeadLetters(ingest, "reporting")
    arrivals = Arrivals(ingest, letters, Announcer(bus))
    bad = an_open(number=1, open_kind=99)
    await arrivals.take(received(a_pack([bad])))
    (still,) = [await letters.replay(one.id) for one in await letters.list(0, 10)]
    assert "OpenKind 99 is not known" in still
    # As if the newer version that knows the kind had come: here its kind becomes one that is known.
    known = an_open(number=1).SerializeToString()
    with psycopg.connect(database.admin_url, autocommit=True) as admin:
        admin.execute("update reporting.dead_letters set payload = %s", (known,))
    assert [await letters.replay(one.id) for one in await letters.list(0, 10)] == [""]
    assert await letters.count() == 0
    assert len(await reporting.list()) == 1


@pytest.fixture
def refuse(database: Database) -> Iterator[Callable[[str], None]]:
    """Has the database refuse opens under a condition."""
    with psycopg.connect(database.admin_url, autocommit=True) as admin:

        def under(condition: str) -> None:
            admin.execute(
                "create function reporting.refuse() returns trigger language plpgsql as"
                " $$ begin raise exception 'does not fit'; end $$"
            )
            admin.execute(
                "create trigger refuse before insert on reporting.opens for each row"
                f" when ({condition}) execute function reporting.refuse()".encode()
            )

        yield under
        admin.execute("drop function reporting.refuse cascade")


async def test_an_open_that_the_database_refuses_keeps_no_other_away(
    arrivals: Arrivals, database: Database, refuse: Callable[[str], None]
) -> None:
    misfit = an_open(number=2)
    refuse(f"new.open_id = '{misfit.open.open_id}'")
    await arrivals.take(received(a_pack([an_open(number=1), misfit, an_open(number=3)])))
    assert rows(database, "select count(*) from reporting.opens") == [(2,)]
    ((payload, error),) = rows(database, "select payload, error from reporting.dead_letters")
    assert events_pb2.OpenEnriched.FromString(payload) == misfit
    assert "does not fit" in error


@pytest.fixture
async def heard(bus: Bus) -> AsyncIterator[Callable[[], Awaitable[list[UUID]]]]:
    """Gives what the watchers have been told since it was asked before."""
    subscription = await bus.client.subscribe(ARRIVED_SUBJECT)
    await bus.client.flush()

    async def told() -> list[UUID]:
        await bus.client.flush()
        waiting = [await subscription.next_msg(1) for _ in range(subscription.pending_msgs)]
        return [UUID(one) for message in waiting for one in json.loads(message.data)["opens"]]

    yield told
    await subscription.unsubscribe()


async def test_watchers_are_told_of_the_good_opens_when_a_bad_one_cannot_be_kept(
    arrivals: Arrivals, database: Database, heard: Callable[[], Awaitable[list[UUID]]]
) -> None:
    """When the pack comes again they are not new any more."""
    pack = a_pack([an_open(number=1), an_open(number=2, open_kind=98), an_open(number=3, open_kind=99)])
    with psycopg.connect(database.admin_url, autocommit=True) as admin:
        admin.execute("alter table reporting.dead_letters add constraint refusing check (error not like '%99%')")
        with pytest.raises(psycopg.errors.CheckViolation):
            await arrivals.take(received(pack))
        assert await heard() == [id_at(NOON, 1)]
        # None, or those before it would be kept again with each try.
        assert rows(database, "select 1 from reporting.dead_letters") == []
        admin.execute("alter table reporting.dead_letters drop constraint refusing")
    await arrivals.take(received(pack))
    assert await heard() == []
    assert rows(database, "select count(*) from reporting.opens") == [(1,)]
    assert rows(database, "select count(*) from reporting.dead_letters") == [(2,)]


async def test_watchers_are_told_of_what_was_stored_before_the_store_went_away(
    arrivals: Arrivals, database: Database, refuse: Callable[[str], None], heard: Callable[[], Awaitable[list[UUID]]]
) -> None:
    refuse(f"new.open_id = '{id_at(NOON, 2)}'")
    with psycopg.connect(database.admin_url, autocommit=True) as admin:
        admin.execute(
            "create function reporting.fill() returns trigger language plpgsql as"
            " $$ begin raise exception 'no space left on device' using errcode = 'disk_full'; end $$"
        )
        admin.execute(
            "create trigger fill before insert on reporting.opens for each row"
            f" when (new.open_id = '{id_at(NOON, 3)}') execute function reporting.fill()".encode()
        )
        pack = a_pack([an_open(number=number) for number in range(1, 5)])
        with pytest.raises(psycopg.errors.DiskFull):
            await arrivals.take(received(pack))
        assert await heard() == [id_at(NOON, 1)]
        admin.execute("drop function reporting.fill cascade")
    await arrivals.take(received(pack))
    assert await heard() == [id_at(NOON, 3), id_at(NOON, 4)]
    assert rows(database, "select count(*) from reporting.dead_letters") == [(1,)]


async def test_a_pack_whose_every_open_is_refused_is_tried_again_as_it_is(
    arrivals: Arrivals, database: Database, refuse: Callable[[str], None]
) -> None:
    """Then something is wrong with the database rather than with the opens."""
    refuse("true")
    with pytest.raises(psycopg.errors.RaiseException):
        await arrivals.take(received(a_pack([an_open(number=1), an_open(number=2)])))
    assert rows(database, "select count(*) from reporting.dead_letters") == [(0,)]


async def test_the_same_explanation_once_more_is_no_news(
    arrivals: Arrivals, reporting: Reporting, database: Database
) -> None:
    """After a second publishing; else the history would show a change that nobody made."""
    one = an_open(number=1, link_id=UUID(int=1))
    await arrivals.take(received(a_pack([one])))
    again = an_open(number=1, link_id=UUID(int=1))
    again.enrich_time.FromDatetime(NOON + timedelta(minutes=5))
    await arrivals.take(received(a_pack([again])))
    assert rows(database, "select * from reporting.verdicts") == []
    again.browser = "Chrome Mobile"
    await arrivals.take(received(a_pack([again])))
    assert rows(database, "select count(*) from reporting.verdicts") == [(1,)]
