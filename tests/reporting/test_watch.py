"""Watching: what arrives is told at once, to those who may see it, and who missed something is told so."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import grpc
import pytest
from opennotice.auth.v1 import auth_pb2
from opennotice.enrichment.v1 import events_pb2
from opennotice.reporting.v1 import reporting_pb2

from services.chassis.bus import Bus
from services.reporting import rpc
from services.reporting.arrivals.events import ARRIVED_SUBJECT, Announcer
from services.reporting.opens import Key, key_of
from services.reporting.watch import MOST_WAITING, Watcher, Watchers
from tests.cast import ALICE, BOB, CHARLIE, DANA, FIRST_COURT, OTHER_COURT, Person
from tests.reporting.conftest import PutEntries, PutOpens, Reporting, StartReporting
from tests.reporting.sample import NOON, a_client, an_open, entry, id_at, many_opens

MARIA = UUID("01890000-0000-7000-8000-0000000000c1")


class Watch:
    """One caller who watches."""

    def __init__(self, call: Any) -> None:
        self.call = call

    @classmethod
    async def begin(cls, reporting: Reporting, who: Person = DANA, **filter: Any) -> "Watch":
        """Starts watching and returns once the first message has come, which is empty."""
        request = reporting_pb2.WatchOpensRequest(filter=reporting_pb2.OpenFilter(**filter))
        watch = cls(reporting.stub.WatchOpens(request, metadata=reporting.as_(who)))
        assert await watch.next() == reporting_pb2.WatchOpensResponse()
        return watch

    async def next(self) -> reporting_pb2.WatchOpensResponse:
        """Returns the next message."""
        async with asyncio.timeout(20):
            answer = await self.call.read()
        assert answer is not grpc.aio.EOF
        return answer  # type: ignore[no-any-return]

    async def until(self, name: str) -> list[str]:
        """Returns the names of the opens that come, up to one; a feed that only now began counts as nothing."""
        seen: list[str] = []
        while name not in seen:
            seen += [found.name for found in (await self.next()).opens]
        return seen


def name_of(number: int) -> str:
    """Returns the name of an open of the sample."""
    return f"opens/{id_at(NOON, number)}"


@pytest.fixture
async def watchers(bus: Bus) -> AsyncIterator[Watchers]:
    """Watchers that listen, without a process around them."""
    found = Watchers(bus, ARRIVED_SUBJECT)
    with found.watch(FIRST_COURT) as first:
        running = asyncio.create_task(found.run())
        # The first thing it does once it listens is to say that it did not before.
        assert await first.take(20) == ([], True)
    yield found
    running.cancel()


async def heard_everything(reporting: Reporting, publish_opens: PutOpens) -> None:
    """Returns when the process is known to pass on what arrives."""
    watch = await Watch.begin(reporting)
    await publish_opens(an_open(number=999))
    await watch.until(name_of(999))
    watch.call.cancel()


async def test_an_open_is_told_as_it_is_listed(reporting: Reporting, publish_opens: PutOpens) -> None:
    await heard_everything(reporting, publish_opens)
    watch = await Watch.begin(reporting)
    await publish_opens(an_open(number=1))
    answer = await watch.next()
    assert answer.missed is False
    assert list(answer.opens) == [found for found in (await reporting.page()).opens if found.name == name_of(1)]
    watch.call.cancel()


async def test_a_watch_tells_only_what_its_filter_means_and_nothing_twice(
    reporting: Reporting, publish_opens: PutOpens, put_entries: PutEntries
) -> None:
    await heard_everything(reporting, publish_opens)
    await put_entries(entry(1, client=a_client(MARIA, "María García")))
    tablets = await Watch.begin(reporting, devices=[events_pb2.DEVICE_TABLET])
    marias = await Watch.begin(reporting, client="GARCÍA", ip="203.0.113.0/24", network="AS7922")
    again = an_open(number=1, client_id=MARIA)
    await publish_opens(again, an_open(number=2, device=events_pb2.DEVICE_TABLET), an_open(number=3))
    await publish_opens(again, an_open(number=4, client_id=MARIA), an_open(number=5, device=events_pb2.DEVICE_TABLET))
    assert sorted(await tablets.until(name_of(5))) == [name_of(2), name_of(5)]
    assert sorted(await marias.until(name_of(4))) == [name_of(1), name_of(4)]
    tablets.call.cancel()
    marias.call.cancel()


async def test_nobody_is_told_of_another_agency_and_a_clerk_only_of_own_clients(
    reporting: Reporting, publish_opens: PutOpens, put_entries: PutEntries
) -> None:
    await heard_everything(reporting, publish_opens)
    await put_entries(entry(1, client=a_client(MARIA, "Maria", officer=ALICE.name)))
    charlie, alice = await Watch.begin(reporting, CHARLIE), await Watch.begin(reporting, ALICE)
    bob = await Watch.begin(reporting, BOB)
    await publish_opens(an_open(number=1), an_open(number=2))
    await bob.until(name_of(2))
    await publish_opens(an_open(number=3, agency_id=OTHER_COURT), an_open(number=4, client_id=MARIA))
    assert await charlie.until(name_of(3)) == [name_of(3)]
    assert await alice.until(name_of(4)) == [name_of(4)]
    for watch in (charlie, alice, bob):
        watch.call.cancel()


async def test_every_replica_tells_what_any_of_them_took_in(
    start_reporting: StartReporting, publish_opens: PutOpens
) -> None:
    replicas = [await start_reporting(), await start_reporting()]
    watches = [await Watch.begin(replica) for replica in replicas]
    # Until both are known to listen.
    number = 1_000
    for watch in watches:
        heard = False
        while not heard:
            number += 1
            await publish_opens(an_open(number=number))
            answer = await watch.next()
            heard = bool(answer.opens) and not answer.missed
    for number in range(10):
        await publish_opens(an_open(number=number))
    for watch in watches:
        seen: set[str] = set()
        while not {name_of(number) for number in range(10)} <= seen:
            answer = await watch.next()
            assert not answer.missed
            seen |= {found.name for found in answer.opens}
        watch.call.cancel()


async def test_a_watcher_that_reads_too_slowly_is_told_to_list_again_and_the_service_stays_small(
    reporting: Reporting, publish_opens: PutOpens, monkeypatch: pytest.MonkeyPatch
) -> None:
    # G14: nothing is read while thousands of opens arrive that fit into no buffer on the way.
    await heard_everything(reporting, publish_opens)
    slow = await Watch.begin(reporting)
    quick = await Watch.begin(reporting)
    opens = many_opens(6_000, open_user_agent="x" * 4_000)
    for begin in range(0, 6_000, 50):
        await publish_opens(*opens[begin : begin + 50])
    told = 0
    while told < 6_000:
        answer = await quick.next()
        assert not answer.missed, "the one who reads misses nothing because another does not"
        told += len(answer.opens)
    while not (await slow.next()).missed:
        pass
    await publish_opens(an_open(number=77))
    assert await slow.until(name_of(77))
    slow.call.cancel()
    quick.call.cancel()


async def test_a_sign_of_life_comes_when_nothing_arrives(reporting: Reporting, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rpc._SIGN_OF_LIFE_SECONDS + rpc._CREDENTIAL_SECONDS <= 15, "what the contract promises"
    monkeypatch.setattr(rpc, "_SIGN_OF_LIFE_SECONDS", 0.0)
    monkeypatch.setattr(rpc, "_CREDENTIAL_SECONDS", 0.05)
    watch = await Watch.begin(reporting)
    answers = [await watch.next() for _ in range(3)]
    assert answers[-1] == reporting_pb2.WatchOpensResponse()
    watch.call.cancel()


async def test_a_watch_ends_when_its_key_is_revoked(reporting: Reporting, auth: Any) -> None:
    dana = reporting.as_(DANA)
    key = auth_pb2.ApiKey(display_name="Case system", scopes=["opens:read"])
    made = await auth.CreateApiKey(auth_pb2.CreateApiKeyRequest(api_key=key), metadata=dana)
    call = reporting.stub.WatchOpens(
        reporting_pb2.WatchOpensRequest(), metadata=(("authorization", f"Bearer {made.secret}"),)
    )
    assert await Watch(call).next() == reporting_pb2.WatchOpensResponse()
    await auth.RevokeApiKey(auth_pb2.RevokeApiKeyRequest(name=made.api_key.name), metadata=dana)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async with asyncio.timeout(15):
            while await call.read() is not grpc.aio.EOF:
                pass
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_watcher_who_left_is_forgotten(reporting: Reporting, publish_opens: PutOpens) -> None:
    watch = await Watch.begin(reporting)
    watch.call.cancel()
    await heard_everything(reporting, publish_opens)


async def test_the_ids_of_an_agency_reach_its_watchers_and_no_others(watchers: Watchers, bus: Bus) -> None:
    announcer = Announcer(bus)
    with watchers.watch(FIRST_COURT) as first, watchers.watch(OTHER_COURT) as other:
        await announcer.announce({FIRST_COURT: [id_at(NOON, 1)], OTHER_COURT: [id_at(NOON, 2)]})
        assert await first.take(10) == ([key_of(id_at(NOON, 1))], False)
        assert await other.take(10) == ([key_of(id_at(NOON, 2))], False)


async def test_a_notice_that_was_lost_on_the_way_is_noticed(watchers: Watchers, bus: Bus) -> None:
    # Plain NATS forgets what it cannot deliver; the numbers tell.
    with watchers.watch(FIRST_COURT) as first:
        for number in (1, 2, 4):
            notice: dict[str, Any] = {"source": "a", "number": number, "agency": OTHER_COURT.hex, "opens": []}
            await bus.client.publish(ARRIVED_SUBJECT, json.dumps(notice).encode())
        assert await first.take(10) == ([], True)


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xfe", id="garbage"),
        pytest.param(b"[]", id="another shape"),
        pytest.param(b'{"source": "a", "number": 1, "agency": "x", "opens": []}', id="no agency"),
        pytest.param(
            b'{"source": "a", "number": 1, "agency": "' + FIRST_COURT.hex.encode() + b'", "opens": [1]}',
            id="ids that are none",
        ),
    ],
)
async def test_a_notice_that_cannot_be_read_disturbs_nobody(watchers: Watchers, bus: Bus, payload: bytes) -> None:
    with watchers.watch(FIRST_COURT) as first:
        await bus.client.publish(ARRIVED_SUBJECT, payload)
        await Announcer(bus).announce({FIRST_COURT: [id_at(NOON, 1)]})
        assert await first.take(10) == ([key_of(id_at(NOON, 1))], False)


async def test_what_one_watcher_may_have_waiting_is_bounded() -> None:
    watcher = Watcher()
    some = [Key(NOON, id_at(NOON, number)) for number in range(MOST_WAITING)]
    watcher.put(some)
    assert await watcher.take(1) == (some, False)
    watcher.put(some)
    watcher.put(some[:1])
    assert await watcher.take(1) == ([], True)
    watcher.put(some[:1])
    assert await watcher.take(1) == (some[:1], False)
