"""`make chaos`: every promise under its faults, one line each.

    python -m tests.chaos [--full] [--only P1,"P9 nats frozen"] [--seed 7] [--report FILE]

Without --full each fault comes about twice under a minute of load (40 minutes in all); with it, as often and as long as
the promise says (hours). What a full run has done is kept in its state file: started again, it goes on there. Ends with
exit code 1 when a promise is broken.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.chaos import dying
from tests.chaos.rig import ROOT, Rig, rig
from tests.chaos.trial import FULL, SHORT, Outcome, Run, Scale, Trial

TRIALS: list[Trial] = [*dying.TRIALS]
STATE = Path("var") / "chaos.json"


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
            self._kind, self._rig = kind, self._stack.enter_context(rig(folder / "rig", own=trial.own))
        return self._rig

    def end(self) -> None:
        """Ends what runs."""
        self._rig = None
        self._stack.close()


def run_trial(surroundings: Surroundings, trial: Trial, scale: Scale, seed: int) -> Outcome:
    """Runs a trial; one that cannot be carried through has failed."""
    try:
        run = Run(surroundings.for_trial(trial), scale, seed)
        outcome = trial.run(run)
    except Exception as error:
        outcome = Outcome({}, [f"{type(error).__name__}: {error}"])
    if not outcome.passed:
        surroundings.end()
    return outcome


def line(name: str, outcome: Outcome, seed: int, seconds: float) -> str:
    """Returns the line of a trial: what it is, PASS or FAIL, and its figures."""
    promise, _, fault = name.partition(" ")
    figures = {"fault": f'"{fault}"', "seed": seed, **outcome.figures, "took_s": round(seconds)}
    told = " ".join(f"{key}={value}" for key, value in figures.items())
    said = "".join(f"\n    {reason}" for reason in outcome.broken)
    return f"{promise} {'PASS' if outcome.passed else 'FAIL'} {told}{said}"


def kept(state: Path) -> dict[str, Any]:
    """Returns what an earlier full run has done."""
    return json.loads(state.read_text()) if state.exists() else {}


def machine() -> str:
    """Returns where this was run, in one line."""
    revision = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return (
        f"{time.strftime('%Y-%m-%d')}, revision {revision or 'unknown'}, {os.cpu_count()} cores, {memory:.0f} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}"
    )


def trials_with_lines(
    trials: Sequence[Trial], scale: Scale, seed: int, done: dict[str, Any]
) -> Iterator[tuple[Trial, bool, str]]:
    """Runs what has not been done, and yields every trial with its line."""
    surroundings = Surroundings()
    try:
        for trial in trials:
            if trial.name in done:
                yield trial, done[trial.name]["passed"], done[trial.name]["line"]
                continue
            began = time.monotonic()
            outcome = run_trial(surroundings, trial, scale, seed)
            yield trial, outcome.passed, line(trial.name, outcome, seed, time.monotonic() - began)
    finally:
        surroundings.end()


def main() -> int:
    """Runs the trials and prints their lines."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Every promise under its faults.")
    parser.add_argument("--full", action="store_true", help="as long and as often as the promises say; takes hours")
    parser.add_argument("--only", default="", help="promises or trials, with commas")
    parser.add_argument("--seed", type=int, help="repeats the chance of an earlier run")
    parser.add_argument("--report", type=Path, help="also writes the lines to a file")
    asked = parser.parse_args()
    seed = asked.seed if asked.seed is not None else random.randrange(10_000)
    trials, scale = chosen(asked.only), FULL if asked.full else SHORT
    done = kept(STATE) if asked.full else {}
    print(f"{len(trials)} trials, {scale.name}, seed {seed}; {machine()}", flush=True)
    results: dict[str, tuple[bool, str]] = {}
    for trial, passed, told in trials_with_lines(trials, scale, seed, done):
        print(told, flush=True)
        results[trial.name] = (passed, told)
        if asked.full and passed:
            done[trial.name] = {"passed": passed, "line": told}
            STATE.parent.mkdir(exist_ok=True)
            STATE.write_text(json.dumps(done, indent=1))
    broken = sorted({name.partition(" ")[0] for name, (passed, _) in results.items() if not passed})
    ended = f"{sum(passed for passed, _ in results.values())} passed, {sum(not p for p, _ in results.values())} failed"
    print(ended + (f" ({', '.join(broken)} broken)" if broken else ""))
    if asked.report:
        lines = [f"{machine()}, {scale.name}", "", *(told for _, told in results.values()), "", ended]
        asked.report.write_text("\n".join(lines) + "\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
