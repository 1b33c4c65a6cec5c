"""What callers of the service get, through the real stub, frame, database and auth."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import grpc
import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opennotice.enrichment.v1 import events_pb2 as enrichment_pb2
from opennotice.link.v1 import link_pb2
from opennotice.reporting.v1 import reporting_pb2
from opennotice.tracking.v1 import events_pb2 as tracking_pb2

from services.chassis.clock import to_proto
from services.chassis.errors import ServiceError, from_rpc_error
from services.chassis.names import new_id
from tests.cast import ALICE, BOB, CHARLIE, DANA, OTHER_COURT, Person
from tests.fix_postgres import Database
from tests.reporting.conftest import PutEntries, PutOpens, Reporting
from tests.reporting.sample import NOON, a_client, a_message, a_portal, an_open, entry, id_at

MARIA = UUID("01890000-0000-7000-8000-0000000000c1")
OTHER_CLIENT = UUID("01890000-0000-7000-8000-0000000000c2")
HEARINGS = UUID("01890000-0000-7000-8000-0000000000d1")
MESSAGE = UUID("01890000-0000-7000-8000-0000000000e3")
EMPTY = reporting_pb2.OpenFilter()


async def refusal(call: Any) -> ServiceError:
    """Returns the error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    return from_rpc_error(caught.value)


def later(seconds: float) -> Timestamp:
    """Returns a time after noon."""
    stamp = to_proto(NOON + timedelta(seconds=seconds))
    assert stamp is not None
    return stamp


async def test_an_open_is_listed_and_told_in_full(
    reporting: Reporting, put_opens: PutOpens, put_entries: PutEntries
) -> None:
    item = an_open(number=1, client_id=MARIA, portal_id=HEARINGS, message_id=MESSAGE)
    await put_opens(item)
    await put_entries(
        entry(1, client=a_client(MARIA, "Maria García", ref="CASE-1")), entry(1, portal=a_portal(HEARINGS, "Hearings"))
    )
    (listed,) = (await reporting.page()).opens
    seen = item.open
    assert listed == reporting_pb2.Open(
        name=f"opens/{seen.open_id}",
        open_time=seen.open_time,
        client=f"clients/{MARIA}",
        client_display_name="Maria García",
        client_ref="CASE-1",
        portal=f"portals/{HEARINGS}",
        portal_display_name="Hearings",
        page="hearing",
        kind=tracking_pb2.OPEN_KIND_PORTAL,
        device=enrichment_pb2.DEVICE_MOBILE,
        browser="Mobile Safari 17.5",
        os="iOS 17.5.1",
        ip_address="203.0.113.7",
        network="Comcast Cable Communications, LLC",
        asn=7922,
        country="US",
        region="New Jersey",
        city="Trenton",
        link_state=link_pb2.LINK_STATE_ACTIVE,
        verdict=enrichment_pb2.VERDICT_UNCONFIRMED,
        reasons=["no_evidence"],
        language="es-MX",
        message=f"messages/{MESSAGE}",
        link=f"links/{seen.link_id}",
        user_agent=seen.user_agent,
    )
    full = await reporting.stub.GetOpen(reporting_pb2.GetOpenRequest(name=listed.name), metadata=reporting.as_(DANA))
    detail = full.detail
    assert [(reason.code, reason.sentence) for reason in detail.reasons] == [
        ("no_evidence", "The page gave no sign either way.")
    ]
    assert (detail.method, detail.status, detail.accept_language) == ("GET", 200, "es-MX,es;q=0.9")
    assert [(header.name, header.value) for header in detail.headers] == [("sec-fetch-mode", "navigate")]
    assert (detail.rule_pack, list(detail.data_sets)) == ("2026.11", ["dbip-city 2026-06-05"])
    assert detail.enrich_time == item.enrich_time
    assert detail.HasField("arrive_time")
    full.ClearField("detail")
    assert full == listed


