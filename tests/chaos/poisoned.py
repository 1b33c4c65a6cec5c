"""One bad event never stops the others: poison in every queue, while visitors come."""

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

import grpc
from opennotice.enrichment.v1 import events_pb2 as enrichment_pb2
from opennotice.reporting.v1 import reporting_pb2, reporting_pb2_grpc

from services.chassis.bus import Outgoing
from tests.chaos import by_hand
from tests.chaos.ledger import Request, percentile
from tests.chaos.poison import Poison, poisons
from tests.chaos.rig import Rig
from tests.chaos.trial import Outcome, Run, Trial

_SET_ASIDE_SECONDS = 60.0
_SERVICES = ("auth", "enrichment", "link", "reporting")


class Watch:
    """Notes when opens of one link become visible, as a page of staff would."""

    def __init__(self, rig: Rig, link: str) -> None:
        self._rig = rig
        self._link = link
        self._channel = rig.channel("reporting")
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ending = False
        self.seen: dict[str, float] = {}

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending = True
        self._channel.close()
        self._thread.join(10)

    def _run(self) -> None:
        stub = reporting_pb2_grpc.ReportingServiceStub(self._channel)
        request = reporting_pb2.WatchOpensRequest(filter=reporting_pb2.OpenFilter(link=self._link))
        while not self._ending:
            # What is missed while it is cut off counts as never seen; ValueError says that the channel was closed.
            with contextlib.suppress(grpc.RpcError, ValueError):
                for part in stub.WatchOpens(request, metadata=self._rig.credential):
                    now = time.time()
                    for one in part.opens:
                        self.seen.setdefault(one.name.partition("/")[2], now - one.open_time.ToNanoseconds() / 1e9)
            time.sleep(0.1)

    def freshness(self, requests: Sequence[Request], link: int) -> list[float]:
        """Returns after how many seconds each open of the link was to be seen."""
        mine = [one.open_id for one in requests if one.link == link and one.open_id and one.kind != "expired"]
        return [self.seen.get(open_id, float("inf")) for open_id in mine]


@dataclass(frozen=True)
class Letter:
    """A dead letter with its bytes."""

    service: str
    name: str
    payload: bytes
    error: str
    attempts: int
    created: float


def dead_letters(rig: Rig) -> list[Letter]:
    """Returns everything that was set aside, the oldest first: several may have the same bytes."""
    query = (
        "select id, payload, error, attempts, extract(epoch from create_time)::float8 from {}.dead_letters"
        " order by create_time"
    )
    return [
        Letter(service, f"deadLetters/{row[0]}", bytes(row[1]), row[2], row[3], row[4])
        for service in _SERVICES
        for row in by_hand.sql(rig, query.format(service))
    ]


# A rule in the database that one link's opens break: what they need to be taken in is away for a while.
_REFUSE = """
create function reporting.refuse_for_a_while() returns trigger language plpgsql as
$$ begin raise exception 'not now'; end $$;
create trigger refuse_for_a_while before insert on reporting.opens for each row
when (new.link_id = '{}') execute function reporting.refuse_for_a_while()
"""
_ALLOW = "drop function if exists reporting.refuse_for_a_while cascade"
_WATCHED = 5
_HELD_UP = 20


