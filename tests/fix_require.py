"""Makes a skip a failure where the surroundings promised what the test needs.

`OPENNOTICE_TEST_REQUIRE=browser,office` says that Chromium and LibreOffice are there: a test with such a marker that is
skipped nevertheless has found something broken.
"""

import os
from collections.abc import Generator

import pytest

VARIABLE = "OPENNOTICE_TEST_REQUIRE"
_REQUIRED = pytest.StashKey[frozenset[str]]()
KNOWN = frozenset({"browser", "office", "engine", "promtool"})


def required(text: str) -> frozenset[str]:
    """Reads the variable; a word that no marker has would silently require nothing."""
    words = frozenset[str](word.strip() for word in text.split(",") if word.strip())
    if unknown := words - KNOWN:
        raise pytest.UsageError(f"{VARIABLE}: {', '.join(sorted(unknown))} is not one of {', '.join(sorted(KNOWN))}")
    return words


def pytest_configure(config: pytest.Config) -> None:
    """Reads the variable once, before any test runs."""
    config.stash[_REQUIRED] = required(os.environ.get(VARIABLE, ""))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turns the skip of a required test into a failure with the reason."""
    report = yield
    wanted = item.config.stash[_REQUIRED]
    missed = [name for name in sorted(wanted) if item.get_closest_marker(name)]
    if report.skipped and missed:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{VARIABLE} names {', '.join(missed)}, but: {reason}"
    return report