@pytest.mark.parametrize(("seconds", "is_told"), [(-60, True), (60, False)], ids=["before", "after"])
async def test_an_open_of_a_link_that_had_been_revoked_says_so_beside_how_it_was_served(
    reporting: Reporting, put_opens: PutOpens, put_entries: PutEntries, seconds: int, is_told: bool
) -> None:
    # As when the public page could not be told: its copy said active, and the visitor was served.
    item = an_open(number=1, portal_id=new_id())
    link = link_pb2.Link(name=f"links/{item.open.link_id}", portal=f"portals/{item.open.portal_id}")
    link.revoke_time.FromDatetime(NOON + timedelta(seconds=seconds))
    await put_opens(item)
    await put_entries(entry(1, link=link))
    name = f"opens/{item.open.open_id}"
    full = await reporting.stub.GetOpen(reporting_pb2.GetOpenRequest(name=name), metadata=reporting.as_(DANA))
    assert full.link_state == link_pb2.LINK_STATE_ACTIVE
    assert full.detail.HasField("revoke_time") is is_told
    if is_told:
        assert full.detail.revoke_time == link.revoke_time


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("opens/9223372036854775808", id="A07 2^63"),
        pytest.param("opens/-1", id="A07 negative"),
        pytest.param(f"opens/{str(id_at(NOON, 1)).upper()}", id="A07 another spelling"),
        pytest.param(f"opens/{id_at(NOON, 2)}", id="A07 never there"),
        pytest.param(f"opens/{UUID(int=(2**48 - 1 << 80) | (7 << 76) | (2 << 62))}", id="A07 the year 10889"),
        pytest.param(f"clients/{id_at(NOON, 1)}", id="A07 another collection"),
        pytest.param("", id="A07 empty"),
        pytest.param("opens/" + "x" * 10_000, id="A07 10 KB"),
    ],
)
async def test_an_open_that_is_not_there_is_not_found(reporting: Reporting, put_opens: PutOpens, name: str) -> None:
    await put_opens(an_open(number=1))
    error = await refusal(reporting.stub.GetOpen(reporting_pb2.GetOpenRequest(name=name), metadata=reporting.as_(DANA)))
    assert (error.code, error.reason) == (grpc.StatusCode.NOT_FOUND, "OPEN_UNKNOWN")


async def test_ids_of_another_agency_are_unknown(
    reporting: Reporting, put_opens: PutOpens, put_entries: PutEntries
) -> None:
    # G12, A07: exactly as if there were none.
    await put_opens(an_open(number=1, agency_id=OTHER_COURT, client_id=OTHER_CLIENT))
    await put_entries(entry(1, agency_id=OTHER_COURT, client=a_client(OTHER_CLIENT, "Other")))
    stub, dana = reporting.stub, reporting.as_(DANA)
    name = f"opens/{id_at(NOON, 1)}"
    error = await refusal(stub.GetOpen(reporting_pb2.GetOpenRequest(name=name), metadata=dana))
    assert error.reason == "OPEN_UNKNOWN"
    request = reporting_pb2.GetClientTimelineRequest(client=f"clients/{OTHER_CLIENT}")
    assert (await refusal(stub.GetClientTimeline(request, metadata=dana))).reason == "CLIENT_UNKNOWN"
    assert await reporting.list(client=f"clients/{OTHER_CLIENT}") == []
    assert await reporting.list() == []
    assert [len(part.opens) for part in await reporting.export()] in ([], [0])
    assert await reporting.list(CHARLIE) == [name]


