"""What is found: each filter, in order, inside one agency."""

import asyncio
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from opennotice.enrichment.v1 import events_pb2
from opennotice.link.v1 import link_pb2
from opennotice.tracking.v1 import events_pb2 as tracking_pb2

from services.chassis.errors import Faults
from services.chassis.postgres import Database as Pool
from services.reporting import partitions, store
from services.reporting.arrivals import store as arrivals
from services.reporting.opens import Filter, Key, read_addresses
from services.reporting.timelines import store as timelines
from tests.cast import ALICE, FIRST_COURT, OTHER_COURT
from tests.fix_postgres import Database
from tests.reporting.conftest import PutEntries, PutOpens
from tests.reporting.sample import NOON, a_client, a_portal, an_open, entry, id_at

MARIA = UUID("01890000-0000-7000-8000-0000000000c1")
PERCENT = UUID("01890000-0000-7000-8000-0000000000c2")
EMOJI = UUID("01890000-0000-7000-8000-0000000000c3")
CAFE = UUID("01890000-0000-7000-8000-0000000000c4")
HEARINGS = UUID("01890000-0000-7000-8000-0000000000d1")
PAYMENTS = UUID("01890000-0000-7000-8000-0000000000d2")
LINK = UUID("01890000-0000-7000-8000-0000000000e1")
REDIRECT = UUID("01890000-0000-7000-8000-0000000000e2")
MESSAGE = UUID("01890000-0000-7000-8000-0000000000e3")


@pytest.fixture
async def filled(put_opens: PutOpens, put_entries: PutEntries) -> None:
    """Seven opens a minute apart, the first at noon; each is the only one in something."""
    await put_entries(
        entry(1, client=a_client(MARIA, "María GARCÍA", ref="CASE-1", officer=ALICE.name)),
        entry(2, client=a_client(PERCENT, "100%_\\d'; drop table reporting.opens; --", ref="CASE-2")),
        entry(3, client=a_client(EMOJI, "Judge 👩🏽‍⚖️", ref="CASE_1")),
        entry(4, client=a_client(CAFE, "Cafe\u0301", ref="%")),
        entry(1, portal=a_portal(HEARINGS, "Hearings")),
        entry(2, portal=a_portal(PAYMENTS, "Payments")),
        entry(3, redirect=link_pb2.Redirect(name=f"redirects/{REDIRECT}", display_name="Map of the court")),
    )
    await put_opens(
        an_open(at(0), number=0, client_id=MARIA, portal_id=HEARINGS, link_id=LINK, message_id=MESSAGE),
        an_open(at(1), number=1, client_id=PERCENT, portal_id=PAYMENTS, device=events_pb2.DEVICE_TABLET),
        an_open(
            at(2), number=2, client_id=EMOJI, verdict=events_pb2.VERDICT_MACHINE_CERTAIN, asn=8075, network="100%_x"
        ),
        an_open(
            at(3), number=3, client_id=CAFE, open_link_state=link_pb2.LINK_STATE_EXPIRED, open_ip_address="2001:db8::7"
        ),
        an_open(at(4), number=4, link_id=REDIRECT, open_kind=tracking_pb2.OPEN_KIND_REDIRECT, asn=0, network=""),
        an_open(at(5), number=5, open_ip_address="198.51.100.1", asn=7923),
        an_open(at(6), number=6, open_ip_address=""),
    )


def at(minutes: int) -> datetime:
    """Returns a time that many minutes after noon."""
    return NOON + timedelta(minutes=minutes)


def network(text: str) -> Any:
    """Returns the ends of a range."""
    return read_addresses(text, Faults())


