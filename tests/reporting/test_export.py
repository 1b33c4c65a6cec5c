"""The export: exactly the filtered rows of one moment, written to the audit log first, stopped when nobody reads."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import grpc
import psycopg
import pytest
from opennotice.auth.v1 import auth_pb2
from opennotice.reporting.v1 import reporting_pb2, reporting_pb2_grpc

import services.reporting.__main__ as reporting_main
from services.chassis.identity import Exchanger
from services.chassis.serve import Process
from services.reporting import rpc
from services.reporting.settings import Settings
from tests.cast import CHARLIE, DANA, OTHER_COURT
from tests.fix_postgres import Database
from tests.fix_rpc import Keyring, free_address
from tests.reporting.conftest import PutEntries, PutOpens, Reporting, settings_of
from tests.reporting.sample import NOON, a_client, an_open, entry, many_opens
from tests.reporting.test_rpc import refusal

MARIA = UUID("01890000-0000-7000-8000-0000000000c1")
# Thousands of opens with such an agent do not fit into the buffers between a server and a client that does not read.
LONG = "x" * 4_000


def names(parts: Any) -> list[str]:
    """Returns the names of the opens in the parts of an export."""
    return [found.name for part in parts for found in part.opens]


def request_of(**values: Any) -> reporting_pb2.ExportOpensRequest:
    """Makes a request."""
    return reporting_pb2.ExportOpensRequest(**values)


def sessions(database: Database) -> int:
    """Returns how many connections of exports there are."""
    with psycopg.connect(database.admin_url) as conn:
        row = conn.execute(
            "select count(*) from pg_stat_activity where application_name = 'reporting export' and datname = %s",
            (database.name,),
        ).fetchone()
    assert row is not None
    return int(row[0])


async def eventually(found: Callable[[], bool]) -> None:
    """Waits until something is so."""
    async with asyncio.timeout(20):
        while not found():
            await asyncio.sleep(0.05)


async def whole_list(reporting: Reporting, **filter: Any) -> list[reporting_pb2.Open]:
    """Returns every page of a filter."""
    found: list[reporting_pb2.Open] = []
    token = ""
    while True:
        page = await reporting.page(page_size=200, page_token=token, **filter)
        found += page.opens
        token = page.next_page_token
        if not token:
            return found


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param({}, id="all"),
        pytest.param({"client": "garcía"}, id="a name"),
        pytest.param({"devices": [2]}, id="a device"),
        pytest.param({"ip": "10.0.0.0/8"}, id="nothing"),
    ],
)
async def test_an_export_is_exactly_the_list(
    reporting: Reporting, put_opens: PutOpens, put_entries: PutEntries, wanted: dict[str, Any]
) -> None:
    await put_entries(entry(1, client=a_client(MARIA, "Maria García", ref="CASE-1")))
    await put_opens(
        *(
            an_open(NOON - timedelta(hours=number), client_id=MARIA if number % 3 else None, device=number % 4 + 1)
            for number in range(1_201)
        )
    )
    parts = await reporting.export(**wanted)
    assert [found for part in parts for found in part.opens] == await whole_list(reporting, **wanted)
    assert all(0 < len(part.opens) <= 500 for part in parts)


async def test_parts_fit_into_what_clients_accept(reporting: Reporting, put_opens: PutOpens, auth_address: Any) -> None:
    # Opens with the longest agents and referrers that tracking lets through, in letters of four bytes.
    long = "𐍈" * 2_048
    await put_opens(*(an_open(number=n, open_user_agent=long, open_referrer=long) for n in range(500)))
    parts = await reporting.export()
    assert len(names(parts)) == 500
    assert max(part.ByteSize() for part in parts) < 4 * 1024 * 1024


async def test_an_export_shows_one_moment(reporting: Reporting, put_opens: PutOpens, put_entries: PutEntries) -> None:
    await put_entries(entry(1, client=a_client(MARIA, "Before")))
    await put_opens(*many_opens(8_000, client_id=MARIA, open_user_agent=LONG))
    call = reporting.stub.ExportOpens(request_of(), metadata=reporting.as_(DANA))
    parts = [await call.read()]
    await put_opens(*(an_open(NOON - timedelta(days=1, seconds=number)) for number in range(50)))
    await put_entries(entry(2, client=a_client(MARIA, "After")))
    while (part := await call.read()) is not grpc.aio.EOF:
        parts.append(part)
    assert len(names(parts)) == 8_000
    assert {found.client_display_name for part in parts for found in part.opens} == {"Before"}


async def test_a_broken_export_goes_on_after_its_last_message(reporting: Reporting, put_opens: PutOpens) -> None:
    # Many at the same millisecond: the place is an open, not a time.
    await put_opens(*(an_open(number=number) for number in range(1_700)))
    call = reporting.stub.ExportOpens(request_of(), metadata=reporting.as_(DANA))
    first = [await call.read(), await call.read()]
    call.cancel()
    again = request_of(resume_token=first[-1].resume_token)
    rest = [part async for part in reporting.stub.ExportOpens(again, metadata=reporting.as_(DANA))]
    assert names(first) + names(rest) == names(await reporting.export())
    assert len(names(rest)) == 700


async def test_an_export_ends_when_its_key_is_revoked(
    reporting: Reporting, put_opens: PutOpens, auth: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rpc._CREDENTIAL_SECONDS + Exchanger.KEEP_SECONDS <= 5, "what is promised of a revoked key"
    monkeypatch.setattr(Exchanger, "KEEP_SECONDS", 0.0)
    monkeypatch.setattr(rpc, "_CREDENTIAL_SECONDS", 0.0)
    await put_opens(*many_opens(8_000, open_user_agent=LONG))
    key = auth_pb2.ApiKey(display_name="Case system", scopes=["opens:export", "opens:read"])
    dana = reporting.as_(DANA)
    made = await auth.CreateApiKey(auth_pb2.CreateApiKeyRequest(api_key=key), metadata=dana)
    call = reporting.stub.ExportOpens(request_of(), metadata=(("authorization", f"Bearer {made.secret}"),))
    parts = [await call.read()]
    await auth.RevokeApiKey(auth_pb2.RevokeApiKeyRequest(name=made.api_key.name), metadata=dana)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while (part := await call.read()) is not grpc.aio.EOF:
            parts.append(part)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert len(names(parts)) < 8_000


@pytest.mark.parametrize(
    ("who", "values"),
    [
        pytest.param(DANA, {"filter": {"client": "maria"}}, id="G09 another filter"),
        pytest.param(CHARLIE, {}, id="G12 another agency"),
    ],
)
async def test_a_resume_token_belongs_to_its_export(
    reporting: Reporting, put_opens: PutOpens, who: Any, values: dict[str, Any]
) -> None:
    await put_opens(an_open(number=1))
    (part,) = await reporting.export()
    error = await refusal(
        reporting.stub.ExportOpens(request_of(resume_token=part.resume_token, **values), metadata=reporting.as_(who))
    )
    assert (error.reason, error.fields[0][0]) == ("PAGE_TOKEN_INVALID", "resume_token")


async def test_an_export_is_written_to_the_audit_log(
    reporting: Reporting, put_opens: PutOpens, database: Database
) -> None:
    await put_opens(an_open(number=1))
    await reporting.export(client="maria", devices=[2])
    with psycopg.connect(database.admin_url) as conn:
        lines = conn.execute("select to_jsonb(a) from auth.actions a").fetchall()
    (line,) = [line for (line,) in lines if "opens.export" in str(line)]
    for told in (DANA.name, DANA.display_name, "192.0.2.10", "maria", "DEVICE_TABLET"):
        assert told in str(line)


async def test_without_an_audit_log_no_row_leaves(
    database: Database, nats_url: str, keyring: Keyring, put_opens: PutOpens
) -> None:
    await put_opens(an_open(number=1))
    settings = Settings(
        **settings_of("reporting", database, nats_url, keyring),
        auth_address=free_address(),
        link_address=free_address(),
        directory_database_url=database.url("reporting", "directory"),
    )
    process = Process("reporting", settings)
    await reporting_main.wire(process)
    async with grpc.aio.insecure_channel(str(settings.grpc_bind)) as channel:
        stub = reporting_pb2_grpc.ReportingServiceStub(channel)
        call = stub.ExportOpens(request_of(), metadata=keyring.as_person(DANA))
        received = []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for part in call:
                received.append(part)
        assert (caught.value.code(), received) == (grpc.StatusCode.UNAVAILABLE, [])
        # What needs no line goes on.
        listed = await stub.ListOpens(reporting_pb2.ListOpensRequest(), metadata=keyring.as_person(DANA))
        assert len(listed.opens) == 1
    await process._end()
    assert sessions(database) == 0


async def test_an_export_stops_when_the_client_goes(
    reporting: Reporting, put_opens: PutOpens, database: Database
) -> None:
    # G14
    await put_opens(*many_opens(8_000, open_user_agent=LONG))
    call = reporting.stub.ExportOpens(request_of(), metadata=reporting.as_(DANA))
    await call.read()
    assert sessions(database) == 1, "the rest does not fit into the buffers on the way"
    call.cancel()
    await eventually(lambda: sessions(database) == 0)


async def test_exports_of_clients_that_never_read_do_not_stop_others(
    reporting: Reporting, put_opens: PutOpens, database: Database
) -> None:
    # A19, G14
    await put_opens(*many_opens(8_000, open_user_agent=LONG))
    lazy = [reporting.stub.ExportOpens(request_of(), metadata=reporting.as_(DANA)) for _ in range(8)]
    await asyncio.gather(*(call.read() for call in lazy))
    error = await refusal(reporting.stub.ExportOpens(request_of(), metadata=reporting.as_(DANA)))
    assert (error.code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_EXPORTS")
    assert len(await reporting.list()) == 50
    for call in lazy:
        call.cancel()
    await eventually(lambda: sessions(database) == 0)
    assert len(names(await reporting.export(ip="203.0.113.8"))) == 0


async def test_an_export_of_another_agency_is_empty(reporting: Reporting, put_opens: PutOpens) -> None:
    await put_opens(an_open(number=1, agency_id=OTHER_COURT))
    assert names(await reporting.export()) == []
    assert len(names(await reporting.export(CHARLIE))) == 1
