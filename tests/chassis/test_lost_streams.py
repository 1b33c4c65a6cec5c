"""What NATS may do to a reader and a publisher: forget, say no, talk of itself, and send very much at once."""

import asyncio
import contextlib
import dataclasses
import functools
import importlib
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import nats
import psutil
import pytest
from google.protobuf.message import Message
from nats.errors import Error as NatsError
from nats.js.errors import NoStreamResponseError
from opennotice.auth.v1 import events_pb2
from prometheus_client import REGISTRY

from bundle.embedded import Nats
from bundle.program import free_port
from services.chassis import bus as bus_module
from services.chassis import consumer as consumer_module
from services.chassis import outbox
from services.chassis.bus import STREAMS, Bus, subject_for
from services.chassis.consumer import Received
from services.chassis.errors import Unavailable
from services.chassis.names import new_id
from services.chassis.outbox import Relay
from services.chassis.postgres import Database as Pool
from tests.chassis.test_bus import _nothing_waits, agency_changed, consumer, until
from tests.fix_nats import running

SUBJECT = "opennotice.auth.v1.agency.changed"
DURABLE = "test-agency-changed-v1"
Seen = list[tuple[int, str]]


async def restarted(run: Callable[[], Awaitable[None]]) -> None:
    """Runs a loop as the frame does: when it ends it is started again."""
    while True:
        try:
            await run()
        except (NatsError, Unavailable):
            await asyncio.sleep(0.05)


