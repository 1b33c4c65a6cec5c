"""`make chaos`: every promise under its faults, one line each.

    python -m tests.chaos [--full] [--only P1,"P9 nats frozen"] [--seed 7] [--report FILE]

Without --full each fault comes about twice under a minute of load (35 minutes in all); with it, as often and as long as
the promise says (hours). What a full run has done is kept in its state file: started again, it goes on there. Ends with
exit code 1 when a promise is broken; logs and ledgers of the trials that failed are in var/chaos then.
"""

import argparse
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.chaos import again, damaged, dying, missing, poisoned, synced, upgraded
from tests.chaos.disk import small_disk, take_own_mounts
from tests.chaos.results import Result, by_promise, ending, keep, kept, machine, report, revision
from tests.chaos.rig import Rig, rig
from tests.chaos.trial import FULL, SHORT, Outcome, Run, Scale, Trial

TRIALS: list[Trial] = [
    *dying.TRIALS,
    *synced.TRIALS,
    *damaged.TRIALS,
    *again.TRIALS,
    *poisoned.TRIALS,
    *upgraded.TRIALS,
    *missing.TRIALS,
]
STATE = Path("var") / "chaos.json"
# The logs and ledgers of trials that failed.
LEFT = Path("var") / "chaos"


def chosen(only: str) -> list[Trial]:
    """Returns the trials that were asked for; raises SystemExit when a name means none."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    for name in names:
        if not any(name in (trial.promise, trial.name) for trial in TRIALS):
            raise SystemExit(f"--only: there is no {name!r}; there are {', '.join(trial.name for trial in TRIALS)}")
    found = [trial for trial in TRIALS if not names or trial.promise in names or trial.name in names]
    # Those that need the same surroundings one after the other: they share one running product.
    return sorted(found, key=lambda trial: (bool(trial.small_disk), trial.small_disk, trial.own))


class Surroundings:
    """The running product for the trial at hand; made anew when the next one needs another, or a trial broke."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._kind: tuple[Any, ...] | None = None
        self._rig: Rig | None = None

    def for_trial(self, trial: Trial) -> Rig:
        """Returns a product that is ready for a trial."""
        kind = (trial.own, trial.small_disk)
        if self._rig is None or kind != self._kind:
            self.end()
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="opennotice-chaos-")))
            folder.chmod(0o711)
            disk = trial.small_disk
            # Before the product that lies on it, so that it goes after it.
            places = {disk: self._stack.enter_context(small_disk(folder / "disk", disk))} if disk else {}
            made = self._stack.enter_context(rig(folder / "rig", own=trial.own, places=places))
            self._kind, self._rig = kind, made
        return self._rig

    def leave(self, folder: Path) -> None:
        """Copies what helps to understand a trial that failed."""
        if self._rig is None:
            return
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self._rig.bundle.home / "log", folder)
        for path in self._rig.folder.glob("*"):
            if path.is_file() and (path.suffix == ".log" or path.name.startswith("ledger")):
                shutil.copy(path, folder)

    def end(self) -> None:
        """Ends what runs."""
        self._rig = None
        self._stack.close()


def run_trial(surroundings: Surroundings, trial: Trial, scale: Scale, seed: int) -> Result:
    """Runs a trial; one that cannot be carried through has failed."""
    began = time.monotonic()
    try:
        outcome = trial.run(Run(surroundings.for_trial(trial), scale, seed))
    except Exception as error:
        outcome = Outcome({}, [f"{type(error).__name__}: {error}"])
    if not outcome.passed:
        surroundings.leave(LEFT / trial.name.replace(" ", "-"))
        surroundings.end()
    took = round(time.monotonic() - began)
    return Result(trial.name, seed, took, revision(), outcome.figures, outcome.broken)


def carried_through(trials: Sequence[Trial], scale: Scale, seed: int, done: dict[str, Result]) -> Iterator[Result]:
    """Runs what has not been done, and yields what every trial has shown."""
    surroundings = Surroundings()
    try:
        for trial in trials:
            if trial.name not in done:
                yield run_trial(surroundings, trial, scale, seed)
            else:
                yield done[trial.name]
    finally:
        surroundings.end()


def main() -> int:
    """Runs the trials and prints their lines."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Every promise under its faults.")
    parser.add_argument("--full", action="store_true", help="as long and as often as the promises say; takes hours")
    parser.add_argument("--only", default="", help="promises or trials, with commas")
    parser.add_argument("--seed", type=int, help="repeats the chance of an earlier run")
    parser.add_argument("--report", type=Path, help="also writes a report to a file")
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else random.randrange(10_000)
    trials, scale = chosen(asked.only), FULL if asked.full else SHORT
    done = kept(STATE) if asked.full else {}
    if any(trial.small_disk for trial in trials):
        take_own_mounts()
    print(f"{len(trials)} trials, {scale.name}, seed {seed}; revision {revision()}; {machine()}", flush=True)
    results: list[Result] = []
    for result in carried_through(trials, scale, seed, done):
        print(result.line(), flush=True)
        results.append(result)
        if asked.full and not result.broken:
            done[result.name] = result
            keep(STATE, done.values())
    print("", *by_promise(results), ending(results), sep="\n")
    if asked.report:
        asked.report.write_text(report(results, "make chaos" + " FULL=1" * asked.full))
    return 1 if any(result.broken for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
