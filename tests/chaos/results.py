"""What trials have shown: a line each, a line a promise, and the report that is kept of a full run."""

import dataclasses
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fix_bundle import ROOT

# Figures that add up over the trials of a promise.
_ADDED = ("sent", "recorded", "lost", "duplicate", "invented", "wrong", "unknown", "unrecorded", "refused")


@dataclass(frozen=True)
class Result:
    """One trial that was carried through."""

    # "P1 kill -9 nats".
    name: str
    seed: int
    seconds: int
    # Revision of the code it was run with.
    revision: str
    figures: dict[str, object]
    broken: list[str]

    @property
    def promise(self) -> str:
        """The promise it is of."""
        return self.name.partition(" ")[0]

    def line(self) -> str:
        """Returns the trial as a line, and what broke the promise below it."""
        fault = self.name.partition(" ")[2]
        figures = {"fault": f'"{fault}"', "seed": self.seed, **self.figures, "took_s": self.seconds}
        # A run that was broken off may have gone on with newer code.
        figures["revision"] = self.revision
        return _line(self.promise, figures, self.broken)


def _line(promise: str, figures: dict[str, object], broken: Sequence[str]) -> str:
    told = " ".join(f"{key}={value}" for key, value in figures.items())
    return f"{promise} {'FAIL' if broken else 'PASS'} {told}" + "".join(f"\n    {reason}" for reason in broken)


def by_promise(results: Iterable[Result]) -> list[str]:
    """Returns a line for each promise: all its trials together."""
    promises: dict[str, list[Result]] = {}
    for result in results:
        promises.setdefault(result.promise, []).append(result)
    lines = []
    for promise, those in sorted(promises.items(), key=lambda pair: _number(pair[1][0])):
        figures: dict[str, object] = {"trials": f"{sum(not one.broken for one in those)}/{len(those)}"}
        for name in _ADDED:
            if found := [value for one in those if isinstance(value := one.figures.get(name), int)]:
                figures[name] = sum(found)
        lines.append(_line(promise, figures, [f"{one.name}: {reason}" for one in those for reason in one.broken]))
    return lines


def _number(result: Result) -> int:
    """Returns the number of the promise."""
    return int(result.promise[1:])


def ending(results: Sequence[Result]) -> str:
    """Returns the last line."""
    failed = sum(bool(one.broken) for one in results)
    return f"{len(results) - failed} passed, {failed} failed"


def revision() -> str:
    """Returns the revision of the code, with a mark when it was changed since."""
    said = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(said, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def machine() -> str:
    """Returns where this was run, in one line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    linux = platform.release().partition("-")[0]
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {linux}, Python {platform.python_version()}"


def kept(state: Path) -> dict[str, Result]:
    """Returns what an earlier run has shown, by trial."""
    if not state.exists():
        return {}
    return {one["name"]: Result(**one) for one in json.loads(state.read_text())}


def keep(state: Path, results: Iterable[Result]) -> None:
    """Keeps what has been shown, so that a run that was broken off goes on."""
    state.parent.mkdir(exist_ok=True)
    fresh = state.with_suffix(".new")
    fresh.write_text(json.dumps([dataclasses.asdict(one) for one in results], indent=1))
    fresh.replace(state)


def report(results: Sequence[Result], command: str) -> str:
    """Returns the report of a full run, as Markdown."""
    revisions = ", ".join(sorted({one.revision for one in results}))
    return "\n".join(
        [
            "# What was shown under faults",
            "",
            f"Made by `{command}` on {time.strftime('%Y-%m-%d')}, {machine()}. Everything of the",
            "product and the visitors ran on that one machine. [reliability.md](reliability.md) says what each promise",
            "is, how it is tried, what is counted, and where visitors may stay without an answer (`unknown`) or be",
            "served without a record (`unrecorded`) although the promise is kept.",
            "",
            f"Revisions of the code: {revisions}.",
            "",
            "```text",
            *by_promise(results),
            ending(results),
            "```",
            "",
            "## Every trial",
            "",
            "```text",
            *(one.line() for one in sorted(results, key=_number)),
            "```",
            "",
        ]
    )