async def numbers(serve: Pool, wanted: Filter, agency_id: UUID = FIRST_COURT) -> list[int]:
    """Returns which of the opens are found, oldest first."""
    async with serve.transaction(agency_id) as conn:
        found = await store.list_opens(conn, agency_id, wanted, after=None, limit=200)
    assert [row.key for row in found] == sorted((row.key for row in found), reverse=True), "newest first"
    return [row.open_id.int & 0xFFFF for row in reversed(found)]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        pytest.param(Filter(), [0, 1, 2, 3, 4, 5, 6], id="nothing asked"),
        pytest.param(Filter(client_id=MARIA), [0], id="client by id"),
        pytest.param(Filter(client_id=UUID(int=1)), [], id="client that is not there"),
        pytest.param(Filter(client_text="garcía"), [0], id="part of a name in another case, with an accent"),
        pytest.param(Filter(client_text="garcia"), [], id="another letter is another name"),
        pytest.param(Filter(client_text="CAFÉ"), [3], id="an accent written the other way"),
        pytest.param(Filter(client_text="%"), [1, 3], id="A03 percent in a name, or the whole ref"),
        pytest.param(Filter(client_text="_"), [1], id="A03 underscore"),
        pytest.param(Filter(client_text="\\"), [1], id="A03 backslash"),
        pytest.param(Filter(client_text="%_\\"), [1], id="A03 all three"),
        pytest.param(Filter(client_text="'; DROP TABLE reporting.opens; --"), [1], id="A03 SQL"),
        pytest.param(Filter(client_text="' or '1'='1"), [], id="A03 SQL that is nobody's name"),
        pytest.param(Filter(client_text="NULL"), [], id="A03 NULL"),
        pytest.param(Filter(client_text=".*"), [], id="A03 a pattern"),
        pytest.param(Filter(client_text="%(agency)s"), [], id="A03 a placeholder"),
        pytest.param(Filter(client_text="👩🏽‍⚖️"), [2], id="A03 emoji"),
        pytest.param(Filter(client_text="CASE-1"), [0], id="exact ref"),
        pytest.param(Filter(client_text="CASE-"), [], id="part of a ref"),
        pytest.param(Filter(client_text="case-1"), [], id="a ref in another case"),
        pytest.param(Filter(portal_id=PAYMENTS), [1], id="portal"),
        pytest.param(Filter(link_id=LINK), [0], id="link"),
        pytest.param(Filter(link_id=REDIRECT), [4], id="redirect"),
        pytest.param(Filter(message_id=MESSAGE), [0], id="message"),
        pytest.param(Filter(devices=(2,)), [1], id="device"),
        pytest.param(Filter(devices=(1, 2)), [0, 1, 2, 3, 4, 5, 6], id="two devices mean either"),
        pytest.param(Filter(kinds=(2,)), [4], id="kind"),
        pytest.param(Filter(link_states=(2,)), [3], id="link state"),
        pytest.param(Filter(verdicts=(5,)), [2], id="verdict"),
        pytest.param(Filter(asn=7923), [5], id="AS number"),
        pytest.param(Filter(asn=1), [], id="AS number of nobody"),
        pytest.param(Filter(asn=0), [], id="no AS number is not a network"),
        pytest.param(Filter(network_text="COMCAST"), [0, 1, 3, 5, 6], id="part of a network's name in another case"),
        pytest.param(Filter(network_text="%_"), [2], id="A03 percent and underscore in a network"),
        pytest.param(Filter(addresses=network("203.0.113.7")), [0, 1, 2, 4], id="address"),
        pytest.param(Filter(addresses=network("203.0.113.0/24")), [0, 1, 2, 4], id="range"),
        pytest.param(Filter(addresses=network("203.0.113.8/29")), [], id="range beside it"),
        pytest.param(Filter(addresses=network("0.0.0.0/0")), [0, 1, 2, 4, 5], id="all of IPv4 and nothing of IPv6"),
        pytest.param(Filter(addresses=network("2001:db8::/32")), [3], id="IPv6 range"),
        pytest.param(Filter(addresses=network("::/0")), [3], id="all of IPv6 and nothing of IPv4"),
        pytest.param(Filter(start=at(5)), [5, 6], id="from, inclusive"),
        pytest.param(Filter(end=at(1)), [0], id="to, exclusive"),
        pytest.param(Filter(start=at(2), end=at(2)), [], id="an empty range"),
        pytest.param(Filter(start=at(1), devices=(1,), client_text="a"), [3], id="several narrow together"),
        pytest.param(Filter(officer=ALICE.name), [0], id="own clients"),
        pytest.param(Filter(officer=ALICE.name, client_text="%"), [], id="own clients with words for another's"),
        pytest.param(Filter(officer=ALICE.name, client_id=PERCENT), [], id="own clients with another's id"),
        pytest.param(Filter(officer="users/nobody"), [], id="an officer without clients"),
        pytest.param(Filter(officer=""), [], id="an officer without a name owns nobody"),
    ],
)
async def test_a_filter_finds_exactly_its_opens(filled: None, serve: Pool, wanted: Filter, expected: list[int]) -> None:
    assert await numbers(serve, wanted) == expected


