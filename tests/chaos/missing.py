"""The system checks itself: what is taken away behind its back is found, and repaired or told."""

import contextlib
import itertools
import re
import time
from uuid import UUID

from google.protobuf.message import DecodeError
from opennotice.tracking.v1 import events_pb2 as tracking_pb2

from services.tracking.recorder import PACK_SUBJECT
from tests.chaos import by_hand
from tests.chaos.again import checksum
from tests.chaos.checker import check, exported
from tests.chaos.ledger import Request, read
from tests.chaos.rig import Rig, wait_for
from tests.chaos.trial import Outcome, Run, Trial
from tests.fix_bundle import ROOT

# As the promise says it.
_NOTICED_SECONDS = 180.0
_ALARMS = ROOT / "deploy" / "monitoring" / "alarms.yaml"


def checks_itself(run: Run) -> Outcome:
    """Rows deleted by hand, a reader removed, events acknowledged by a stranger, a reader that stands still."""
    rig, outcome = run.rig, run.outcome
    limit = float(re.findall(r"opennotice_canary_age_seconds > (\d+)", _ALARMS.read_text())[0])
    requests: list[Request] = []
    canaries_before = len(canaries(rig))

    def visits(seconds: float) -> list[str]:
        load = rig.visitors(20, seconds, run.seed + len(requests), plain=True)
        load.wait()
        made = read(load.ledger)
        requests.extend(made)
        return [one.open_id for one in made if one.open_id]

    def in_report() -> set[str]:
        # Each time is a line of the audit log.
        time.sleep(0.5)
        return {one.name.partition("/")[2] for one in exported(rig, began, time.time() + 60)}

    began = time.time()
    first = visits(5)
    wait_for(lambda: set(first) <= in_report(), 60, "the first visits")
    again_before = rig.metric("tracking", "opennotice_opens_published_again_total")

    # A reader is removed.
    removed = time.monotonic()
    by_hand.remove_readers(rig, by_hand.REPORTING)
    second = visits(2)
    wait_for(lambda: set(second) <= in_report(), _NOTICED_SECONDS, "a removed reader to be made again")
    run.within("reader_again_s", time.monotonic() - removed, _NOTICED_SECONDS)
    known = exported(rig, began, time.time())

    # Rows go, and events that are taken by a stranger while enrichment stands still.
    with rig.frozen("enrichment"):
        paused = deleted = time.monotonic()
        gone = run.random.sample([UUID(one) for one in first], 10)
        by_hand.sql(rig, "delete from reporting.opens where open_id = any(%s)", gone)
        # Until then it may be handed an event that it has asked for.
        time.sleep(6)
        third = visits(2)
        wait_for(lambda: not by_hand.sql(rig, "select 1 from tracking.outbox"), 30, "the packs to leave")
        outcome.figures["events_stolen"] = by_hand.acknowledge(rig, *by_hand.ENRICHMENT)
        stolen = time.monotonic()
        wait_for(
            lambda: rig.metric("reporting", "opennotice_canary_age_seconds") > limit,
            _NOTICED_SECONDS,
            "the canary to be missed",
        )
        run.within("canary_missed_s", time.monotonic() - paused, _NOTICED_SECONDS)
    for name, wanted, since in (("rows", {str(one) for one in gone}, deleted), ("stolen", set(third), stolen)):
        with contextlib.suppress(TimeoutError):
            wait_for(lambda wanted=wanted: wanted <= in_report(), 2 * _NOTICED_SECONDS, name)  # type: ignore[misc]
        run.within(f"{name}_again_s", time.monotonic() - since, _NOTICED_SECONDS)
        outcome.must(wanted <= in_report(), f"{name} did not come again")
    again = rig.metric("tracking", "opennotice_opens_published_again_total") - again_before
    outcome.figures["published_again"] = int(again)
    outcome.must(again >= len(gone) + len(third), f"only {again:.0f} opens were published again")
    wait_for(lambda: rig.metric("reporting", "opennotice_canary_age_seconds") < limit, 120, "the canary to come again")
    verdict, _ = check(rig, requests, began)
    # Also says that no canary is among them.
    outcome.must(verdict.is_true, f"the report is not what was visited: {verdict.figures()}")
    until = max(one.open_time.ToNanoseconds() for one in known) / 1e9 + 0.001
    outcome.must(checksum(known) == checksum(exported(rig, began, until)), "the rows are not what they were")
    gaps = canaries(rig)[max(canaries_before - 1, 0) :]
    widest = max((b - a for a, b in itertools.pairwise(gaps)), default=float("inf"))
    run.within("canary_every_s", widest, 75)
    return outcome


def canaries(rig: Rig) -> list[float]:
    """Returns when each canary was sent that lies in the stream."""
    found = []
    for payload in by_hand.read_all(rig, "TRACKING", PACK_SUBJECT):
        # What an earlier trial poisoned the stream with still lies there.
        with contextlib.suppress(DecodeError):
            pack = tracking_pb2.OpensRecorded.FromString(payload)
            if pack.HasField("canary_time"):
                found.append(pack.canary_time.ToNanoseconds() / 1e9)
    return found


TRIALS = [Trial("P11", "rows deleted, events stolen, readers removed and paused", checks_itself, own=("nats",))]