WRONG_FILTERS = [
    pytest.param({"client": f"clients/{str(MARIA).upper()}"}, ["filter.client"], id="A07 client in upper case"),
    pytest.param({"client": "x" * 201}, ["filter.client"], id="A03 201 characters"),
    pytest.param({"client": "a\0"}, ["filter.client"], id="A03 NUL"),
    pytest.param({"portal": "Hearings"}, ["filter.portal"], id="portal by name"),
    pytest.param({"link": "links/1"}, ["filter.link"], id="link by number"),
    pytest.param({"message": f"links/{MARIA}"}, ["filter.message"], id="message of another collection"),
    pytest.param({"devices": [9]}, ["filter.devices"], id="G10 unknown device"),
    pytest.param({"devices": [0]}, ["filter.devices"], id="G10 device not given"),
    pytest.param({"kinds": [-1]}, ["filter.kinds"], id="G10 negative kind"),
    pytest.param({"link_states": [1, 99]}, ["filter.link_states"], id="G10 one of two states unknown"),
    pytest.param({"verdicts": [2**31 - 1]}, ["filter.verdicts"], id="G10 largest verdict"),
    pytest.param({"network": "AS4294967296"}, ["filter.network"], id="AS number of 33 bits"),
    pytest.param({"ip": "203.0.113.7/24"}, ["filter.ip"], id="host bits set"),
    pytest.param({"ip": "fe80::1%eth0"}, ["filter.ip"], id="IPv6 zone"),
    pytest.param({"start_time": later(1), "end_time": later(0)}, ["filter.end_time"], id="A04 G11 from after to"),
    pytest.param({"start_time": Timestamp(seconds=-62_167_219_200)}, ["filter.start_time"], id="A04 year 0"),
    pytest.param({"end_time": Timestamp(seconds=3_093_527_980_800)}, ["filter.end_time"], id="A04 year 99999"),
    pytest.param({"end_time": Timestamp(seconds=2**63 - 1)}, ["filter.end_time"], id="G10 largest time"),
    pytest.param({"start_time": Timestamp(seconds=1, nanos=-1)}, ["filter.start_time"], id="G10 negative nanos"),
    pytest.param({"start_time": Timestamp(nanos=1_000_000_000)}, ["filter.start_time"], id="G10 a second of nanos"),
    pytest.param(
        {"ip": "x", "devices": [9], "portal": "x"}, ["filter.devices", "filter.ip", "filter.portal"], id="three at once"
    ),
]


@pytest.mark.parametrize(("wrong", "fields"), WRONG_FILTERS)
async def test_a_wrong_filter_is_one_clear_error_naming_each_field(
    reporting: Reporting, wrong: dict[str, Any], fields: list[str]
) -> None:
    found = reporting_pb2.OpenFilter(**wrong)
    stub, dana = reporting.stub, reporting.as_(DANA)
    for call in (
        stub.ListOpens(reporting_pb2.ListOpensRequest(filter=found), metadata=dana),
        stub.SummarizeOpens(
            reporting_pb2.SummarizeOpensRequest(filter=found, key=reporting_pb2.SUMMARY_KEY_DAY), metadata=dana
        ),
        stub.ExportOpens(reporting_pb2.ExportOpensRequest(filter=found), metadata=dana),
        stub.WatchOpens(reporting_pb2.WatchOpensRequest(filter=found), metadata=dana),
    ):
        error = await refusal(call)
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "FIELDS_INVALID")
        assert sorted(field for field, _ in error.fields) == fields


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        pytest.param(0, 50, id="G09 0 is 50"),
        pytest.param(7, 7, id="7"),
        pytest.param(201, 200, id="A05 G09 above 200 is 200"),
        pytest.param(2**31 - 1, 200, id="G09 2^31-1 is 200"),
    ],
)
async def test_a_page_has_the_size_asked_for(
    reporting: Reporting, put_opens: PutOpens, size: int, expected: int
) -> None:
    await put_opens(*(an_open(number=number) for number in range(205)))
    assert len(await reporting.list(page_size=size)) == expected


async def test_a_negative_page_size_is_refused(reporting: Reporting) -> None:
    # A05, G09
    error = await refusal(reporting.page(page_size=-1))
    assert [field for field, _ in error.fields] == ["page_size"]


async def test_pages_hold_everything_once_and_the_last_has_no_token(reporting: Reporting, put_opens: PutOpens) -> None:
    await put_opens(*(an_open(NOON - timedelta(days=number), number=number) for number in range(95)))
    seen, token, pages = [], "", 0
    while pages == 0 or token:
        page = await reporting.page(page_size=19, page_token=token)
        seen += [found.name for found in page.opens]
        token, pages = page.next_page_token, pages + 1
    assert seen == [f"opens/{id_at(NOON - timedelta(days=number), number)}" for number in range(95)]
    assert pages == 5


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda token: token[:-2] + "A=", id="A05 G09 altered"),
        pytest.param(lambda token: "next", id="A05 text"),
        pytest.param(lambda token: "x" * 10_000, id="A05 10 KB"),
        pytest.param(lambda token: "ü", id="A05 not ASCII"),
    ],
)
async def test_a_forged_page_token_is_refused(reporting: Reporting, put_opens: PutOpens, spoil: Any) -> None:
    await put_opens(*(an_open(number=number) for number in range(3)))
    token = (await reporting.page(page_size=1)).next_page_token
    error = await refusal(reporting.page(page_size=1, page_token=spoil(token)))
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "PAGE_TOKEN_INVALID")


