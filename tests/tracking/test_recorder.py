"""The recorder alone: whatever a writer does, nobody waits for ever and every open ends up somewhere."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opennotice.tracking.v1 import events_pb2

from services.chassis.names import millisecond_of, new_id
from services.tracking.recorder import Recorder
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
    assert [each.open_id for each in await spool.oldest(10)] == [raw.open_id for raw in opens]
    assert len(recorder._idle) == 1
    await recorder.close()
    await spool.close()
