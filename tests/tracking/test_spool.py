"""The spool and the mover: files damaged anywhere, opens nobody can read, and nothing acknowledged is lost by it."""

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from opennotice.tracking.v1 import events_pb2

from services.chassis.dead_letters import DeadLetters
from services.chassis.names import millisecond_of, new_id
from services.chassis.postgres import Database as Pool
from services.tracking import spool as spool_module
from services.tracking.mover import Mover
from services.tracking.recorder import PACK_SUBJECT, PACK_TYPE, Recorder
from services.tracking.spool import Spool, SpoolAway
from services.tracking.store import spool as store
from services.tracking.store.opens import RawOpen
from services.tracking.writer import Writer
from tests.cast import FIRST_COURT, OTHER_COURT
from tests.fix_postgres import Database

PAGE = 4096
# Pages of a spool of 400 opens: the head, the root of the opens, the probe, the first leaf, one behind, the last.
HEAD, ROOT, PROBE, FIRST, MIDDLE, LAST = 0, 1, 2, 3, 10, -1


def an_open(agency_id: UUID = FIRST_COURT) -> RawOpen:
    """Makes an open of this moment."""
    open_id, link_id = new_id(), new_id()
    record = events_pb2.OpenRecorded(
        open_id=str(open_id), agency_id=str(agency_id), link_id=str(link_id), user_agent="x" * 150
    )
    return RawOpen(open_id, millisecond_of(open_id), agency_id, link_id, record.SerializeToString())


def opens(count: int) -> list[RawOpen]:
    """Makes opens."""
    return [an_open() for _ in range(count)]


async def until(told: Callable[[], Any], seconds: float = 15.0) -> None:
    """Waits for something to become true."""
    async with asyncio.timeout(seconds):
        while not told():
            await asyncio.sleep(0.02)


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    """Gives an empty spool."""
    made = Spool(tmp_path)
    await made.open()
    yield made
    await made.close()


async def damage(spool: Spool, *pages: int) -> None:
    """Overwrites pages of the file, as a disk does, after its log was moved into it."""
    await asyncio.get_running_loop().run_in_executor(spool._thread, spool._disconnect)
    size = spool._path.stat().st_size
    with spool._path.open("r+b") as file:
        for page in pages:
            file.seek(page * PAGE if page >= 0 else size + page * PAGE)
            file.write(os.urandom(PAGE))


async def waiting(spool: Spool) -> list[bytes]:
    """Returns the ids of what waits."""
    return [each.open_id for each in await spool.oldest(10_000)]


def ids(raws: Sequence[RawOpen]) -> set[bytes]:
    """Returns the ids of opens as the spool has them."""
    return {raw.open_id.bytes for raw in raws}


def on_disk(spool: Spool) -> set[bytes]:
    """Returns what another process would find: nothing that lies in a log which was taken away by mistake."""
    with sqlite3.connect(f"file:{spool._path}?mode=ro", uri=True) as conn:
        return {row[0] for row in conn.execute("select open_id from opens")}


def beside(spool: Spool) -> list[Path]:
    """Returns the damaged files."""
    return [path for path in spool._path.parent.glob("spool.sqlite.broken-*") if path.name[-1].isdigit()]


async def test_what_was_read_from_one_file_removes_nothing_from_the_next(spool: Spool) -> None:
    await spool.append(opens(50))
    in_hand = await spool.oldest(50)
    await damage(spool, HEAD)
    new = opens(30)
    await spool.append(new)
    await spool.remove(in_hand)
    await spool.refuse(in_hand[0], "as before")
    assert ids(new) == set(await waiting(spool))
    assert spool.size == 30
    await spool.remove(await spool.oldest(50))
    assert (await waiting(spool), spool.size) == ([], 0)