async def test_a_page_token_belongs_to_its_query_and_agency(reporting: Reporting, put_opens: PutOpens) -> None:
    # G09, A05
    await put_opens(*(an_open(number=number) for number in range(3)))
    token = (await reporting.page(page_size=1)).next_page_token
    assert len((await reporting.page(page_size=2, page_token=token)).opens) == 2, "the size may change"
    for call in (
        reporting.page(page_token=token, client="maria"),
        reporting.page(CHARLIE, page_token=token),
        reporting.stub.ExportOpens(reporting_pb2.ExportOpensRequest(resume_token=token), metadata=reporting.as_(DANA)),
    ):
        assert (await refusal(call)).reason == "PAGE_TOKEN_INVALID"


async def test_a_clerk_sees_own_clients_and_no_others(
    reporting: Reporting, put_opens: PutOpens, put_entries: PutEntries
) -> None:
    await put_opens(an_open(number=1, client_id=MARIA), an_open(number=2, client_id=OTHER_CLIENT), an_open(number=3))
    await put_entries(
        entry(1, client=a_client(MARIA, "Maria", officer=ALICE.name)),
        entry(2, client=a_client(OTHER_CLIENT, "Someone", officer=BOB.name)),
    )
    own, others = f"opens/{id_at(NOON, 1)}", f"opens/{id_at(NOON, 2)}"
    stub, alice = reporting.stub, reporting.as_(ALICE)
    assert await reporting.list(ALICE) == [own]
    assert await reporting.list(ALICE, client="someone") == []
    assert (await stub.GetOpen(reporting_pb2.GetOpenRequest(name=own), metadata=alice)).name == own
    error = await refusal(stub.GetOpen(reporting_pb2.GetOpenRequest(name=others), metadata=alice))
    assert error.reason == "OPEN_UNKNOWN"
    summary = await stub.SummarizeOpens(
        reporting_pb2.SummarizeOpensRequest(key=reporting_pb2.SUMMARY_KEY_DEVICE), metadata=alice
    )
    assert summary.total == 1
    request = reporting_pb2.GetClientTimelineRequest(client=f"clients/{OTHER_CLIENT}")
    assert (await refusal(stub.GetClientTimeline(request, metadata=alice))).reason == "CLIENT_UNKNOWN"
    # The client goes to another officer: gone at once.
    await put_entries(entry(3, client=a_client(MARIA, "Maria", officer=BOB.name)))
    assert await reporting.list(ALICE) == []


@pytest.mark.parametrize("who", [ALICE, BOB], ids=lambda who: who.role)
async def test_who_may_not_export_gets_no_row(reporting: Reporting, put_opens: PutOpens, who: Person) -> None:
    await put_opens(an_open(number=1))
    error = await refusal(reporting.stub.ExportOpens(reporting_pb2.ExportOpensRequest(), metadata=reporting.as_(who)))
    assert error.code is grpc.StatusCode.PERMISSION_DENIED


