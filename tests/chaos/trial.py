"""One fault under load: what a trial is, what it is given, and what comes out of it."""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.chaos.checker import Verdict, check
from tests.chaos.ledger import Request, read
from tests.chaos.rig import Rig, wait_for

# Before the first damage: what starts slowly is not the fault's doing.
LEAD_SECONDS = 3.0


@dataclass(frozen=True)
class Scale:
    """How large the trials are. Rates are requests a second; all else seconds or a count."""

    name: str
    # The two loads of the promises.
    usual: float
    busy: float
    # How long visitors come while processes are killed and broken events are sent, and how often each is killed.
    load_seconds: float
    kills: int
    # How long a server is taken away, and a process stands still: once for each number, under one load.
    nats_away: Sequence[float]
    postgres_away: Sequence[float]
    frozen: Sequence[float]
    full_disk_seconds: float
    # How many opens wait unread when the files of NATS are damaged.
    backlog: int
    # How long is waited until the report is whole. What a promise says of time is judged apart from it.
    patience: float
    # Whether figures in seconds are held against the promise; not where other work shares the machine.
    timed: bool = True


BRIEF = Scale(
    "brief", 100, 150, load_seconds=14, kills=1, nats_away=(6,), postgres_away=(6,), frozen=(6,), full_disk_seconds=12,
    backlog=1_000, patience=240, timed=False,
)  # fmt: skip
SHORT = Scale(
    "short", 300, 500, load_seconds=60, kills=2, nats_away=(20, 20), postgres_away=(20, 20), frozen=(15, 15),
    full_disk_seconds=20, backlog=10_000, patience=240,
)  # fmt: skip
FULL = Scale(
    "full", 300, 500, load_seconds=600, kills=10, nats_away=(600,), postgres_away=(120, 120, 120),
    frozen=(30, 30, 30), full_disk_seconds=60, backlog=100_000, patience=360,
)  # fmt: skip
# What is left between two damages, for what was damaged to find back, and after the last one.
REST_SECONDS = 5.0


@dataclass
class Outcome:
    """What a trial has shown: figures in the order in which they are told, and what broke the promise."""

    figures: dict[str, object] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the promise held."""
        return not self.broken

    def must(self, holds: bool, otherwise: str) -> None:
        """Notes what has to hold."""
        if not holds:
            self.broken.append(otherwise)


@dataclass(frozen=True)
class Trial:
    """A promise under one fault."""

    promise: str
    fault: str
    run: Callable[["Run"], Outcome]
    # Servers that have to be the rig's own, so that they can be taken away for long.
    own: tuple[str, ...] = ()
    # Data that have to lie on a small disk of their own: "postgres", "nats" or "home".
    small_disk: str = ""

    @property
    def name(self) -> str:
        """How the trial is called on the command line and in the report."""
        return f"{self.promise} {self.fault}"


@dataclass
class Run:
    """A trial at work."""

    rig: Rig
    scale: Scale
    seed: int
    outcome: Outcome = field(default_factory=Outcome)

    def __post_init__(self) -> None:
        """Makes its chance repeatable."""
        self.random = random.Random(self.seed)

    def moments(self, seconds: float, times: int) -> Iterator[float]:
        """Yields at random moments, one in each equal part of a stretch of time, and says how far in it is."""
        began = time.monotonic()
        part = seconds / times
        for turn in range(times):
            at = (turn + self.random.uniform(0.1, 0.6)) * part
            time.sleep(max(0.0, began + at - time.monotonic()))
            yield at

    def again_and_again(
        self, lengths: Sequence[float], damage: Callable[[float], None]
    ) -> tuple[list[Request], Verdict]:
        """Lets visitors come for as long as it takes to do the same damage for each of some lengths of time."""

        def in_turn() -> None:
            for seconds in lengths:
                damage(seconds)
                time.sleep(REST_SECONDS)

        return self.load(self.scale.usual, in_turn, seconds=LEAD_SECONDS + sum(lengths) + REST_SECONDS * len(lengths))

    def load(
        self, rate: float, damage: Callable[[], None], *, seconds: float = 0.0, plain: bool = False
    ) -> tuple[list[Request], Verdict]:
        """Lets visitors come, does the damage, waits for the report, and compares. Notes the figures."""
        seconds = seconds or self.scale.load_seconds
        load = self.rig.visitors(rate, seconds, self.seed, plain=plain)
        try:
            time.sleep(LEAD_SECONDS)
            damage()
        finally:
            said = load.wait()
        requests = read(load.ledger)
        wait_for(self.rig.is_ready, 120, "everything to be ready again")
        verdict, visible = check(self.rig, requests, load.began, patience=self.scale.patience)
        self.outcome.figures |= {"rate": rate, **verdict.figures(), "complete_s": round(visible, 1)}
        self.outcome.must(said["dropped"] == 0, f"the load itself left out {said['dropped']} visitors")
        for kind in ("lost", "duplicate", "invented", "wrong"):
            found = getattr(verdict, kind)
            self.outcome.must(not found, f"{kind}: {len(found)}, e.g. {'; '.join(found[:2])}")
        self.outcome.must(verdict.recorded > 0, "nothing was recorded")
        return requests, verdict

    def within(self, name: str, value: float, limit: float) -> None:
        """Notes a figure and, where time is judged, that it has to keep to a limit."""
        self.outcome.figures[name] = round(value, 2)
        if self.scale.timed:
            self.outcome.must(value <= limit, f"{name} is {value:.2f}, the promise says {limit:g}")

    def all_served(self, verdict: Verdict) -> None:
        """Notes that every visitor had an answer, and those with links that work the page."""
        self.outcome.must(verdict.unknown == 0, verdict.unanswered)
        self.outcome.must(verdict.refused == 0, f"{verdict.refused} known links were not served")

    def nearly_all_served(self, verdict: Verdict, ended: dict[str, float]) -> None:
        """Notes what an upgrade may cost visitors, and how long the slowest process took to end."""
        slowest = max(ended, key=lambda name: ended[name])
        self.outcome.figures["slowest_to_end"] = f'"{slowest}"'
        self.within("ended_in_s", ended[slowest], 20)
        share = (verdict.refused + verdict.unknown) / verdict.sent
        self.outcome.figures["not_served"] = f"{share:.2%}"
        self.outcome.must(share <= 0.001, f"{share:.2%} of the visitors were not served")


def served_in(requests: Sequence[Request], began: float, ended: float) -> tuple[int, int]:
    """Returns how many known links were asked for in a stretch of time, and how many of those were served."""
    asked = [one for one in requests if one.link >= 0 and one.kind != "expired" and began <= one.sent <= ended]
    return len(asked), sum(one.status == 302 for one in asked)
