"""Packs in, packs out, on real PostgreSQL and NATS."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from nats.errors import Error as NatsError
from opennotice.auth.v1 import auth_pb2, auth_pb2_grpc
from opennotice.auth.v1 import events_pb2 as auth_events_pb2
from opennotice.enrichment.v1 import events_pb2
from opennotice.tracking.v1 import events_pb2 as tracking_events_pb2

from services.auth import __main__ as auth
from services.chassis.bus import Outgoing, subject_for
from services.chassis.errors import Unavailable
from services.chassis.names import new_id, parse_name
from services.chassis.serve import CLIENT_OPTIONS, Process
from services.chassis.settings import Address
from services.enrichment.events import _MISSING
from services.enrichment.explain import explain
from tests.auth.conftest import auth_settings
from tests.cast import FIRST_COURT, OTHER_COURT
from tests.enrichment import ip_data
from tests.enrichment.conftest import Outside, Start, opened, packed, until
from tests.fix_postgres import Database
from tests.fix_rpc import Keyring, free_address

SUBJECT = subject_for(tracking_events_pb2.OpensRecorded.DESCRIPTOR)
DEAD = "select consumer, subject, message_type, payload, error from enrichment.dead_letters order by id"


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gives a folder of IP data."""
    return ip_data.write_all(tmp_path_factory.mktemp("ip-data"))


def agency_changed(agency_id: object, networks: list[str], revision: int) -> auth_events_pb2.AgencyChanged:
    """Returns what auth publishes when an agency changes its networks."""
    agency = auth_pb2.Agency(name=f"agencies/{agency_id}", staff_networks=networks, revision=revision)
    return auth_events_pb2.AgencyChanged(event_id=str(new_id()), agency=agency)


async def test_a_pack_comes_out_explained_open_by_open(outside: Outside, start: Start, data: Path) -> None:
    await start(ip_data_dir=data)
    pack = packed(
        opened(),
        opened(method="HEAD", ip_address="192.168.1.1"),
        opened(user_agent="curl/8.5.0", kind=tracking_events_pb2.OPEN_KIND_REDIRECT),
        opened(user_agent="", headers=[tracking_events_pb2.Header(name="purpose", value="prefetch")]),
    )
    person, head, program, prefetch = await outside.answered(pack)
    assert [one.open for one in (person, head, program, prefetch)] == list(pack.opens)
    assert (person.device, person.browser, person.browser_version) == (
        events_pb2.DEVICE_MOBILE,
        "Mobile Safari",
        "17.5",
    )
    assert (person.os, person.os_version, person.language) == ("iOS", "17.5.1", "es-MX")
    assert (person.asn, person.network) == (7922, "Comcast Xfinity")
    assert (person.country, person.region, person.city) == ("US", "California", "San Jose")
    assert person.network_status == events_pb2.NETWORK_STATUS_FOUND
    assert person.verdict == events_pb2.VERDICT_UNCONFIRMED
    assert [reason.code for reason in person.reasons] == ["no_evidence"]
    assert {"ip-location-db asn 2026-05-28", "dbip-city 2026-05-28"} <= set(person.data_sets)
    assert person.rule_pack
    assert person.HasField("enrich_time")
    assert head.verdict == events_pb2.VERDICT_MACHINE_CERTAIN
    assert head.network_status == events_pb2.NETWORK_STATUS_NOT_PUBLIC
    assert [reason.code for reason in program.reasons] == ["ua_library"]
    assert [reason.code for reason in prefetch.reasons] == ["purpose_prefetch", "ua_empty"]
    assert await outside.rows("select 1 from enrichment.waiting_packs") == []


