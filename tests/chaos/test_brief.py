"""The short form of `make chaos`: a few of its trials, small, on a machine that does other things besides.

What is judged is what the report holds; seconds are judged by `make chaos` alone.
"""

import random
from collections.abc import Iterator

import pytest

from tests.chaos.__main__ import Surroundings, chosen, run_trial
from tests.chaos.trial import BRIEF, Trial

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

TRIALS = [
    "P1 kill -9 tracking",
    "P1 kill -9 nats and postgres",
    "P10 processes stopped in turn",
    "P4 PostgreSQL away",
    "P9 way to postgres held",
    "P9 cut after COMMIT",
    "P8 one event in a thousand is poison",
    "P10 two migrators at once",
]


@pytest.fixture(scope="module")
def surroundings() -> Iterator[Surroundings]:
    """Gives a running product that trials of one kind share."""
    found = Surroundings()
    yield found
    found.end()


@pytest.mark.parametrize("trial", chosen(",".join(TRIALS)), ids=lambda trial: trial.name.replace(" ", "-"))
def test_the_report_holds_what_was_answered_once_and_nothing_else(surroundings: Surroundings, trial: Trial) -> None:
    # Another seed each time: what only some moments show is shown sooner or later, and the line says how to repeat it.
    seed = random.randrange(10_000)
    result = run_trial(surroundings, trial, BRIEF, seed)
    print(result.line())
    assert not result.broken, result.line()