async def test_nobody_gets_nothing(reporting: Reporting) -> None:
    # G01
    stub = reporting.stub
    for call in (
        stub.ListOpens(reporting_pb2.ListOpensRequest()),
        stub.GetOpen(reporting_pb2.GetOpenRequest()),
        stub.ExportOpens(reporting_pb2.ExportOpensRequest()),
        stub.WatchOpens(reporting_pb2.WatchOpensRequest()),
        stub.SummarizeOpens(reporting_pb2.SummarizeOpensRequest()),
        stub.GetClientTimeline(reporting_pb2.GetClientTimelineRequest()),
        stub.ListOpens(reporting_pb2.ListOpensRequest(), metadata=(("authorization", "Bearer onk_unknown"),)),
    ):
        assert (await refusal(call)).code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_message_of_5_mebibytes_is_refused(reporting: Reporting) -> None:
    # G04
    error = await refusal(reporting.page(client="x" * 5 * 1024 * 1024))
    assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        pytest.param({"key": 0}, ["key"], id="G10 key not given"),
        pytest.param({"key": 77}, ["key"], id="G10 unknown key"),
        pytest.param({"key": 1, "time_zone": "Mars/Olympus"}, ["time_zone"], id="A20 unknown zone"),
        pytest.param({"key": 1, "time_zone": "UTC+3"}, ["time_zone"], id="A20 a zone PostgreSQL would take"),
        pytest.param({"key": 1, "time_zone": "../etc/passwd"}, ["time_zone"], id="A20 a path"),
        pytest.param(
            {"key": 1, "filter": reporting_pb2.OpenFilter(start_time=later(0), end_time=later(367 * 86_400))},
            ["filter.end_time"],
            id="G11 A04 above 366 days",
        ),
    ],
)
async def test_a_wrong_summary_is_one_clear_error(
    reporting: Reporting, request_: dict[str, Any], fields: list[str]
) -> None:
    request = reporting_pb2.SummarizeOpensRequest(**request_)
    error = await refusal(reporting.stub.SummarizeOpens(request, metadata=reporting.as_(DANA)))
    assert [field for field, _ in error.fields] == fields


async def test_a_summary_counts_in_words(reporting: Reporting, put_opens: PutOpens, put_entries: PutEntries) -> None:
    await put_entries(entry(1, portal=a_portal(HEARINGS, "Hearings")))
    await put_opens(
        an_open(NOON - timedelta(days=1), portal_id=HEARINGS),
        an_open(NOON, portal_id=HEARINGS, verdict=1),
        an_open(NOON, portal_id=HEARINGS, device=3),
    )

    async def groups(key: int) -> list[tuple[str, str, int]]:
        request = reporting_pb2.SummarizeOpensRequest(key=key)  # type: ignore[arg-type]
        summary = await reporting.stub.SummarizeOpens(request, metadata=reporting.as_(DANA))
        assert summary.total == 3
        return [(group.value, group.display_name, group.count) for group in summary.groups]

    assert await groups(1) == [("2026-11-22", "", 1), ("2026-11-23", "", 2)]
    assert await groups(2) == [(f"portals/{HEARINGS}", "Hearings", 3)]
    assert await groups(3) == [("mobile", "", 2), ("desktop", "", 1)]
    assert await groups(4) == [("unconfirmed", "", 2), ("person_confirmed", "", 1)]


async def test_a_timeline_tells_messages_deliveries_and_opens_newest_first(
    reporting: Reporting, put_opens: PutOpens, put_entries: PutEntries
) -> None:
    message = a_message(
        MESSAGE,
        MARIA,
        deliveries=[
            link_pb2.Delivery(status=link_pb2.DELIVERY_STATUS_SENT, event_time=later(0)),
            link_pb2.Delivery(status=link_pb2.DELIVERY_STATUS_DELIVERED, event_time=later(5)),
        ],
    )
    draft = a_message(new_id(), MARIA, send_time=None, create_time=later(-60))
    await put_entries(
        entry(1, client=a_client(MARIA, "Maria", ref="CASE-1")),
        entry(2, message=message),
        entry(3, message=draft),
        entry(4, message=a_message(new_id(), OTHER_CLIENT)),
    )
    await put_opens(
        an_open(NOON + timedelta(seconds=60), number=1, client_id=MARIA),
        an_open(NOON + timedelta(days=40), number=2, client_id=MARIA, open_link_state=link_pb2.LINK_STATE_EXPIRED),
        an_open(number=3, client_id=OTHER_CLIENT),
    )
    told, token = [], ""
    while True:
        request = reporting_pb2.GetClientTimelineRequest(client=f"clients/{MARIA}", page_size=2, page_token=token)
        page = await reporting.stub.GetClientTimeline(request, metadata=reporting.as_(DANA))
        told += page.entries
        token = page.next_page_token
        if not token:
            break
    assert [found.WhichOneof("entry") for found in told] == [
        "open",
        "open",
        "delivery",
        "delivery",
        "message",
        "message",
    ]
    assert [found.time for found in told] == [later(40 * 86_400), later(60), later(5), later(0), later(0), later(-60)]
    assert told[0].open.link_state == link_pb2.LINK_STATE_EXPIRED
    assert (told[1].open.client_display_name, told[1].open.client_ref) == ("Maria", "CASE-1")
    assert [found.delivery.status for found in told[2:4]] == [3, 2]
    assert told[4].message == message


