"""The recorder alone: whatever a writer does, nobody waits for ever and every open ends up somewhere."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from opennotice.tracking.v1 import events_pb2

from services.chassis import outbox
from services.chassis.names import millisecond_of, new_id
from services.tracking.recorder import PACK_SUBJECT, PACK_TYPE, Recorder, canary_pack, together
from services.tracking.spool import Spool
from services.tracking.store.opens import RawOpen
from services.tracking.writer import Refused
from tests.cast import FIRST_COURT


class Broken:
    """A writer that refuses opens together, and fails as nobody expects with each of them alone."""

    async def insert(self, opens: Sequence[RawOpen], *_: Any, **__: Any) -> None:
        if len(opens) > 1:
            raise Refused("together")
        raise RuntimeError("alone")


def an_open() -> RawOpen:
    open_id = new_id()
    record = events_pb2.OpenRecorded(open_id=str(open_id)).SerializeToString()
    return RawOpen(open_id, millisecond_of(open_id), FIRST_COURT, new_id(), record)


async def test_an_unexpected_fault_after_a_refusal_sends_the_opens_to_the_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    recorder = Recorder("", spool, lambda: None)
    recorder._idle = [Broken()]  # type: ignore[list-item]
    opens = [an_open() for _ in range(3)]
    async with asyncio.timeout(5):
        assert await asyncio.gather(*(recorder.record(raw) for raw in opens)) == [True] * 3
    assert [each.open_id for each in await spool.oldest(10)] == [raw.open_id.bytes for raw in opens]
    assert len(recorder._idle) == 1
    await recorder.close()
    await spool.close()


class Held:
    """A writer that notes how many opens it gets, refuses more than it takes, and ends a write when it is let go."""

    def __init__(self, sizes: list[int], let_go: asyncio.Event, most: int = 500) -> None:
        self.sizes, self.let_go, self.most = sizes, let_go, most

    async def insert(self, opens: Sequence[RawOpen], *_: Any, **__: Any) -> None:
        self.sizes.append(len(opens))
        if len(opens) > self.most:
            raise Refused("together")
        await self.let_go.wait()


def recording(recorder: Recorder, count: int) -> list[asyncio.Task[bool]]:
    return [asyncio.create_task(recorder.record(an_open())) for _ in range(count)]


async def rounds_of_the_loop() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_few_opens_wait_for_the_write_under_way_and_many_get_one_of_their_own(tmp_path: Path) -> None:
    sizes, let_go = list[int](), asyncio.Event()
    recorder = Recorder("", Spool(tmp_path), lambda: None)
    recorder._idle = [Held(sizes, let_go), Held(sizes, let_go)]  # type: ignore[list-item]
    asked = recording(recorder, 1)
    await rounds_of_the_loop()
    asked += recording(recorder, 15)
    await rounds_of_the_loop()
    assert sizes == [1]
    asked += recording(recorder, 1)
    await rounds_of_the_loop()
    assert sizes == [1, 16]
    asked += recording(recorder, 3)
    await rounds_of_the_loop()
    let_go.set()
    async with asyncio.timeout(5):
        assert await asyncio.gather(*asked) == [True] * 20
    assert sizes == [1, 16, 3]


async def test_opens_do_not_wait_for_those_of_a_refused_batch(tmp_path: Path) -> None:
    sizes, let_go = list[int](), asyncio.Event()
    free = asyncio.Event()
    free.set()
    recorder = Recorder("", Spool(tmp_path), lambda: None)
    recorder._idle = [Held(sizes, free), Held(sizes, let_go, most=1)]  # type: ignore[list-item]
    refused = recording(recorder, 2)
    await rounds_of_the_loop()
    assert sizes == [2, 1]
    async with asyncio.timeout(5):
        assert await asyncio.gather(*recording(recorder, 3)) == [True] * 3
        let_go.set()
        assert await asyncio.gather(*refused) == [True] * 2
    assert sizes == [2, 1, 3, 1]


def waiting(number: int, opens: int, size: int = 10) -> outbox.Waiting:
    pack = events_pb2.OpensRecorded(batch_id=str(UUID(int=number)))
    for at in range(opens):
        pack.opens.add(open_id=str(UUID(int=number * 1_000 + at)), user_agent="x" * size)
    return outbox.Waiting(number, UUID(int=number), PACK_SUBJECT, PACK_TYPE, pack.SerializeToString())


def read(sending: outbox.Sending) -> events_pb2.OpensRecorded:
    return events_pb2.OpensRecorded.FromString(sending[0].payload)


def test_packs_that_wait_together_go_as_one_event_with_an_id_of_its_own() -> None:
    (sent,) = together([waiting(1, 3), waiting(2, 1), waiting(3, 2)])
    assert sent[1] == [1, 2, 3]
    pack = read(sent)
    assert [one.open_id for one in pack.opens] == [
        str(UUID(int=number)) for number in (1_000, 1_001, 1_002, 2_000, 3_000, 3_001)
    ]
    # Else a second try in another company would be taken for the first and dropped.
    assert pack.batch_id == sent[0].message_id
    assert pack.batch_id not in {str(UUID(int=number)) for number in (1, 2, 3)}


def test_a_pack_alone_keeps_its_id() -> None:
    (sent,) = together([waiting(7, 2)])
    assert (sent[0].message_id, sent[1]) == (str(UUID(int=7)), [7])


def test_an_event_never_holds_more_than_a_pack_may() -> None:
    many = list(together([waiting(number, 300) for number in range(1, 5)]))
    assert [len(read(sent).opens) for sent in many] == [300, 300, 300, 300]
    large = list(together([waiting(number, 1, size=100_000) for number in range(1, 6)]))
    assert [ids for _, ids in large] == [[1, 2], [3, 4], [5]]
    assert all(len(sent[0].payload) <= 256 * 1024 for sent in large)


def test_the_canary_goes_by_itself() -> None:
    batch_id, payload = canary_pack(datetime(2026, 11, 23, tzinfo=UTC))
    canary = outbox.Waiting(2, UUID(batch_id), PACK_SUBJECT, PACK_TYPE, payload)
    sent = list(together([waiting(1, 1), canary, waiting(3, 1)]))
    assert sorted(ids for _, ids in sent) == [[1, 3], [2]]
    (alone,) = [one for one in sent if one[1] == [2]]
    assert read(alone).HasField("canary_time")