@pytest.fixture
async def kept_bus(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bus]:
    """Gives a connection as a process holds it, that looks after its streams often."""
    monkeypatch.setattr(bus_module, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(consumer_module, "_LINGER_SECONDS", 0.3)
    monkeypatch.setattr(consumer_module, "_ACK_WAIT_SECONDS", 2.0)
    bus = Bus(nats_url, "test", ["AUTH"])
    task = asyncio.create_task(restarted(bus.run))
    async with asyncio.timeout(10):
        await bus.connected()
    yield bus
    task.cancel()
    await bus.close()


@pytest.fixture
def seen() -> Seen:
    """Gives what was read: number in the stream, and name."""
    return []


@pytest.fixture
async def reading(kept_bus: Bus, pool: Pool, seen: Seen) -> AsyncIterator[None]:
    """Reads."""

    async def handle(batch: list[Received[events_pb2.AgencyChanged]]) -> None:
        seen.extend((one.sequence, one.message.agency.display_name) for one in batch)

    task = asyncio.create_task(restarted(consumer(kept_bus, pool, handle).run))
    yield
    task.cancel()


async def no_letters(pool: Pool) -> bool:
    """Whether nothing was set aside."""
    async with pool.transaction() as conn:
        return await (await conn.execute("select 1 from frame.dead_letters")).fetchall() == []


def names(seen: Seen) -> set[str]:
    """Returns the names that were read."""
    return {name for _, name in seen}


# Streams and readers that are gone.


async def test_a_reader_whose_place_was_deleted_goes_on_and_misses_nothing(
    kept_bus: Bus, pool: Pool, reading: None, seen: Seen
) -> None:
    await kept_bus.publish(agency_changed("a"), "a")
    await until(lambda: names(seen) == {"a"})
    await until(lambda: _nothing_waits(kept_bus))
    await kept_bus.js.delete_consumer("AUTH", DURABLE)
    await kept_bus.publish(agency_changed("b"), "b")
    await until(lambda: names(seen) == {"a", "b"})
    await until(lambda: _nothing_waits(kept_bus))
    assert await no_letters(pool)


async def test_a_stream_that_is_deleted_under_everybodys_hands_is_made_filled_and_read_again(
    kept_bus: Bus, pool: Pool, reading: None, seen: Seen
) -> None:
    relay = Relay(pool, kept_bus, "frame", keep=timedelta(days=1))
    task = asyncio.create_task(restarted(relay.run))

    async def tell(*told: str) -> None:
        async with pool.transaction() as conn:
            for name in told:
                await outbox.add(conn, "frame", agency_changed(name), new_id())
        relay.wake()

    await tell("a", "b", "c")
    await until(lambda: names(seen) == {"a", "b", "c"})
    before = len(seen)
    await kept_bus.js.delete_stream("AUTH")
    await tell("d", "e")
    await until(lambda: names(seen[before:]) == {"a", "b", "c", "d", "e"}, 20)
    # The numbers began anew, and nobody took that for something known.
    assert min(number for number, _ in seen[before:]) == 1
    assert {number for number, _ in seen[before:]} & {number for number, _ in seen[:before]}
    await until(lambda: _nothing_waits(kept_bus))
    assert await no_letters(pool)
    task.cancel()


@pytest.mark.parametrize("lost", ["the last event", "the last event, and its number is known", "all of them"])
async def test_lost_events_are_told_of(tmp_path: Path, lost: str) -> None:
    server = Nats(tmp_path, free_port(), free_port(), "only-for-tests")
    bus = Bus(server.url, "test", ["AUTH"])
    running_bus = asyncio.create_task(restarted(bus.run))
    before = losses()
    with running(server):
        await bus.connected()
        for name in "abc":
            await bus.publish(agency_changed(name), name)
        # Once more, as after a time-out: an old number then, and no loss.
        await bus.publish(agency_changed("a"), "a")
    assert losses() == before
    if lost == "all of them":
        shutil.rmtree(tmp_path / "jetstream")
    else:
        block = next(tmp_path.glob("jetstream/*/streams/AUTH/msgs/*.blk"))
        if lost == "the last event":
            # Without its index the end is gone as if it had never been; with it, there is a gap.
            (block.parent / "index.db").unlink()
        os.truncate(block, block.stat().st_size - 10)
    with running(server):
        await until(lambda: bus.is_connected, 20)
        await until(lambda: _is_published(bus), 20)
        await until(lambda: losses() > before, 20)
    running_bus.cancel()


async def test_an_event_that_is_damaged_while_it_waits_is_told_of_when_its_reader_comes_past(
    tmp_path: Path, pool: Pool, seen: Seen
) -> None:
    server = Nats(tmp_path, free_port(), free_port(), "only-for-tests")
    bus = Bus(server.url, "test", ["AUTH"])

    async def handle(batch: list[Received[events_pb2.AgencyChanged]]) -> None:
        seen.extend((one.sequence, one.message.agency.display_name) for one in batch)

    reader = consumer(bus, pool, handle)
    running_bus = asyncio.create_task(restarted(bus.run))
    told = ["read", "first", "damaged", "last"]
    with running(server):
        await bus.connected()
        reading = asyncio.create_task(restarted(reader.run))
        await bus.publish(agency_changed(told[0]), told[0])
        await until(lambda: names(seen) == {told[0]})
        reading.cancel()
        for name in told[1:]:
            await bus.publish(agency_changed(name), name)
    block = next(tmp_path.glob("jetstream/*/streams/AUTH/msgs/*.blk"))
    text = block.read_bytes()
    assert text.count(b"damaged") == 2, "once as its id, once as the name"
    block.write_bytes(text.replace(b"damaged", b"damageD"))
    with running(server):
        await until(lambda: bus.is_connected, 20)
        before = losses()
        reading = asyncio.create_task(restarted(reader.run))
        await until(lambda: names(seen) == {"read", "first", "last"}, 20)
        assert losses() == before + 1
        for task in (reading, running_bus):
            task.cancel()
        await bus.close()


async def test_several_that_read_for_one_use_miss_nothing_that_another_one_has(
    kept_bus: Bus, pool: Pool, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumer_module, "_MOST_AT_ONCE", 2)
    by: list[int] = [0, 0, 0]
    refused: set[str] = set()

    async def handle(which: int, batch: list[Received[events_pb2.AgencyChanged]]) -> None:
        for one in batch:
            # Some are given back and come again: more deliveries than events.
            if one.sequence % 5 == 0 and one.message.agency.display_name not in refused:
                refused.add(one.message.agency.display_name)
                raise TimeoutError
        by[which] += len(batch)
        seen.extend((one.sequence, one.message.agency.display_name) for one in batch)

    before = losses()
    readers = [consumer(kept_bus, pool, functools.partial(handle, which)) for which in range(3)]
    tasks = [asyncio.create_task(restarted(one.run)) for one in readers]
    for number in range(60):
        await kept_bus.publish(agency_changed(str(number)), str(number))
    await until(lambda: names(seen) == {str(number) for number in range(60)}, 40)
    for task in tasks:
        task.cancel()
    assert min(by) > 0, "one of them had nothing to read"
    assert losses() == before


async def _is_published(bus: Bus) -> bool:
    with contextlib.suppress(NatsError, Unavailable):
        await bus.publish(agency_changed("d"), "d")
        return True
    return False


def losses() -> float:
    """Returns how often lost events were told of."""
    return REGISTRY.get_sample_value("opennotice_nats_losses_total") or 0.0


async def test_a_publisher_that_nobody_answers_keeps_what_it_has(bus: Bus, pool: Pool) -> None:
    await bus.js.delete_stream("AUTH")
    async with pool.transaction() as conn:
        await outbox.add(conn, "frame", agency_changed("a"), new_id())
    # The server says that nobody takes this subject, which must not be read as an acknowledgement.
    with pytest.raises(NoStreamResponseError):
        await Relay(pool, bus, "frame")._publish_some()
    async with pool.transaction() as conn:
        assert await (await conn.execute("select count(*) from frame.outbox")).fetchone() == (1,)


# What the server says of itself.


async def test_what_the_server_says_of_itself_is_never_taken_for_an_event(
    kept_bus: Bus, pool: Pool, reading: None, seen: Seen, nats_url: str
) -> None:
    await kept_bus.publish(agency_changed("first"), "first")
    await until(lambda: names(seen) == {"first"})
    # With rounds that end empty the server itself says 404 and 408; all that it may say comes on top.
    client = await nats.connect(nats_url)
    for status in ("100 Idle Heartbeat", "100 FlowControl Request", "404 No Messages", "408 Request Timeout",
                   "409 Consumer Deleted", "409 Exceeded MaxAckPending", "503"):  # fmt: skip
        inboxes = [sub.subject for sub in kept_bus.client._subs.values() if sub.subject.startswith("_INBOX")]
        assert inboxes
        for inbox in inboxes:
            header = f"NATS/1.0 {status}\r\n\r\n".encode()
            command = f"HPUB {inbox.replace('*', 'x')} {len(header)} {len(header)}\r\n".encode()
            await client._send_command(command + header + b"\r\n")
        await client.flush()
        await kept_bus.publish(agency_changed(status), status)
        await until(lambda status=status: status in names(seen))
    await client.close()
    await until(lambda: _nothing_waits(kept_bus))
    assert len(seen) == 8
    assert await no_letters(pool)


# Subjects.


def events() -> Iterator[type[Message]]:
    """Yields every event of every service."""
    for stream in STREAMS.values():
        module = importlib.import_module(f"{stream.package}.events_pb2")
        for name, descriptor in module.DESCRIPTOR.message_types_by_name.items():
            if any(field.name in ("event_id", "batch_id") for field in descriptor.fields):
                yield getattr(module, name)


def test_a_stream_that_is_said_to_have_one_type_of_event_has_one() -> None:
    types = Counter(event.DESCRIPTOR.file.package for event in events())
    assert {stream.package for stream in STREAMS.values() if stream.one_type} == {
        package for package, count in types.items() if count == 1
    }


def test_subjects_are_made_of_names_in_the_contract_and_of_nothing_else() -> None:
    found = [subject_for(event.DESCRIPTOR) for event in events()]
    assert len(found) >= 6
    assert len(set(found)) == len(found)
    for subject in found:
        assert re.fullmatch(r"[a-z0-9]+(\.[a-z0-9-]+)+", subject)
        assert sum(subject.startswith(stream.package + ".") for stream in STREAMS.values()) == 1


@pytest.mark.parametrize("name", ["* > .", "opennotice.auth.v1.>", "", "Сourt of José\r\nPUB x 1"])
async def test_an_agencys_name_goes_nowhere_but_into_the_event(
    kept_bus: Bus, reading: None, seen: Seen, name: str
) -> None:
    await kept_bus.publish(agency_changed(name), str(new_id()))
    await until(lambda: seen)
    assert names(seen) == {name}
    info = await kept_bus.js.stream_info("AUTH", subjects_filter=">")
    assert info.state.subjects == {SUBJECT: 1}


# Permissions.


@dataclasses.dataclass(frozen=True)
class StrictNats(Nats):
    """A server with one more user, who may not do everything."""

    denied: str = ""

    def prepare(self) -> None:
        """Writes the configuration."""
        super().prepare()
        path = self.folder / "nats-server.conf"
        limited = f'{{user: limited, password: "x", permissions: {{publish: {{deny: "{self.denied}"}}}}}}'
        text = path.read_text().replace("users: [", f"users: [{limited}, ")
        assert limited in text
        path.write_text(text)


@pytest.fixture
def strict(request: pytest.FixtureRequest) -> Iterator[Nats]:
    """Gives such a server; what is denied is the parameter."""
    with tempfile.TemporaryDirectory(prefix="opennotice-tests-nats-") as folder:
        server = StrictNats(Path(folder), free_port(), free_port(), "only-for-tests", denied=request.param)
        with running(server):
            yield server


@pytest.mark.parametrize(
    "strict", [SUBJECT, "$JS.API.CONSUMER.MSG.NEXT.>"], indirect=True, ids=["may not publish", "may not read"]
)
async def test_a_refused_permission_is_noticed_and_loses_nothing(
    strict: Nats, pool: Pool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seen: Seen
) -> None:
    monkeypatch.setattr(bus_module, "_PUBLISH_SECONDS", 0.5)
    monkeypatch.setattr(consumer_module, "_LINGER_SECONDS", 0.5)
    limited = Bus(strict.url.replace("opennotice:only-for-tests", "limited:x"), "limited", ["AUTH"])
    free = Bus(strict.url, "free", ["AUTH"])

    async def handle(batch: list[Received[events_pb2.AgencyChanged]]) -> None:
        seen.extend((one.sequence, one.message.agency.display_name) for one in batch)

    async with pool.transaction() as conn:
        await outbox.add(conn, "frame", agency_changed("a"), new_id())
    loops = [limited.run, Relay(pool, limited, "frame").run, consumer(limited, pool, handle).run]
    tasks = [asyncio.create_task(restarted(loop)) for loop in loops]
    await until(lambda: limited.is_refused, 20)
    # It is connected all the same, and an alarm tells that it cannot work.
    assert limited.is_connected
    assert bus_module._AWAY.collect()[0].samples[0].value == 1
    said = capsys.readouterr()
    assert "NATS refuses a permission" in said.out + said.err
    await asyncio.sleep(1)
    assert seen == []
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=5)
    await limited.close()
    # Somebody who may finds everything there.
    loops = [free.run, Relay(pool, free, "frame").run, consumer(free, pool, handle).run]
    tasks = [asyncio.create_task(restarted(loop)) for loop in loops]
    await until(lambda: names(seen) == {"a"}, 20)
    assert await no_letters(pool)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=5)
    await free.close()