@pytest.mark.parametrize(
    ("held", "needs"),
    [
        pytest.param({"clients:read", "opens:read"}, "messages:read", id="no messages"),
        pytest.param({"clients:read", "messages:read"}, "opens:read", id="no opens"),
    ],
)
async def test_a_timeline_tells_nothing_that_its_reader_may_not_read_elsewhere(
    reporting: Reporting, put_entries: PutEntries, held: set[str], needs: str
) -> None:
    await put_entries(entry(1, client=a_client(MARIA, "Maria")))
    key = replace(DANA, permissions=frozenset(held))
    request = reporting_pb2.GetClientTimelineRequest(client=f"clients/{MARIA}")
    error = await refusal(reporting.stub.GetClientTimeline(request, metadata=reporting.as_(key)))
    assert (error.reason, error.metadata["needs"]) == ("PERMISSION_MISSING", needs)


async def test_a_timeline_goes_on_exactly_among_entries_of_one_instant(
    reporting: Reporting, put_opens: PutOpens, put_entries: PutEntries
) -> None:
    await put_entries(
        entry(1, client=a_client(MARIA, "Maria")),
        *(entry(revision, message=a_message(new_id(), MARIA)) for revision in range(2, 9)),
    )
    await put_opens(*(an_open(number=number, client_id=MARIA) for number in range(7)))
    seen: list[str] = []
    token = ""
    while True:
        request = reporting_pb2.GetClientTimelineRequest(client=f"clients/{MARIA}", page_size=3, page_token=token)
        page = await reporting.stub.GetClientTimeline(request, metadata=reporting.as_(DANA))
        seen += [found.open.name or found.message.name for found in page.entries]
        token = page.next_page_token
        if not token:
            break
    assert len(seen) == len(set(seen)) == 14


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
async def test_whatever_is_searched_for_is_found_or_refused_and_never_breaks(
    reporting: Reporting, data: st.DataObject
) -> None:
    text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
    stamp = st.builds(Timestamp, seconds=st.integers(-(2**63), 2**63 - 1), nanos=st.integers(-(2**31), 2**31 - 1))
    numbers = st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3)
    found = data.draw(
        st.builds(
            reporting_pb2.OpenFilter,
            client=text,
            portal=text,
            network=text,
            ip=text | st.ip_addresses().map(str),
            link=text,
            message=text,
            devices=numbers,
            verdicts=numbers,
            start_time=st.none() | stamp,
            end_time=st.none() | stamp,
        )
        | st.builds(reporting_pb2.OpenFilter, client=text, network=text, ip=st.just("") | st.ip_addresses().map(str))
    )
    request = reporting_pb2.ListOpensRequest(filter=found, page_token=data.draw(st.just("") | text))
    call = reporting.stub.ListOpens(request, metadata=reporting.as_(DANA))
    assert await call.code() in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT), await call.details()


async def test_the_explanation_of_before_stays_in_the_history(database: Database) -> None:
    # The table is reached by no rpc yet; it must not be changed by the role that writes it.
    with psycopg.connect(database.url("reporting", "ingest"), autocommit=True) as conn:
        for statement in ("delete from reporting.verdicts", "update reporting.verdicts set verdict = 1"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement.encode())
        for statement in ("delete from reporting.opens", "truncate reporting.opens"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(statement.encode())


async def test_a_database_that_is_away_is_said_so(reporting: Reporting, database: Database) -> None:
    with psycopg.connect(database.admin_url, autocommit=True) as conn:
        conn.execute("alter role reporting_serve nologin")
        try:
            conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'reporting_serve'")
            error = await refusal(reporting.page())
        finally:
            conn.execute("alter role reporting_serve login")
    assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_AWAY")
    async with asyncio.timeout(20):
        while True:
            try:
                await reporting.page()
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)
