"""Events that nobody can take in, of every kind that may lie in a queue: hostile, damaged, or from another program."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, timedelta
from uuid import uuid4

from opennotice.audit.v1 import audit_pb2
from opennotice.auth.v1 import auth_pb2
from opennotice.auth.v1 import events_pb2 as auth_events_pb2
from opennotice.link.v1 import events_pb2 as link_events_pb2
from opennotice.tracking.v1 import events_pb2 as tracking_pb2

from services.chassis.bus import Outgoing, subject_for
from tests.chaos.by_hand import Opens, event
from tests.reporting.sample import a_pack

# The largest event that NATS takes, with room for its headers.
_LARGEST = 1024 * 1024 - 512


@dataclass(frozen=True)
class Poison:
    """An event that has to become a dead letter, and what must come of it besides."""

    kind: str
    event: Outgoing
    # Whose dead letter it becomes.
    kept_by: tuple[str, ...]
    # What is in the dead letter: the whole event unless a part of it is set aside alone.
    mark: bytes = b""
    # Opens in the same event with which nothing is wrong.
    good: tuple[tracking_pb2.OpenRecorded, ...] = ()

    def is_kept_in(self, service: str, payload: bytes) -> bool:
        """Whether a dead letter is of this event."""
        if service not in self.kept_by:
            return False
        return self.mark in payload if self.mark else payload == self.event.payload


def pack(*opens: tracking_pb2.OpenRecorded, batch_id: str = "") -> tracking_pb2.OpensRecorded:
    """Returns a pack as tracking publishes it."""
    return tracking_pb2.OpensRecorded(batch_id=batch_id or str(uuid4()), opens=opens)


def poisons(opens: Opens) -> Iterator[Poison]:
    """Yields one event of each kind; those that are tried for longest come first."""
    yield from _refused_by_rules(opens)
    yield from _unreadable(opens)
    yield from _opens_that_cannot_be(opens)


def _garbage() -> bytes:
    return b"\xff" * 16 + uuid4().bytes


def _refused_by_rules(opens: Opens) -> Iterator[Poison]:
    """What is well formed and still refused: each is tried five times before it is set aside."""
    yield Poison("no batch id", event(pack(opens.recorded(), batch_id=f"no id {uuid4()}")), ("enrichment",))
    action = link_events_pb2.ActionTaken(event_id=str(uuid4()), action=audit_pb2.Action(verb="drop table"))
    yield Poison("nobody's action", event(action), ("auth",))
    agency = auth_pb2.Agency(name="agencies/of nobody", revision=10**9)
    changed = auth_events_pb2.AgencyChanged(event_id=str(uuid4()), agency=agency)
    yield Poison("agency without a name", event(changed), ("enrichment", "link"))


def _unreadable(opens: Opens) -> Iterator[Poison]:
    a_recorded = pack(opens.recorded())
    yield Poison("garbage", event(a_recorded, _garbage()), ("enrichment",))
    bare = Outgoing(subject_for(a_recorded.DESCRIPTOR), "", "", _garbage())
    yield Poison("garbage without headers", bare, ("enrichment",))
    cut = pack(opens.recorded(), opens.recorded()).SerializeToString()[:-7]
    yield Poison("truncated", event(a_recorded, cut), ("enrichment",))
    other = event(pack(opens.recorded()), message_type="opennotice.link.v1.DirectoryChanged")
    yield Poison("another type in its header", other, ("enrichment",))
    large = _garbage() + b"\xff" * (_LARGEST - 400)
    yield Poison("1 MiB", event(a_recorded, large), ("enrichment",))
    yield Poison("empty", event(a_recorded, b""), ("enrichment",))
    yield Poison("garbage explained", event(a_pack([]), _garbage()), ("reporting",))
    for message in (link_events_pb2.DirectoryChanged(), link_events_pb2.PeopleChanged()):
        yield Poison(f"garbage as {message.DESCRIPTOR.name}", event(message, _garbage()), ("reporting",))
    yield Poison("garbage as AgencyChanged", event(auth_events_pb2.AgencyChanged(), _garbage()), ("enrichment", "link"))


def _opens_that_cannot_be(opens: Opens) -> Iterator[Poison]:
    """One bad open among good ones: it alone is set aside, by whoever finds the fault."""

    def among(kind: str, bad: tracking_pb2.OpenRecorded, found_by: str) -> Poison:
        good = opens.recorded(), opens.recorded(query="\0'; drop table opens; --\x1b[2J", user_agent="\0\u202e")
        return Poison(kind, event(pack(good[0], bad, good[1])), (found_by,), bad.open_id.encode(), good)

    yield among("agency that is none", opens.recorded(agency_id="nobody"), "enrichment")
    yield among("open that is none", opens.recorded(open_id=f"no id {uuid4()}"), "enrichment")
    yield among("kind of the future", opens.recorded(kind=99), "enrichment")
    after_all = opens.recorded()
    after_all.open_time.seconds = 10**12
    yield among("time after all times", after_all, "enrichment")
    yield among("id of another version", opens.recorded(open_id=str(uuid4())), "reporting")
    yield among("link with NUL", opens.recorded(link_id="\0" * 36), "reporting")
    for kind, years in (("ten years ago", -10), ("in ten years", 10)):
        elsewhen = opens.recorded()
        elsewhen.open_time.FromDatetime(elsewhen.open_time.ToDatetime(tzinfo=UTC) + timedelta(days=years * 365))
        yield among(kind, elsewhen, "reporting")
    yield among("address that is none", opens.recorded(ip_address="::1; drop table"), "reporting")
    future, good = opens.enriched(verdict=99), opens.enriched()
    explained = event(a_pack([future, good]))
    yield Poison("verdict of the future", explained, ("reporting",), future.open.open_id.encode(), (good.open,))
    first, known = opens.recorded(), tracking_pb2.OpenRecorded()
    known.CopyFrom(first)
    known.user_agent = f"somebody else {uuid4()}"
    twice = event(pack(first, known))
    yield Poison("same id, another content", twice, ("reporting",), known.user_agent.encode(), (first,))
