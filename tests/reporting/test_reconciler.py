"""The reconciler of tracking against a real reporting: what is missing comes again, and nothing else does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import grpc
import psycopg
import pytest
from opennotice.enrichment.v1 import events_pb2
from opennotice.reporting.v1 import reporting_pb2
from opennotice.tracking.v1 import events_pb2 as tracking_pb2
from prometheus_client import REGISTRY

from services.chassis.bus import STREAMS, Bus
from services.chassis.names import millisecond_of
from services.chassis.outbox import Relay
from services.chassis.postgres import Database as Pool
from services.tracking import reconciler as reconciler_module
from services.tracking.events import Report
from services.tracking.reconciler import SETTLED_AFTER, Reconciler
from services.tracking.recorder import together
from services.tracking.store import opens as store
from tests.cast import DANA
from tests.fix_postgres import Database
from tests.fix_rpc import Keyring
from tests.reporting.conftest import PutOpens, Reporting, connected
from tests.reporting.sample import an_open

LONG_AGO = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)
# Minutes are compared one by one, and what breaks in one of them breaks off before the next.
WITHIN_A_MINUTE = LONG_AGO.replace(second=0)
Record = Callable[..., Awaitable[list[UUID]]]


@pytest.fixture
async def raw(database: Database) -> AsyncIterator[Pool]:
    pool = Pool(database.url("tracking", "ingest"), name="test")
    await pool.open()
    yield pool
    await pool.close()


@pytest.fixture
def record(raw: Pool, database: Database) -> Record:
    """Puts opens on record as tracking does, as if they had been committed a while ago."""

    async def put(*items: events_pb2.OpenEnriched, committed: timedelta = timedelta(minutes=30)) -> list[UUID]:
        rows = [
            store.RawOpen(
                UUID(item.open.open_id),
                millisecond_of(UUID(item.open.open_id)),
                UUID(item.open.agency_id),
                UUID(item.open.link_id),
                item.open.SerializeToString(),
            )
            for item in items
        ]
        async with raw.transaction() as conn:
            await store.insert_opens(conn, rows, UUID(int=len(rows)), "x", "y", b"z")
            await conn.execute("delete from tracking.outbox")
        with psycopg.connect(database.admin_url) as admin:
            admin.execute("update tracking.raw_opens set commit_time = now() - %s", (committed,))
        return [row.open_id for row in rows]

    return put


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    """The connection of tracking."""
    async with connected(nats_url, "ENRICHMENT", "TRACKING") as bus:
        yield bus


@pytest.fixture
async def reconciler(raw: Pool, bus: Bus, reporting: Reporting, keyring: Keyring) -> Reconciler:
    return Reconciler(raw, bus, Report(reporting.stub, lambda: keyring.as_process("tracking")), lambda: None)


async def published_again(raw: Pool) -> list[str]:
    """Returns the ids in the packs that wait in tracking's outbox."""
    async with raw.transaction() as conn:
        rows = await (await conn.execute("select payload from tracking.outbox order by id")).fetchall()
    return [one.open_id for row in rows for one in tracking_pb2.OpensRecorded.FromString(row[0]).opens]


def some_opens(count: int, since: datetime = LONG_AGO) -> list[events_pb2.OpenEnriched]:
    return [an_open(since + timedelta(seconds=7 * number)) for number in range(count)]


async def test_what_the_report_has_is_left_alone(
    reconciler: Reconciler, record: Record, put_opens: PutOpens, raw: Pool
) -> None:
    opens = some_opens(40)
    await record(*opens)
    await put_opens(*opens)
    await reconciler.round()
    assert reconciler.missing == 0
    assert await published_again(raw) == []


async def test_rows_deleted_from_the_report_are_published_again_as_they_were_recorded(
    reconciler: Reconciler, record: Record, put_opens: PutOpens, raw: Pool, database: Database
) -> None:
    opens = some_opens(40)
    await record(*opens)
    await put_opens(*opens)
    gone = {one.open.open_id for one in opens[3:40:4]}
    with psycopg.connect(database.admin_url) as admin:
        admin.execute("delete from reporting.opens where open_id = any(%s)", ([UUID(one) for one in gone],))
    await reconciler.round()
    assert reconciler.missing == len(gone)
    assert set(await published_again(raw)) == gone
    assert len(await published_again(raw)) == len(gone)


async def test_opens_that_are_not_old_enough_are_not_asked_for(
    reconciler: Reconciler, record: Record, raw: Pool
) -> None:
    await record(*some_opens(5), committed=timedelta(seconds=50))
    await reconciler.round()
    assert await published_again(raw) == []


