"""Ids: unique, in order, and true to the clock, because the id of an open is the instant that it happened at."""

import time
import uuid

import pytest

from services.chassis.names import millisecond_of, new_id

HOUR = 3_600_000_000_000


def test_after_the_clock_was_set_back_an_id_says_the_time_that_it_is_then(monkeypatch: pytest.MonkeyPatch) -> None:
    real = time.time_ns
    assert abs(millisecond_of(new_id()) - real() // 1_000_000) < 1_000
    for step in (HOUR, -HOUR, 0):
        now = real() + step
        monkeypatch.setattr(time, "time_ns", lambda now=now: now)
        assert [millisecond_of(new_id()) - now // 1_000_000 for _ in range(3)] == [0, 0, 0]


def test_ids_of_one_nanosecond_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    made = {new_id() for _ in range(200_000)}
    assert len(made) == 200_000
    assert {(one.version, one.variant, millisecond_of(one)) for one in made} == {(7, uuid.RFC_4122, now // 1_000_000)}


def test_ids_of_one_millisecond_are_in_the_order_in_which_they_were_made(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = time.time_ns() // 1_000_000 * 1_000_000
    made: list[uuid.UUID] = []
    for now in range(begin, begin + 1_000_000, 250):
        monkeypatch.setattr(time, "time_ns", lambda now=now: now)
        made.append(new_id())
    assert made == sorted(made)