async def test_the_mailboxes_machine_is_not_shown_as_the_persons_device(outside: Outside, start: Start) -> None:
    await start()
    agent = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)"
    (one,) = await outside.answered(packed(opened(kind=tracking_events_pb2.OPEN_KIND_EMAIL, user_agent=agent)))
    assert (one.device, one.os) == (events_pb2.DEVICE_OTHER, "")
    assert one.verdict == events_pb2.VERDICT_UNCONFIRMED
    assert [reason.code for reason in one.reasons] == ["mailbox_proxy"]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"open_id": "not a uuid"}, id="open_id"),
        pytest.param({"open_id": ""}, id="no open_id"),
        pytest.param({"agency_id": "x'; drop table"}, id="agency_id"),
        pytest.param({"kind": 99}, id="kind of a newer version"),
        pytest.param({"open_time": None}, id="no time"),
        pytest.param({"open_time": {"seconds": 253_402_300_800}}, id="year 10000"),
        pytest.param({"open_time": {"seconds": -1}}, id="before 1970"),
    ],
)
async def test_a_bad_open_is_kept_apart_alone(outside: Outside, start: Start, fault: dict[str, object]) -> None:
    await start()
    good, bad, last = opened(), opened(**fault), opened()
    explained = await outside.answered(packed(good, bad, last))
    assert [one.open.open_id for one in explained] == [good.open_id, last.open_id]

    async def kept() -> bool:
        return bool(await outside.rows(DEAD))

    await until(kept)
    ((consumer, subject, kind, payload, error),) = await outside.rows(DEAD)
    assert (consumer, subject, kind) == ("enrichment-opens-recorded-v1", SUBJECT, "opennotice.tracking.v1.OpenRecorded")
    assert tracking_events_pb2.OpenRecorded.FromString(payload) == bad
    assert next(iter(fault)) in error


def stumble_over(monkeypatch: pytest.MonkeyPatch, agent: str) -> None:
    """Has enrichment stumble over an agent, as over a fault of its own that nobody knows yet."""

    def stumble(one: tracking_events_pb2.OpenRecorded, **around: Any) -> events_pb2.OpenEnriched:
        if one.user_agent == agent:
            raise ZeroDivisionError("a fault of ours")
        return explain(one, **around)

    monkeypatch.setattr("services.enrichment.events.explain", stumble)
    monkeypatch.setattr("services.chassis.consumer._RETRY_SECONDS", (0.05,) * 4)