def poisoned(run: Run) -> Outcome:
    """One event in a thousand cannot be taken in: the others come through as quickly, and it is kept to be repaired."""
    rig, scale, outcome = run.rig, run.scale, run.outcome
    opens = by_hand.opens_of_nobody(rig)
    # A link of its own, so that nobody else's opens lie in the same pack.
    held_link = uuid4()
    held_up = [opens.enriched(link_id=held_link) for _ in range(_HELD_UP)]
    rounds = max(1, round(scale.busy * scale.load_seconds / 1000 / len(list(poisons(opens)))))
    misfit, beside = opens.enriched(link_id=held_link), opens.enriched()
    alone = by_hand.event(enrichment_pb2.OpensEnriched(batch_id=str(uuid4()), opens=[beside, misfit]))
    poison = [
        Poison("refused by the database", alone, ("reporting",), misfit.open.open_id.encode(), (beside.open,)),
        *(one for _ in range(rounds) for one in poisons(opens)),
    ]
    sent: list[tuple[Poison, float]] = []
    before = rig.restarts()
    outcome.must(not dead_letters(rig), "there were dead letters before")
    by_hand.put_on_record(rig, [good for one in poison for good in one.good])
    by_hand.sql(rig, _REFUSE.format(held_link))
    held_event = by_hand.event(enrichment_pb2.OpensEnriched(batch_id=str(uuid4()), opens=held_up))

    def damage() -> None:
        by_hand.publish(rig, [held_event])
        pause = max(scale.load_seconds - 8, 1) / len(poison)
        for one in poison:
            sent.append((one, time.time()))
            by_hand.publish(rig, [one.event])
            time.sleep(max(0.0, pause - (time.time() - sent[-1][1])))

    try:
        link = rig.names[rig.tokens[_WATCHED]]
        with Watch(rig, link) as watch:
            requests, _ = run.load(scale.busy, damage)
        fresh = watch.freshness(requests, _WATCHED)
        wanted = sum(len(one.kept_by) for one in poison) + 1
        until = time.monotonic() + _SET_ASIDE_SECONDS + 20
        while len(dead_letters(rig)) < wanted and time.monotonic() < until:
            time.sleep(2)
        # What nobody sent, or what is set aside twice, may still come.
        time.sleep(2)
        _all_set_aside(run, sent, held_event)
    finally:
        by_hand.sql(rig, _ALLOW)
    outcome.figures["poison"] = len(poison)
    outcome.figures["watched"] = len(fresh)
    run.within("fresh_p95_s", percentile(fresh, 0.95), 5)
    outcome.must(rig.restarts() == before, f"processes ended: {before} before, {rig.restarts()} after")
    letters = len(dead_letters(rig))
    # Not before: the reconciler would find them missing and send them again, which is another trial's business.
    held_up.append(misfit)
    by_hand.put_on_record(rig, [one.open for one in held_up])
    for _ in range(2):
        said = json.loads(rig.bundle.command("dead-letters", "replay", "--all", "--json").stdout)["outcomes"]
    taken = letters - len(dead_letters(rig))
    outcome.figures["taken_in_after_all"] = taken
    outcome.must(taken == 2, f"{taken} of {letters} dead letters were taken in, two were repaired")
    outcome.must(all(one["error"] for one in said), "a second replay took something in")
    expected = [one.open.open_id for one in held_up] + [good.open_id for one in poison for good in one.good]
    there = opens.in_report(rig)
    lost = [one for one in expected if not there[one]]
    outcome.must(not lost, f"{len(lost)} of {len(expected)} opens beside poison are not in the report")
    outcome.must(there == Counter(expected), "the report has opens that are poison, or twice")
    for service in _SERVICES:
        by_hand.sql(rig, f"delete from {service}.dead_letters")
    return outcome


def _all_set_aside(run: Run, sent: Sequence[tuple[Poison, float]], held: Outgoing) -> None:
    outcome, letters = run.outcome, dead_letters(run.rig)
    listed = json.loads(run.rig.bundle.command("dead-letters", "list", "--json").stdout)["dead_letters"]
    told = {(one["service"], one["name"]): one for one in listed}
    outcome.figures["dead_letters"] = len(letters)
    latest = 0.0
    left = {(one.service, one.name): one for one in letters}
    for poison, moment in sent:
        for service in poison.kept_by:
            found = [key for key, one in left.items() if one.service == service and poison.is_kept_in(*_of(one))]
            if not found:
                outcome.must(False, f"{poison.kind} is not among the dead letters of {service}")
                continue
            letter = left.pop(found[0])
            latest = max(latest, letter.created - moment)
            row = told.get(found[0], {})
            whole = bool(row.get("error")) and row.get("attempts") == letter.attempts >= 1
            outcome.must(whole and row["bytes"] == len(letter.payload), f"{poison.kind} is listed as {row}")
    waiting = [key for key, one in left.items() if one.payload == held.payload]
    outcome.must(len(waiting) == 1, f"the event that was held up was set aside {len(waiting)} times")
    strange = [(one.service, one.error[:100]) for key, one in left.items() if key not in waiting]
    outcome.must(not strange, f"{len(strange)} dead letters nobody sent, e.g. {strange[:2]}")
    run.within("set_aside_in_s", latest, _SET_ASIDE_SECONDS)


def _of(letter: Letter) -> tuple[str, bytes]:
    return letter.service, letter.payload


TRIALS = [Trial("P8", "one event in a thousand is poison", poisoned, own=("nats",))]