async def test_more_clients_than_are_listed_by_id_are_found_as_well(
    filled: None, serve: Pool, put_entries: PutEntries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_CLIENTS_BY_ID", 1)
    assert await numbers(serve, Filter(client_text="a")) == [0, 1, 3]
    assert await numbers(serve, Filter(client_text="a", officer=ALICE.name)) == [0]


async def test_names_are_those_of_now(filled: None, serve: Pool, put_entries: PutEntries) -> None:
    await put_entries(
        entry(9, client=a_client(MARIA, "María López", ref="CASE-9")),
        entry(9, portal=a_portal(HEARINGS, "Trials")),
    )
    async with serve.transaction(FIRST_COURT) as conn:
        (found,) = await store.list_opens(conn, FIRST_COURT, Filter(client_text="lópez"), after=None, limit=5)
        (redirect,) = await store.list_opens(conn, FIRST_COURT, Filter(link_id=REDIRECT), after=None, limit=5)
    names = (found.client_display_name, found.client_ref, found.portal_display_name)
    assert names == ("María López", "CASE-9", "Trials")
    assert redirect.portal_display_name == "Map of the court"


async def test_an_open_is_there_before_its_client_is_known(
    put_opens: PutOpens, put_entries: PutEntries, serve: Pool
) -> None:
    await put_opens(an_open(number=1, client_id=MARIA))
    async with serve.transaction(FIRST_COURT) as conn:
        (found,) = await store.list_opens(conn, FIRST_COURT, Filter(), after=None, limit=5)
    assert found.client_display_name is None
    await put_entries(entry(1, client=a_client(MARIA, "Maria")))
    assert await numbers(serve, Filter(client_text="maria")) == [1]


async def test_another_agency_sees_nothing_of_it(filled: None, serve: Pool) -> None:
    assert await numbers(serve, Filter(), OTHER_COURT) == []
    assert await numbers(serve, Filter(client_id=MARIA), OTHER_COURT) == []
    async with serve.transaction(OTHER_COURT) as conn:
        assert await store.get_open(conn, OTHER_COURT, Key(at(0), id_at(at(0), 0)), None) is None
        assert await timelines.get_client(conn, OTHER_COURT, MARIA, None) is None
        groups, total = await store.count_by(conn, OTHER_COURT, Filter(), "device", "UTC")
    assert (groups, total) == ([], 0)


TABLES = ("opens", "verdicts", "clients", "portals", "redirects", "links", "campaigns", "messages", "deliveries")


@pytest.mark.parametrize("table", TABLES)
async def test_the_database_shows_no_row_of_another_agency_even_without_a_condition(
    filled: None, serve: Pool, ingest: Pool, table: str
) -> None:
    query = psycopg.sql.SQL("select count(*) from {}").format(psycopg.sql.Identifier("reporting", table))
    counts = []
    for agency_id in (FIRST_COURT, OTHER_COURT, None):
        async with serve.transaction(agency_id) as conn:
            row = await (await conn.execute(query)).fetchone()
            assert row is not None
            counts.append(row[0])
    assert counts[1:] == [0, 0]
    if table in ("opens", "clients", "portals", "redirects"):
        assert counts[0] > 0


async def test_a_partition_is_closed_to_the_role_that_serves(filled: None, serve: Pool) -> None:
    async with serve.transaction(FIRST_COURT) as conn:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await conn.execute("select 1 from reporting.opens_2026_11")


async def test_paging_while_opens_arrive_repeats_none_and_leaves_none_out(put_opens: PutOpens, serve: Pool) -> None:
    # Several at the same millisecond, and across the turn of a month.
    moments = [datetime(2026, 10, 31, 23, 59, 59, 999_000, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC), NOON]
    before = [an_open(moment, number=number) for moment in moments for number in range(20)]
    await put_opens(*before)
    seen: list[UUID] = []
    after: Key | None = None
    for turn in range(100):
        async with serve.transaction(FIRST_COURT) as conn:
            page = await store.list_opens(conn, FIRST_COURT, Filter(), after=after, limit=7)
        if not page:
            break
        seen += [row.open_id for row in page]
        after = page[-1].key
        await put_opens(an_open(NOON + timedelta(seconds=turn), number=100 + turn))
    known = {UUID(one.open.open_id) for one in before}
    assert [one for one in seen if one in known] == sorted(known, reverse=True)
    assert len(seen) == len(set(seen))


async def test_older_partitions_only_are_looked_at_on_later_pages(filled: None, serve: Pool) -> None:
    async with serve.transaction(FIRST_COURT) as conn:
        search = store._after(
            await store.prepare(conn, FIRST_COURT, Filter()), Key(datetime(2026, 3, 5, tzinfo=UTC), UUID(int=0))
        )
        query = psycopg.sql.SQL("explain select 1 from reporting.opens o where {}").format(search.where)
        plan = "\n".join(row[0] for row in await (await conn.execute(query, search.values)).fetchall())
    assert "opens_2026_03" in plan
    assert "opens_2026_04" not in plan


async def test_a_group_by_day_follows_the_time_zone(put_opens: PutOpens, serve: Pool) -> None:
    await put_opens(an_open(datetime(2026, 11, 23, 4, 30, tzinfo=UTC)), an_open(datetime(2026, 11, 23, 6, tzinfo=UTC)))
    async with serve.transaction(FIRST_COURT) as conn:
        eastern, total = await store.count_by(conn, FIRST_COURT, Filter(), "day", "America/New_York")
        utc, _ = await store.count_by(conn, FIRST_COURT, Filter(), "day", "UTC")
    assert [(group.value, group.count) for group in eastern] == [(date(2026, 11, 23), 1), (date(2026, 11, 22), 1)]
    assert ([(group.value, group.count) for group in utc], total) == ([(date(2026, 11, 23), 2)], 2)


async def test_redirects_count_in_the_total_of_a_summary_by_portal(filled: None, serve: Pool) -> None:
    async with serve.transaction(FIRST_COURT) as conn:
        groups, total = await store.count_by(conn, FIRST_COURT, Filter(), "portal", "UTC")
    assert {(group.display_name, group.count) for group in groups} == {("Hearings", 1), ("Payments", 1)}
    assert total == 7


async def test_the_month_after_next_has_a_partition_from_the_start(database: Database) -> None:
    today = datetime.now(UTC).date()
    with psycopg.connect(database.admin_url) as conn:
        rows = conn.execute("select relname from pg_class where relname ~ '^opens_[0-9]{4}_[0-9]{2}$'").fetchall()
    made = {row[0] for row in rows}
    assert {f"opens_{month:%Y_%m}" for month in partitions.months_from(today, 3)} <= made
    assert f"opens_{today.year - 1}_{today.month:02}" in made


async def test_months_go_on_over_the_turn_of_the_year() -> None:
    months = partitions.months_from(date(2026, 11, 30), 3)
    assert months == [date(2026, 11, 1), date(2026, 12, 1), date(2027, 1, 1), date(2027, 2, 1)]


async def test_opens_of_a_month_that_nobody_prepared_are_kept_and_get_a_partition(
    put_opens: PutOpens, ingest: Pool, serve: Pool, database: Database
) -> None:
    old, far = datetime(2019, 2, 28, 23, 59, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)
    await put_opens(an_open(old, number=1), an_open(NOON, number=2), an_open(far, number=3))
    assert await numbers(serve, Filter()) == [1, 2, 3]
    await partitions.look_once(ingest, date(2026, 11, 23))
    async with ingest.transaction() as conn:
        assert await arrivals.months_outside(conn) == []
    assert await numbers(serve, Filter()) == [1, 2, 3]
    with psycopg.connect(database.admin_url) as conn:
        rows = conn.execute(
            "select relname, relrowsecurity and relforcerowsecurity from pg_class "
            "where relname in ('opens_2019_02', 'opens_2031_01')"
        ).fetchall()
    assert sorted(rows) == [("opens_2019_02", True), ("opens_2031_01", True)]
    await put_opens(an_open(old + timedelta(seconds=1), number=4))
    assert await numbers(serve, Filter(end=NOON)) == [1, 4]


async def test_opens_of_years_that_get_no_partition_keep_no_other_month_waiting(
    put_opens: PutOpens, ingest: Pool, serve: Pool
) -> None:
    moments = [datetime(year, 2, 3, tzinfo=UTC) for year in (1986, 2031, 2426)]
    await put_opens(*(an_open(moment, number=number) for number, moment in enumerate(moments)))
    for _ in range(2):
        await partitions.look_once(ingest, date(2026, 11, 23))
    async with ingest.transaction() as conn:
        assert await arrivals.months_outside(conn) == [date(1986, 2, 1), date(2426, 2, 1)]
    # They are found all the same.
    assert await numbers(serve, Filter()) == [0, 1, 2]


async def test_two_processes_make_a_partition_once(ingest: Pool) -> None:
    async def make() -> bool:
        async with ingest.transaction() as conn:
            return await arrivals.make_partition(conn, date(2033, 5, 17))

    assert sorted(await asyncio.gather(make(), make(), make())) == [False, False, True]


async def test_opens_are_seen_while_they_move_into_the_partition_of_their_month(
    put_opens: PutOpens, ingest: Pool, serve: Pool
) -> None:
    """A reader that came meanwhile did not see them: it had read the list of partitions before it waited."""
    await put_opens(an_open(datetime(2031, 2, 3, tzinfo=UTC), number=1))
    async with ingest.transaction() as conn:
        assert await arrivals.make_partition(conn, date(2031, 2, 1))
        reading = asyncio.create_task(numbers(serve, Filter()))
        # Long enough for the reader to come to its lock.
        await asyncio.sleep(0.5)
    assert await reading == [1]


@pytest.mark.parametrize("day", [date(1999, 12, 31), date(2200, 1, 1)], ids=str)
async def test_a_partition_of_another_century_is_refused(ingest: Pool, day: date) -> None:
    with pytest.raises(psycopg.errors.RaiseException):
        async with ingest.transaction() as conn:
            await arrivals.make_partition(conn, day)