async def test_an_open_is_asked_for_as_soon_as_it_is_old_enough(
    reconciler: Reconciler, record: Record, raw: Pool
) -> None:
    await record(an_open(datetime.now(UTC) - SETTLED_AFTER - timedelta(seconds=2)), committed=SETTLED_AFTER)
    await reconciler.round()
    assert len(await published_again(raw)) == 1


async def test_what_was_published_again_waits_before_it_goes_once_more(
    reconciler: Reconciler, record: Record, raw: Pool
) -> None:
    await record(*some_opens(5))
    await reconciler.round()
    await reconciler.round()
    assert reconciler.missing == 5
    assert len(await published_again(raw)) == 5


async def test_what_breaks_later_in_a_round_takes_back_nothing_that_was_published_again(
    reconciler: Reconciler, record: Record, raw: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    newest = an_open(datetime.now(UTC) - timedelta(minutes=40))
    await record(newest, *some_opens(5))

    async def broken(*_: Any) -> None:
        raise TimeoutError

    with monkeypatch.context() as patched:
        patched.setattr(store, "next_open_at", broken)
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await reconciler.round()
    assert await published_again(raw) == [newest.open.open_id], "once, and it stays"
    await reconciler.round()
    assert len(await published_again(raw)) == 6


async def test_what_could_not_be_put_in_the_outbox_is_tried_again_at_once(
    reconciler: Reconciler, record: Record, raw: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await record(*some_opens(5, WITHIN_A_MINUTE))

    async def broken(*_: Any) -> None:
        raise TimeoutError

    with monkeypatch.context() as patched:
        patched.setattr(store, "insert_opens", broken)
        with pytest.raises(TimeoutError):
            await reconciler.round()
    assert reconciler.missing == 5
    await reconciler.round()
    assert len(await published_again(raw)) == 5


async def test_when_very_much_is_missing_it_goes_again_bit_by_bit(
    reconciler: Reconciler, record: Record, put_opens: PutOpens, raw: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler_module, "_MOST_UNDER_WAY", 600)
    opens = [an_open(WITHIN_A_MINUTE + timedelta(milliseconds=number)) for number in range(1_201)]
    await record(*opens)
    sent = set[str]()
    for count in (500, 500, 201):
        assert await reconciler.round() == (count == 500), "more is left for later"
        fresh = set(await published_again(raw)) - sent
        assert len(fresh) == count
        assert await reconciler.round() == (count == 500)
        assert set(await published_again(raw)) == sent | fresh, "nothing goes while these are under way"
        await put_opens(*(one for one in opens if one.open.open_id in fresh))
        sent |= fresh
    assert await reconciler.round() is False
    assert reconciler.missing == 0
    assert len(await published_again(raw)) == 1_201, "each once"


async def test_what_stays_away_is_told_of_until_it_has_arrived(
    reconciler: Reconciler, record: Record, put_opens: PutOpens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler_module, "_PAUSES", (timedelta(0),) * 3 + (timedelta(hours=1),))
    opens = some_opens(5)
    await record(*opens)
    for _ in range(3):
        await reconciler.round()
        assert stuck() == 0
    await reconciler.round()
    assert stuck() == 5
    await put_opens(*opens[1:])
    await reconciler.round()
    assert stuck() == 1
    await put_opens(opens[0])
    await reconciler.round()
    assert (stuck(), reconciler.missing) == (0, 0)


def stuck() -> float:
    """Returns how many opens stay away, as the alarm sees it."""
    return REGISTRY.get_sample_value("opennotice_stuck_opens") or 0.0


async def test_what_still_waits_in_a_queue_is_not_missing(
    reconciler: Reconciler, record: Record, raw: Pool, bus: Bus
) -> None:
    """Else a reader that is far behind would be given everything twice."""
    subject = "opennotice.tracking.v1.opens.recorded"
    await bus.js.add_consumer("TRACKING", durable_name="enrichment-opens-recorded-v1", filter_subject=subject)
    assert await _settled(reconciler, raw) > datetime.now(UTC) - timedelta(minutes=3)
    await bus.publish(tracking_pb2.OpensRecorded(batch_id="waits"), "waits")
    # What is old enough goes by the oldest event that waits, once that is older than the usual time.
    assert (await reconciler._unread_since("TRACKING", "enrichment-opens-recorded-v1", subject)) is not None
    opens = some_opens(5)
    await record(*opens, committed=timedelta(seconds=-1))
    await reconciler.round()
    assert await published_again(raw) == []


async def test_opens_that_nobody_had_read_in_a_stream_that_was_lost_are_in_the_new_one(
    reconciler: Reconciler, record: Record, raw: Pool, bus: Bus
) -> None:
    subject, durable = "opennotice.tracking.v1.opens.recorded", "enrichment-opens-recorded-v1"
    await bus.js.add_consumer("TRACKING", durable_name=durable, filter_subject=subject)
    opens = some_opens(30)
    lost = tracking_pb2.OpensRecorded(batch_id="lost", opens=[one.open for one in opens])
    await record(*opens)
    await bus.publish(lost, lost.batch_id)
    assert (await reconciler._unread_since("TRACKING", durable, subject)) is not None
    await bus.js.delete_stream("TRACKING")
    # Without its stream nobody waits for it any more.
    assert (await reconciler._unread_since("TRACKING", durable, subject)) is None
    await bus._declare(STREAMS["TRACKING"])
    await reconciler.round()
    while await Relay(raw, bus, "tracking", arrange=together)._publish_some():
        pass
    stored = (await bus.js.stream_info("TRACKING")).state
    packs = [await bus.js.get_msg("TRACKING", number) for number in range(stored.first_seq, stored.last_seq + 1)]
    assert packs
    found = [one.open_id for pack in packs for one in tracking_pb2.OpensRecorded.FromString(pack.data or b"").opens]
    assert sorted(found) == sorted(one.open.open_id for one in opens)


async def _settled(reconciler: Reconciler, raw: Pool) -> datetime:
    async with raw.transaction() as conn:
        return await reconciler._settled_before(conn)


async def test_a_pack_that_waits_in_the_outbox_is_on_its_way(reconciler: Reconciler, raw: Pool) -> None:
    async with raw.transaction() as conn:
        await conn.execute(
            "insert into tracking.outbox (event_id, subject, message_type, payload, create_time)"
            " values (gen_random_uuid(), 'a', 'b', 'c', now() - interval '1 hour')"
        )
    assert await _settled(reconciler, raw) < datetime.now(UTC) - timedelta(minutes=59)


async def test_large_gaps_go_in_packs_of_the_allowed_size(reconciler: Reconciler, record: Record, raw: Pool) -> None:
    opens = [an_open(LONG_AGO + timedelta(milliseconds=number)) for number in range(1_201)]
    await record(*opens)
    await reconciler.round()
    async with raw.transaction() as conn:
        rows = await (await conn.execute("select payload from tracking.outbox order by id")).fetchall()
    sizes = [len(tracking_pb2.OpensRecorded.FromString(row[0]).opens) for row in rows]
    assert sum(sizes) == 1_201
    assert max(sizes) <= 500
    assert max(len(row[0]) for row in rows) <= 256 * 1024


async def test_opens_of_many_years_are_reached_in_turn(reconciler: Reconciler, record: Record, raw: Pool) -> None:
    opens = [an_open(LONG_AGO - timedelta(days=30 * number)) for number in range(24)]
    await record(*opens)
    for _ in range(10):
        await reconciler.round()
    assert set(await published_again(raw)) == {one.open.open_id for one in opens}


async def test_only_one_of_two_reconcilers_works(reconciler: Reconciler, record: Record, raw: Pool) -> None:
    await record(*some_opens(5))
    async with raw.transaction() as conn:
        assert await store.alone(conn, "tracking.reconciler")
        await reconciler.round()
    assert await published_again(raw) == []


async def test_only_tracking_may_ask(reporting: Reporting) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await reporting.stub.FindMissingOpens(
            reporting_pb2.FindMissingOpensRequest(open_ids=[]), metadata=reporting.as_(DANA)
        )
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (reporting_pb2.DigestOpensRequest(stretch_seconds=0), "stretch_seconds"),
        (reporting_pb2.DigestOpensRequest(stretch_seconds=86_401), "stretch_seconds"),
    ],
)
async def test_a_digest_without_a_sane_stretch_is_refused(
    reporting: Reporting, keyring: Keyring, request_: Any, field: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await reporting.stub.DigestOpens(request_, metadata=keyring.as_process("tracking"))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in (refused.value.details() or "")


async def test_rounds_go_on_by_themselves(reconciler: Reconciler, record: Record, raw: Pool) -> None:
    await record(*some_opens(3))
    running = asyncio.create_task(reconciler.run())
    for _ in range(100):
        if await published_again(raw):
            break
        await asyncio.sleep(0.05)
    running.cancel()
    assert len(await published_again(raw)) == 3
