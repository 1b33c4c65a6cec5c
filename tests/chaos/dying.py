"""What dies, goes away or freezes: processes, PostgreSQL, NATS, and the ways between them."""

import contextlib
import time
from collections.abc import Callable, Iterator

from services.tracking import metrics
from tests.chaos.checker import Verdict
from tests.chaos.rig import OWN, Rig
from tests.chaos.trial import LEAD_SECONDS, REST_SECONDS, Outcome, Run, Trial, served_in

_BETWEEN_CUTS = 1.5
# More than all of them take one after the other.
_IN_TURN_SECONDS = 40.0


def killed(*names: str) -> Callable[[Run], Outcome]:
    """Any process may die at any moment."""

    def trial(run: Run) -> Outcome:
        def damage() -> None:
            for _ in run.moments(run.scale.load_seconds - 8, run.scale.kills):
                run.rig.kill(*names)

        _, verdict = run.load(run.scale.busy, damage)
        # Visitors who were due while nobody listened waited in the queue of the socket.
        run.within("slowest_s", verdict.slowest, 10 if "postgres" in names else 5)
        run.within("complete_s", float(str(run.outcome.figures["complete_s"])), 30)
        # Only the requests that a dying process had in its hands may go without an answer.
        cut = 0 if "tracking" not in names else run.scale.kills * 200
        run.outcome.must(verdict.unknown <= cut, verdict.unanswered)
        run.outcome.must(verdict.refused == 0, f"{verdict.refused} known links were not served")
        return run.outcome

    return trial


@contextlib.contextmanager
def _stopped(rig: Rig, name: str) -> Iterator[None]:
    server = rig.servers[name]
    server.end()
    try:
        yield
    finally:
        server.start()


def nats_away(run: Run) -> Outcome:
    """NATS may be away for long: nobody notices, and what was not told is told afterwards."""
    rig = run.rig
    before = rig.restarts()

    def damage(seconds: float) -> None:
        with _stopped(rig, "nats"):
            time.sleep(seconds)

    _, verdict = run.again_and_again(run.scale.nats_away, damage)
    run.within("p99_ms", verdict.p99 * 1000, 150)
    _nobody_left_out(run, verdict)
    after = rig.restarts()
    run.outcome.must(before == after, f"processes ended: {before} before, {after} after")
    return run.outcome


def postgres_away(run: Run) -> Outcome:
    """PostgreSQL may be away: known links are served and recorded, unknown ones are told to come back."""
    rig = run.rig
    spans: list[tuple[float, float]] = []
    staff: list[tuple[int, float]] = []

    def damage(seconds: float) -> None:
        with _stopped(rig, "postgres"):
            began = time.time()
            time.sleep(seconds / 2)
            with rig.bundle.api(rig.key) as api:
                asked = time.monotonic()
                answer = api.get("opens")
                staff.append((answer.status_code, time.monotonic() - asked))
            time.sleep(seconds / 2)
            spans.append((began, time.time()))

    requests, verdict = run.again_and_again(run.scale.postgres_away, damage)
    asked, served = (sum(parts) for parts in zip(*(served_in(requests, *span) for span in spans), strict=True))
    run.outcome.figures |= {"asked_while_away": asked, "served": served}
    run.outcome.must(asked == served > 0, f"{asked - served} of {asked} known links were not served while it was away")
    _nobody_left_out(run, verdict)
    # A second at each end, in which it is neither there nor away.
    inside = [(began + 1, ended - 1) for began, ended in spans]
    strangers = [
        one.status
        for one in requests
        if one.kind == "unknown" and any(began < one.sent and one.received < ended for began, ended in inside)
    ]
    run.outcome.figures["unknown_tokens_503"] = f"{strangers.count(503)}/{len(strangers)}"
    run.outcome.must(set(strangers) <= {503}, f"unknown tokens were answered {sorted(set(strangers))}")
    run.outcome.must(all(status == 503 for status, _ in staff), f"staff were answered {staff}")
    run.within("staff_told_s", max(seconds for _, seconds in staff), 3)
    return run.outcome


def _nobody_left_out(run: Run, verdict: Verdict) -> None:
    run.all_served(verdict)
    run.outcome.must(verdict.unrecorded == 0, f"{verdict.unrecorded} visitors were served without a record")


def frozen(name: str) -> Callable[[Run], Outcome]:
    """A process that stands still, with all its connections open, is not a dead one."""

    @contextlib.contextmanager
    def freeze(rig: Rig) -> Iterator[None]:
        with rig.frozen(name):
            yield

    return _still(name, freeze)


def held(name: str) -> Callable[[Run], Outcome]:
    """A way that takes connections and lets nothing through."""

    @contextlib.contextmanager
    def hold(rig: Rig) -> Iterator[None]:
        rig.gates[name].hold()
        try:
            yield
        finally:
            rig.gates[name].open()

    return _still(name, hold)