@pytest.mark.parametrize("page", [HEAD, ROOT, PROBE, FIRST, MIDDLE, LAST])
async def test_a_spool_damaged_anywhere_gives_way_to_one_that_works(spool: Spool, page: int) -> None:
    old = opens(400)
    await spool.append(old)
    await damage(spool, page)
    new = opens(3)
    await spool.append(new)
    assert len(beside(spool)) == 1
    assert spool.fault is None
    assert ids(new) <= on_disk(spool)
    await until(lambda: spool._bringing_back is None)
    there = await waiting(spool)
    assert len(set(there)) == len(there) == spool.size
    assert ids(new) <= set(there) <= ids(old + new)
    # One leaf holds about a dozen opens of this size; without head or root the others cannot be found.
    assert len(there) >= {HEAD: 3, ROOT: 3, PROBE: 403}.get(page, 380)
    by_id = {raw.open_id.bytes: raw for raw in old + new}
    for each in await spool.oldest(1_000):
        raw = by_id[each.open_id]
        assert (each.opened_ms, each.agency_id, each.link_id, each.record, each.refusal) == (
            raw.opened_ms, raw.agency_id.bytes, raw.link_id.bytes, raw.record, None,
        )  # fmt: skip
    await spool.probe()
    assert spool.put_aside == 1, "somebody has to look, also when all of it could be read"
    assert beside(spool)[0].with_name(f"{beside(spool)[0].name}.read").exists() == (page == PROBE)


async def test_damage_that_shows_while_the_mover_reads_is_met_in_the_same_way(spool: Spool) -> None:
    old = opens(400)
    await spool.append(old)
    await damage(spool)
    assert len(await spool.oldest(1)) == 1
    # Behind the back of the open connection, which has not read that page.
    with spool._path.open("r+b") as file:
        file.seek(MIDDLE * PAGE)
        file.write(os.urandom(PAGE))
    spool._conn.execute("pragma shrink_memory")  # type: ignore[union-attr]
    await spool.oldest(10_000)
    assert (len(beside(spool)), spool.fault) == (1, None)
    new = opens(3)
    await spool.append(new)
    assert ids(new) <= on_disk(spool)
    await until(lambda: spool._bringing_back is None)
    assert len(await waiting(spool)) >= 380


async def test_files_put_aside_within_a_second_are_all_kept(spool: Spool) -> None:
    for _ in range(3):
        await spool.append(opens(20))
        await damage(spool, HEAD)
        await spool.append(opens(1))
    assert len(beside(spool)) == 3
    await spool.probe()
    assert spool.put_aside == 3