async def test_an_open_that_cannot_be_explained_keeps_no_other_away(
    outside: Outside, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    stumble_over(monkeypatch, "stumble")
    await start()
    good, bad = opened(), opened(user_agent="stumble")
    explained = await outside.answered(packed(bad, good))
    assert [one.open.open_id for one in explained] == [good.open_id]

    async def kept() -> bool:
        return bool(await outside.rows(DEAD))

    await until(kept)
    ((_, _, kind, payload, error),) = await outside.rows(DEAD)
    assert (kind, payload) == ("opennotice.tracking.v1.OpenRecorded", bad.SerializeToString())
    assert "a fault of ours" in error


async def test_a_pack_of_which_nothing_can_be_explained_is_set_aside_whole(
    outside: Outside, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    stumble_over(monkeypatch, "stumble")
    await start()
    pack = packed(opened(user_agent="stumble"), opened(user_agent="stumble"))
    await outside.send(pack)

    async def kept() -> bool:
        return bool(await outside.rows(DEAD))

    await until(kept)
    ((_, _, kind, payload, _),) = await outside.rows(DEAD)
    assert (kind, payload) == ("opennotice.tracking.v1.OpensRecorded", pack.SerializeToString())


@pytest.mark.parametrize(
    ("payload", "headers"),
    [
        pytest.param(b"\xff\xff\xff", "opennotice.tracking.v1.OpensRecorded", id="garbage"),
        pytest.param(packed(opened()).SerializeToString()[:-7], "opennotice.tracking.v1.OpensRecorded", id="truncated"),
        pytest.param(b"{}", "opennotice.tracking.v1.OpensRecorded", id="JSON"),
        pytest.param(b"", "opennotice.tracking.v1.OpensRecorded", id="nothing at all"),
        pytest.param(b"\xff" * (1024 * 1024 - 2048), "opennotice.tracking.v1.OpensRecorded", id="as large as may be"),
        pytest.param(
            packed(opened()).SerializeToString(), "opennotice.tracking.v2.OpensRecorded", id="version to come"
        ),
        pytest.param(packed(opened()).SerializeToString(), "opennotice.link.v1.LinkChanged", id="unknown type"),
    ],
)
async def test_what_cannot_be_read_is_kept_and_holds_nobody_up(
    outside: Outside, start: Start, payload: bytes, headers: str
) -> None:
    await start()
    await outside.bus.send(Outgoing(SUBJECT, headers, str(new_id()), payload))
    assert len(await outside.answered(packed(opened()))) == 1

    async def kept() -> bool:
        return [row[3] for row in await outside.rows(DEAD)] == [payload]

    await until(kept)


async def test_what_is_larger_than_an_event_may_be_is_refused_where_it_is_sent(
    outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.chassis.bus._PUBLISH_SECONDS", 0.5)
    with pytest.raises(NatsError):
        await outside.bus.send(Outgoing(SUBJECT, "opennotice.tracking.v1.OpensRecorded", "x", b"x" * 1024 * 1024))


async def test_fields_of_a_later_version_go_on_to_those_who_know_them(outside: Outside, start: Start) -> None:
    await start()
    # Field 99, a text, as a newer tracking may send it while enrichment is not upgraded yet.
    later = b"\x9a\x06\x05later"
    pack = packed(opened())
    pack.opens[0].MergeFromString(later)
    assert await outside.answered(pack)
    assert later in outside.of(pack.batch_id)[0].opens[0].open.SerializeToString()


async def test_the_canary_goes_on_as_it_came(outside: Outside, start: Start) -> None:
    await start()
    canary = packed()
    canary.canary_time.FromMilliseconds(1_795_000_000_123)
    await outside.send(canary)
    await until(lambda: outside.of(canary.batch_id))
    (passed,) = outside.of(canary.batch_id)
    assert passed.canary_time == canary.canary_time
    assert not passed.opens


async def test_an_empty_pack_is_taken_and_nothing_comes_of_it(outside: Outside, start: Start) -> None:
    """No opens are no fault."""
    await start()
    empty = packed()
    await outside.send(empty)
    await outside.answered(packed(opened()))
    assert outside.of(empty.batch_id) == []


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("Nats-Msg-Id: {batch_id}", id="twice the same"),
        pytest.param("", id="none"),
        pytest.param("Nats-Msg-Id:", id="an empty one"),
        pytest.param("Nats-Msg-Id: " + "x" * 10_240, id="one of 10 KB"),
        pytest.param("Nats-Msg-Id: a\nb: c", id="one with a line feed"),
        pytest.param("Nats-Msg-Id: 1\r\nNats-Msg-Id: 2", id="two"),
        pytest.param("Nats-Msg-Id: Ñandú", id="one in letters beyond ASCII"),
    ],
)
async def test_the_id_in_the_pack_decides(outside: Outside, start: Start, header: str) -> None:
    await start()
    pack = packed(opened())
    await outside.answered(pack)
    # Byte for byte, because our own client would put the header right.
    lines = f"NATS/1.0\r\n{header.format(batch_id=pack.batch_id)}\r\n\r\n".encode()
    payload = pack.SerializeToString()
    command = f"HPUB {SUBJECT} {len(lines)} {len(lines) + len(payload)}\r\n".encode()
    await outside.bus.client._send_command(command + lines + payload + b"\r\n")
    # The next one is behind it in the stream, so when it is out, the second was taken.
    await outside.answered(packed(opened()))
    assert len(outside.of(pack.batch_id)) == 1
    assert await outside.rows(DEAD) == []


async def test_a_pack_that_comes_again_and_again_goes_out_once(outside: Outside, start: Start) -> None:
    """Other ids of the message, the same pack; NATS keeps one by the batch_id."""
    await start()
    pack = packed(opened())
    for number in range(30):
        await outside.send(pack, f"{pack.batch_id}-{number}")
    await outside.answered(packed(opened()))
    assert len(outside.of(pack.batch_id)) == 1


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has everybody look after their streams and places often."""
    monkeypatch.setattr("services.chassis.bus._LOOK_SECONDS", 0.2)
    monkeypatch.setattr("services.chassis.consumer._LINGER_SECONDS", 0.3)


async def test_streams_that_are_deleted_while_it_runs_are_made_anew_and_read_from_the_beginning(
    often: None, outside: Outside, start: Start
) -> None:
    await start()
    before = [packed(opened()) for _ in range(3)]
    for pack in before:
        await outside.answered(pack)
    js = outside.bus.js
    await js.delete_stream("TRACKING")
    await js.delete_stream("ENRICHMENT")
    again = packed(opened())
    # As the relay of tracking does: what nobody acknowledges is sent again.
    while True:
        try:
            await outside.send(again)
            break
        except (NatsError, Unavailable):
            await asyncio.sleep(0.1)

    async def explained() -> bool:
        state = (await js.stream_info("ENRICHMENT")).state
        stored = [await js.get_msg("ENRICHMENT", number) for number in range(1, state.messages + 1)]
        return again.batch_id in {events_pb2.OpensEnriched.FromString(one.data or b"").batch_id for one in stored}

    async def there() -> bool:
        try:
            return await explained()
        except NatsError:
            return False

    await until(there)
    # Its number in the stream is one that another pack had before.
    assert (await js.stream_info("TRACKING")).state.last_seq <= len(before)
    assert await outside.rows(DEAD) == []


async def test_packs_that_came_while_it_was_down_are_explained(outside: Outside, start: Start) -> None:
    first, second = packed(opened()), packed(opened())
    await outside.send(first)
    await outside.send(second)
    await start()
    await until(lambda: outside.of(first.batch_id) and outside.of(second.batch_id))


async def test_a_pack_that_grows_too_large_goes_in_pieces(outside: Outside, start: Start) -> None:
    await start()
    many = packed(*[opened(user_agent="x" * 1_900, referrer="y" * 100) for _ in range(400)])
    await outside.send(many)
    await until(lambda: sum(len(pack.opens) for pack in outside.of(many.batch_id)) == 400)
    pieces = outside.of(many.batch_id)
    assert len(pieces) > 1
    assert {one.open.open_id for pack in pieces for one in pack.opens} == {one.open_id for one in many.opens}


# Data that come later.


async def test_opens_without_data_go_out_and_are_explained_again_when_the_data_come(
    outside: Outside, start: Start, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "later"
    folder.mkdir()
    await start(ip_data_dir=folder)
    pack, inside = packed(opened()), packed(opened(ip_address="10.0.0.1"))
    (before,) = await outside.answered(pack)
    (private,) = await outside.answered(inside)
    assert (before.network_status, before.asn) == (events_pb2.NETWORK_STATUS_UNAVAILABLE, 0)
    assert private.network_status == events_pb2.NETWORK_STATUS_NOT_PUBLIC
    assert len(await outside.rows("select 1 from enrichment.waiting_packs")) == 1
    # What an alarm looks at: networks and places, each for both versions of IP.
    assert _MISSING.collect()[0].samples[0].value == 4
    for file in data.iterdir():
        shutil.copyfile(file, folder / f".{file.name}")
        os.replace(folder / f".{file.name}", folder / file.name)
    await until(lambda: outside.of(pack.batch_id)[-1].opens[0].network_status == events_pb2.NETWORK_STATUS_FOUND)
    after = outside.of(pack.batch_id)[-1].opens[0]
    assert (after.open, after.network, after.city) == (before.open, "Comcast Xfinity", "San Jose")
    assert after.enrich_time.ToMilliseconds() > before.enrich_time.ToMilliseconds()

    async def forgotten() -> bool:
        return not await outside.rows("select 1 from enrichment.waiting_packs")

    await until(forgotten)
    assert len(outside.of(inside.batch_id)) == 1
    assert _MISSING.collect()[0].samples[0].value == 0


async def test_a_pack_that_cannot_be_explained_with_the_data_holds_up_no_other(
    outside: Outside, start: Start, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = await start()
    bad, good = packed(opened(user_agent="stumble")), packed(opened())
    for pack in (bad, good):
        await outside.answered(pack)
    await process._end()
    stumble_over(monkeypatch, "stumble")
    await start(ip_data_dir=data)
    await until(lambda: len(outside.of(good.batch_id)) == 2)

    async def forgotten() -> bool:
        return not await outside.rows("select 1 from enrichment.waiting_packs")

    await until(forgotten)
    assert len(outside.of(bad.batch_id)) == 1


async def test_packs_wait_for_data_also_over_a_restart(outside: Outside, start: Start, data: Path) -> None:
    process = await start()
    pack = packed(opened())
    await outside.answered(pack)
    await process._end()
    await start(ip_data_dir=data)
    await until(lambda: len(outside.of(pack.batch_id)) == 2)
    assert outside.of(pack.batch_id)[-1].opens[0].network == "Comcast Xfinity"


# The agencies' own networks.


async def test_the_agencys_own_network_is_staff_and_only_there(outside: Outside, start: Start) -> None:
    await start()
    await outside.bus.publish(agency_changed(FIRST_COURT, ["73.162.0.0/16"], 2), "a")
    await outside.bus.publish(agency_changed(OTHER_COURT, ["203.0.113.0/24"], 1), "b")
    # An older state that comes late changes nothing.
    await outside.bus.publish(agency_changed(FIRST_COURT, [], 1), "c")

    async def known() -> bool:
        return len(await outside.rows("select 1 from enrichment.agencies")) == 2

    await until(known)
    explained = await outside.answered(
        packed(opened(), opened(ip_address="8.8.8.8"), opened(agency_id=str(OTHER_COURT)))
    )
    assert [one.verdict for one in explained] == [
        events_pb2.VERDICT_STAFF, events_pb2.VERDICT_UNCONFIRMED, events_pb2.VERDICT_UNCONFIRMED,
    ]  # fmt: skip
    rows = await outside.rows("select agency_id, staff_networks, revision from enrichment.agencies order by revision")
    assert rows == [(OTHER_COURT, ["203.0.113.0/24"], 1), (FIRST_COURT, ["73.162.0.0/16"], 2)]


async def test_networks_are_known_after_a_restart_without_auth(outside: Outside, start: Start) -> None:
    process = await start()
    await outside.bus.publish(agency_changed(FIRST_COURT, ["73.162.0.0/16"], 1), "a")

    async def known() -> bool:
        return bool(await outside.rows("select 1 from enrichment.agencies"))

    await until(known)
    await process._end()
    await start()
    (one,) = await outside.answered(packed(opened()))
    assert one.verdict == events_pb2.VERDICT_STAFF


@pytest.fixture
async def auth_address(database: Database, nats_url: str, keyring: Keyring) -> AsyncIterator[Address]:
    """Gives the address of a real auth."""
    settings = auth_settings(database, nats_url, keyring, free_address())
    process = Process("auth", settings)
    await auth.wire(process)
    yield settings.grpc_bind
    await process._end()


async def test_an_agency_that_was_never_heard_of_is_asked_for(
    outside: Outside, start: Start, database: Database, auth_address: Address, keyring: Keyring
) -> None:
    async with grpc.aio.insecure_channel(str(auth_address), options=CLIENT_OPTIONS) as channel:
        stub = auth_pb2_grpc.AuthServiceStub(channel)
        request = auth_pb2.CreateAgencyRequest(
            agency=auth_pb2.Agency(display_name="First Court", time_zone="UTC"), admin_email="dana@court.example"
        )
        made = await stub.CreateAgency(request, metadata=keyring.as_process("host"))
    agency_id = parse_name("agencies", made.agency.name)
    # Not by UpdateAgency, which would tell enrichment by an event; this is what an event that was lost looks like.
    with psycopg.connect(database.admin_url, autocommit=True) as conn:
        conn.execute("update auth.agencies set staff_networks = '{73.162.0.0/16}', revision = revision + 1")
    await start(auth_address=auth_address)
    (one,) = await outside.answered(packed(opened(agency_id=str(agency_id))))
    assert one.verdict == events_pb2.VERDICT_STAFF