def _still(name: str, freeze: Callable[[Rig], contextlib.AbstractContextManager[None]]) -> Callable[[Run], Outcome]:
    noticed_by = {"nats": "opennotice_nats_away", "postgres": metrics.STORE_AWAY._name}.get(name, "")

    def trial(run: Run) -> Outcome:
        rig, noticed = run.rig, list[float]()
        watched = [one for one in OWN if one != name]
        before = {one: rig.memory(one) for one in watched}
        most = dict(before)

        def damage(seconds: float) -> None:
            with freeze(rig):
                began = time.monotonic()
                unnoticed = bool(noticed_by)
                while time.monotonic() - began < seconds:
                    for one in watched:
                        most[one] = max(most[one], rig.memory(one))
                    if unnoticed and rig.metric("tracking", noticed_by):
                        noticed.append(time.monotonic() - began)
                        unnoticed = False
                    time.sleep(0.25)

        _, verdict = run.again_and_again(run.scale.frozen, damage)
        grown = {one: most[one] - before[one] for one in watched}
        worst = max(grown, key=lambda one: grown[one])
        run.outcome.figures["grown_mb"] = f"{worst} {grown[worst]:.0f}"
        run.outcome.must(grown[worst] <= 100, f"{worst} grew by {grown[worst]:.0f} MB")
        if name != "tracking":
            # While tracking itself stands still nobody can answer; its visitors wait, as long as each of them will.
            run.within("p99_ms", verdict.p99 * 1000, 2_500)
            run.outcome.must(verdict.unknown == 0, verdict.unanswered)
        run.outcome.must(verdict.refused == 0, f"{verdict.refused} known links were not served")
        if noticed_by:
            times = len(run.scale.frozen)
            run.outcome.must(len(noticed) == times, f"noticed {len(noticed)} of {times} times")
            run.within("noticed_s", max(noticed, default=0.0), 15)
        return run.outcome

    return trial


def slow_way(name: str) -> Callable[[Run], Outcome]:
    """A way on which everything takes half a second longer."""

    def trial(run: Run) -> Outcome:
        def damage(seconds: float) -> None:
            run.rig.gates[name].delay(0.5)
            time.sleep(seconds)
            run.rig.gates[name].delay(0.0)

        _, verdict = run.again_and_again(run.scale.frozen, damage)
        run.within("p99_ms", verdict.p99 * 1000, 2_500)
        run.all_served(verdict)
        return run.outcome

    return trial


def cut_after_commit(run: Run) -> Outcome:
    """The connection to PostgreSQL breaks after a commit was sent and before its answer: done, and nobody knows."""

    cuts = run.scale.kills * 10

    def damage() -> None:
        for _ in run.moments(cuts * _BETWEEN_CUTS, cuts):
            run.rig.gates["postgres"].cut_next_answer()

    _, verdict = run.load(run.scale.usual, damage, seconds=LEAD_SECONDS + cuts * _BETWEEN_CUTS + REST_SECONDS)
    _nobody_left_out(run, verdict)
    run.outcome.figures["cuts"] = run.rig.gates["postgres"].cuts
    run.outcome.must(run.rig.gates["postgres"].cuts > 0, "no connection was cut")
    return run.outcome


def stopped_in_turn(run: Run) -> Outcome:
    """Every process is stopped and started again, as in an upgrade, while visitors come."""
    rig, took = run.rig, dict[str, float]()

    def damage() -> None:
        for name in OWN:
            took[name] = rig.stop_and_start(name)

    _, verdict = run.load(run.scale.usual, damage, seconds=_IN_TURN_SECONDS)
    run.nearly_all_served(verdict, took)
    return run.outcome


_TARGETS = [(name,) for name in OWN] + [("nats",), ("postgres",), ("nats", "postgres")]
TRIALS = [
    *(Trial("P1", f"kill -9 {' and '.join(names)}", killed(*names)) for names in _TARGETS),
    Trial("P3", "NATS away", nats_away, own=("nats", "postgres")),
    Trial("P4", "PostgreSQL away", postgres_away, own=("nats", "postgres")),
    *(Trial("P9", f"{name} frozen", frozen(name)) for name in ("nats", "postgres", "tracking", "enrichment")),
    *(Trial("P9", f"way to {name} held", held(name), own=("nats", "postgres")) for name in ("nats", "postgres")),
    *(Trial("P9", f"way to {name} slow", slow_way(name), own=("nats", "postgres")) for name in ("nats", "postgres")),
    Trial("P9", "cut after COMMIT", cut_after_commit, own=("nats", "postgres")),
    Trial("P10", "processes stopped in turn", stopped_in_turn),
]