async def test_what_was_not_brought_back_before_the_end_is_brought_back_after_the_next_start(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    await first.open()
    old = opens(400)
    await first.append(old)
    await damage(first, PROBE)
    await first.append(opens(1))
    await first.close()
    assert not list(tmp_path.glob("*.read"))
    second = Spool(tmp_path)
    await second.open()
    await until(lambda: second._bringing_back is None)
    assert ids(old) <= set(await waiting(second))
    await second.remove(await second.oldest(10_000))
    await second.close()
    third = Spool(tmp_path)
    await third.open()
    await asyncio.sleep(0.2)
    assert await waiting(third) == [], "what was read as a whole is not read again"
    await third.probe()
    assert third.put_aside == 1
    await third.close()


async def test_bringing_back_keeps_no_open_waiting(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    go, read = threading.Event(), store.readable_pieces

    def hang(path: Path) -> Any:
        go.wait(10)
        yield from read(path)

    monkeypatch.setattr(store, "readable_pieces", hang)
    old = opens(100)
    await spool.append(old)
    await damage(spool, PROBE)
    for _ in range(5):
        began = time.monotonic()
        await spool.append(opens(1))
        assert time.monotonic() - began < 1.0
    assert spool.size == 5
    go.set()
    await until(lambda: spool.size == 105)
    assert ids(old) <= set(await waiting(spool))


async def test_a_large_one_comes_back_only_as_fast_as_the_mover_moves(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "_BRING_BACK_BELOW", 50)
    monkeypatch.setattr(spool_module, "_BRING_BACK_AGAIN_SECONDS", 0.05)
    old = opens(1_000)
    await spool.append(old)
    await damage(spool, PROBE)
    await spool.append(opens(1))
    await until(lambda: spool.size == 201)
    await asyncio.sleep(0.5)
    assert spool.size == 201
    found = set[bytes]()
    async with asyncio.timeout(15):
        while not ids(old) <= found:
            some = await spool.oldest(50)
            found |= {each.open_id for each in some}
            await spool.remove(some)
            await asyncio.sleep(0.01)


async def test_while_a_damaged_file_cannot_be_put_aside_nothing_is_acknowledged(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    # So long a name that no longer one can be given to the file.
    spool._path = tmp_path / ("s" * 240)
    await spool.append(opens(20))
    await damage(spool, ROOT)
    for _ in range(2):
        with pytest.raises(SpoolAway):
            await spool.append(opens(1))
    assert "name too long" in str(spool.fault)
    await spool.close()


class Moving:
    """A spool with its mover and PostgreSQL."""

    def __init__(self, folder: Path, database: Database) -> None:
        url = database.url("tracking", "ingest")
        self.admin_url = database.admin_url
        self.spool = Spool(folder)
        self.pool = Pool(url, name="test", most=2)
        self.letters = DeadLetters(self.pool, "tracking")
        self.recorder = Recorder(url, self.spool, lambda: None)
        self.writer = Writer(url, PACK_SUBJECT, PACK_TYPE)
        self.mover = Mover(self.recorder, self.writer, self.letters)

    def rows(self, query: str) -> list[Any]:
        """Returns rows as the superuser sees them."""
        with psycopg.connect(self.admin_url, autocommit=True) as conn:
            return conn.execute(query.encode()).fetchall()


@pytest.fixture
async def moving(tmp_path: Path, database: Database) -> AsyncIterator[Moving]:
    """Gives a mover that nobody has started yet."""
    made = Moving(tmp_path, database)
    await made.pool.open()
    await made.spool.open()
    yield made
    await made.recorder.close()
    await made.writer.close()
    await made.spool.close()
    await made.pool.close()


def spooled_row(raw: RawOpen, **changes: Any) -> tuple[bytes, int, bytes, bytes, bytes, str | None]:
    """Makes the row of an open in the spool, some of it damaged."""
    row = {
        "open_id": raw.open_id.bytes,
        "opened_ms": raw.opened_ms,
        "agency_id": raw.agency_id.bytes,
        "link_id": raw.link_id.bytes,
        "record": raw.record,
    }
    return (*{**row, **changes}.values(), None)  # type: ignore[return-value]


async def test_opens_that_nobody_can_read_stop_no_other_and_become_dead_letters(moving: Moving) -> None:
    good, bad = opens(5), opens(4)
    rows = [
        spooled_row(bad[0], record=b"\xff\xff\xff"),
        spooled_row(good[0]),
        spooled_row(bad[1], open_id=b"short"),
        *[spooled_row(raw) for raw in good[1:4]],
        spooled_row(bad[2], agency_id=OTHER_COURT.bytes),
        spooled_row(bad[3], record=events_pb2.OpenRecorded(open_id="none").SerializeToString()),
        spooled_row(good[4]),
    ]
    await moving.spool._in_thread(lambda conn: store.append_to_spool(conn, rows))
    moving.spool.size = len(rows)
    moving.recorder.trip("a test")
    work = asyncio.create_task(moving.mover.run())
    try:
        await until(lambda: moving.spool.size == 0)
        assert not moving.recorder.is_away
    finally:
        work.cancel()
    stored = {row[0] for row in moving.rows("select open_id from tracking.raw_opens")}
    assert stored == {raw.open_id for raw in good}
    found = moving.rows("select id, message_type, payload, error from tracking.dead_letters order by id")
    assert [bytes(row[2]) for row in found] == [b"\xff\xff\xff", bad[1].record, bad[2].record, rows[7][4]]
    # What stands beside the record tells whose it was.
    assert f"open {bad[0].open_id}, agency {FIRST_COURT}" in found[0][3]
    assert "say different things" in found[2][3]
    assert {row[1] for row in found} == {"damaged opennotice.tracking.v1.OpenRecorded"}
    assert "damaged in the spool" in await moving.letters.replay(found[0][0])
    assert len(moving.rows("select 1 from tracking.dead_letters")) == 4


async def test_opens_of_a_damaged_spool_reach_postgresql_once(moving: Moving) -> None:
    old, new = opens(400), opens(3)
    await moving.spool.append(old)
    work = None
    try:
        await damage(moving.spool, MIDDLE)
        await moving.spool.append(new)
        work = asyncio.create_task(moving.mover.run())
        await until(lambda: moving.spool._bringing_back is None and moving.spool.size == 0, 30)
    finally:
        if work is not None:
            work.cancel()
    stored = [row[0] for row in moving.rows("select open_id from tracking.raw_opens")]
    assert len(set(stored)) == len(stored) >= 383
    assert {raw.open_id for raw in new} <= set(stored) <= {raw.open_id for raw in old + new}
