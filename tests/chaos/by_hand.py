"""What nobody should do to a running product and somebody will: SQL as the superuser, hands in NATS, made-up opens."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID, uuid4

import nats
import psycopg
from google.protobuf.message import Message
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import ConsumerInfo
from nats.js.errors import NotFoundError
from opennotice.auth.v1 import auth_pb2, auth_pb2_grpc
from opennotice.enrichment.v1 import events_pb2 as enrichment_pb2
from opennotice.tracking.v1 import events_pb2 as tracking_pb2
from psycopg.conninfo import make_conninfo

from services.chassis import clock
from services.chassis.bus import STREAMS, Outgoing, credentials, subject_for
from services.chassis.names import millisecond_of
from tests.chaos.checker import exported
from tests.chaos.rig import Rig, wait_for
from tests.reporting.sample import an_open

T = TypeVar("T")
# The two readers on the way of an open, and what they read.
ENRICHMENT = ("TRACKING", "enrichment-opens-recorded-v1")
REPORTING = ("ENRICHMENT", "reporting-opens-enriched-v1")
_SENT_AT_ONCE = 64
# Where opens lie that no visitor made: far from every ledger.
_LONG_AGO = timedelta(hours=3)


def superuser_url(rig: Rig) -> str:
    """Returns how the superuser reaches the product's database."""
    if "postgres" in rig.servers:
        return str(rig.servers["postgres"].server.admin_url)  # type: ignore[union-attr]
    secrets = rig.bundle.home / "secrets"
    a_role = (secrets / "database-tracking_ingest.url").read_text()
    return make_conninfo(a_role, user="postgres", password=(secrets / "postgres.password").read_text())


def sql(rig: Rig, query: str, *values: object) -> list[Any]:
    """Does something in the database that no role of the product may do; returns its rows."""
    with psycopg.connect(superuser_url(rig), connect_timeout=10) as conn:
        cursor = conn.execute(query.encode(), values)
        return cursor.fetchall() if cursor.description else []


def put_on_record(rig: Rig, opens: Iterable[tracking_pb2.OpenRecorded]) -> None:
    """Puts opens on record without announcing them; else the report would have what nobody recorded."""
    rows = []
    for one in opens:
        open_id = UUID(one.open_id)
        opened_at = clock.from_milliseconds(millisecond_of(open_id))
        rows.append((opened_at, open_id, UUID(one.agency_id), UUID(one.link_id), one.SerializeToString()))
    with psycopg.connect(superuser_url(rig), connect_timeout=10) as conn, conn.cursor() as cursor:
        cursor.executemany(
            "insert into tracking.raw_opens (opened_at, open_id, agency_id, link_id, record)"
            " values (%s, %s, %s, %s, %s)",
            rows,
        )


class Opens:
    """Makes opens that nobody made: at a time of their own, so that no visitor's ledger is mixed up with them."""

    def __init__(self, agency_id: UUID, link_id: UUID, since: datetime) -> None:
        self._ids = {"agency_id": agency_id, "link_id": link_id}
        self._since = self._next = since

    def enriched(self, **more: Any) -> enrichment_pb2.OpenEnriched:
        """Returns the next one, explained."""
        self._next += timedelta(milliseconds=1)
        return an_open(self._next, **{**self._ids, **more})

    def recorded(self, **more: Any) -> tracking_pb2.OpenRecorded:
        """Returns the next one as tracking publishes it; `more` replaces fields."""
        found = self.enriched().open
        for name, value in more.items():
            setattr(found, name, value)
        return found

    def in_report(self, rig: Rig) -> Counter[str]:
        """Returns how often each of them is in the report."""
        bounds = self._since.timestamp(), self._next.timestamp() + 1
        return Counter(one.name.partition("/")[2] for one in exported(rig, *bounds))


def opens_of_nobody(rig: Rig) -> Opens:
    """Returns what makes opens that no visitor made."""
    with rig.channel("auth") as channel:
        stub = auth_pb2_grpc.AuthServiceStub(channel)
        caller = stub.GetCaller(auth_pb2.GetCallerRequest(), metadata=rig.credential, timeout=10)
    agency_id = UUID(caller.agency.name.partition("/")[2])
    return Opens(agency_id, UUID(rig.names[rig.tokens[-1]].partition("/")[2]), clock.now() - _LONG_AGO)


def event(message: Message, payload: bytes | None = None, *, message_type: str = "") -> Outgoing:
    """Returns an event of a kind, with another content where one is given."""
    descriptor = message.DESCRIPTOR
    content = message.SerializeToString() if payload is None else payload
    return Outgoing(subject_for(descriptor), message_type or descriptor.full_name, str(uuid4()), content)