# Very much at once.


@dataclasses.dataclass(frozen=True)
class HastyNats(Nats):
    """A server that does not wait for its disk: filling a stream is not what is tested."""

    def prepare(self) -> None:
        """Writes the configuration."""
        super().prepare()
        path = self.folder / "nats-server.conf"
        path.write_text(path.read_text().replace("sync_interval: always", "sync_interval: 2m"))


@pytest.fixture
def hasty_url() -> Iterator[str]:
    """Gives such a server."""
    with (
        tempfile.TemporaryDirectory(prefix="opennotice-tests-nats-") as folder,
        running(HastyNats(Path(folder), free_port(), free_port(), "only-for-tests")) as server,
    ):
        yield server.url


async def test_a_hundred_thousand_events_at_once_are_read_a_few_at_a_time(hasty_url: str, pool: Pool) -> None:
    bus = Bus(hasty_url, "test", ["AUTH"])
    loop = asyncio.create_task(restarted(bus.run))
    await bus.connected()
    event = agency_changed("x" * 400).SerializeToString()
    for _ in range(100):
        for _ in range(1_000):
            await bus.client.publish(SUBJECT, event)
        await bus.client.flush(30)

    async def stored() -> bool:
        return bool((await bus.js.stream_info("AUTH")).state.messages == 100_000)

    await until(stored, 60)
    sizes: list[int] = []
    in_hand: list[int] = []
    enough = asyncio.Event()

    async def handle(batch: list[Received[events_pb2.AgencyChanged]]) -> None:
        sizes.append(len(batch))
        in_hand.append(sum(sub.pending_msgs for sub in bus.client._subs.values()))
        if sum(sizes) >= 20_000:
            enough.set()

    memory = psutil.Process().memory_info().rss
    task = asyncio.create_task(consumer(bus, pool, handle).run())
    async with asyncio.timeout(120):
        await enough.wait()
    # 100,000 events of 400 bytes would be twice as much, as objects far more.
    assert psutil.Process().memory_info().rss - memory < 20 * 1024**2
    assert (max(sizes), max(in_hand)) == (16, 0)
    task.cancel()
    await bus.close()
    loop.cancel()