def in_nats(rig: Rig, do: Callable[[Client, JetStreamContext], Awaitable[T]]) -> T:
    """Does something over a connection of our own, past all gates."""
    own = rig.servers.get("nats")
    url = str(own.server.url) if own else (rig.bundle.home / "secrets" / "nats.url").read_text()  # type: ignore[union-attr]

    async def connected() -> T:
        client = await nats.connect(url, connect_timeout=5, **credentials(url))
        try:
            return await do(client, client.jetstream(timeout=10))
        finally:
            await client.close()

    return asyncio.run(connected())


def publish(rig: Rig, events: Iterable[Outgoing]) -> None:
    """Publishes events as they are given; one without a type and an id gets no headers at all."""

    async def send(_: Client, js: JetStreamContext) -> None:
        gate = asyncio.Semaphore(_SENT_AT_ONCE)

        async def one(event: Outgoing) -> None:
            headers = {"Nats-Msg-Id": event.message_id, "Opennotice-Type": event.message_type}
            given = {name: value for name, value in headers.items() if value}
            async with gate:
                await js.publish(event.subject, event.payload, timeout=10, headers=given or None)

        await asyncio.gather(*(one(event) for event in events))

    in_nats(rig, send)


def reader(rig: Rig, stream: str, durable: str) -> ConsumerInfo | None:
    """Returns how far a reader is; None while there is none."""

    async def ask(_: Client, js: JetStreamContext) -> ConsumerInfo | None:
        try:
            return await js.consumer_info(stream, durable)
        except NotFoundError:
            return None

    return in_nats(rig, ask)


def remove_readers(rig: Rig, *only: tuple[str, str]) -> dict[tuple[str, str], int]:
    """Removes durable readers, all by default; returns what was the last event for each of them."""

    async def remove(_: Client, js: JetStreamContext) -> dict[tuple[str, str], int]:
        removed = {}
        for stream in STREAMS:
            for found in await js.consumers_info(stream):
                if not only or (stream, found.name) in only:
                    await js.delete_consumer(stream, found.name)
                    subject = found.config.filter_subject or ">"
                    try:
                        last = await js.get_last_msg(stream, subject)
                    except NotFoundError:
                        continue
                    removed[stream, found.name] = last.seq or 0
        return removed

    return in_nats(rig, remove)


def are_through(rig: Rig, lasts: dict[tuple[str, str], int], seconds: float) -> None:
    """Waits until readers were made anew and have taken in everything up to an event, from the first one on."""

    async def through(_: Client, js: JetStreamContext) -> bool:
        for _turn in range(10):
            behind = [name for (stream, name), last in lasts.items() if await _taken(js, stream, name) < last]
            if not behind:
                return True
            await asyncio.sleep(0.2)
        return False

    wait_for(lambda: in_nats(rig, through), seconds, "the readers that were removed to have read everything again")


async def _taken(js: JetStreamContext, stream: str, durable: str) -> int:
    try:
        floor = (await js.consumer_info(stream, durable)).ack_floor
    except NotFoundError:
        return -1
    return floor.stream_seq if floor else -1


def give_back(rig: Rig, stream: str, durable: str, times: int) -> int:
    """Takes what waits for a reader and gives it back, again and again; returns how many events that were."""

    async def take(_: Client, js: JetStreamContext) -> int:
        pull = await js.pull_subscribe_bind(consumer=durable, stream=stream)
        seen = set()
        for _turn in range(times):
            messages = []
            for _part in range(10):
                try:
                    messages += await pull.fetch(100, timeout=0.5)
                except TimeoutError:
                    break
            await asyncio.gather(*(message.nak() for message in messages))
            seen |= {message.metadata.sequence.stream for message in messages}
        return len(seen)

    return in_nats(rig, take)


def acknowledge(rig: Rig, stream: str, durable: str) -> int:
    """Acknowledges what waits for a reader without doing anything with it; returns how many events that were."""

    async def take(_: Client, js: JetStreamContext) -> int:
        pull = await js.pull_subscribe_bind(consumer=durable, stream=stream)
        count = 0
        while True:
            info = await js.consumer_info(stream, durable)
            if not info.num_pending and not info.num_ack_pending:
                return count
            try:
                messages = await pull.fetch(100, timeout=1)
            except TimeoutError:
                continue
            for message in messages:
                await message.ack_sync()
            count += len(messages)

    return in_nats(rig, take)


def read_all(rig: Rig, stream: str, subject: str) -> list[bytes]:
    """Returns what lies in a stream, the oldest first, through a reader that leaves nothing behind."""

    async def read(_: Client, js: JetStreamContext) -> list[bytes]:
        pull = await js.pull_subscribe(subject, durable=f"by-hand-{uuid4().hex[:8]}", stream=stream)
        found: list[bytes] = []
        try:
            while True:
                messages = await pull.fetch(200, timeout=1)
                for message in messages:
                    await message.ack()
                found += [message.data for message in messages]
        except TimeoutError:
            return found
        finally:
            await pull.unsubscribe()
            await js.delete_consumer(stream, pull._consumer)

    return in_nats(rig, read)
