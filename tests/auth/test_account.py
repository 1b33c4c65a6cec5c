"""When failures lock an account, and which changes of a user are refused."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from services.auth.account import Try, User, change_fault, locks, may_try
from services.auth.permission import Role

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
ADMIN = User(
    user_id=UUID(int=1),
    agency_id=UUID(int=2),
    email="dana@court.example",
    display_name="Dana",
    role=Role.ADMIN,
    disabled=False,
    password_hash="",
    lock_time=None,
    sign_in_time=None,
    create_time=NOW,
    revision=1,
)
CLERK = replace(ADMIN, user_id=UUID(int=3), role=Role.CLERK)


def tries(*ages_in_minutes: float, failed: bool = True) -> list[Try]:
    return [Try(NOW - timedelta(minutes=age), failed) for age in ages_in_minutes]


@pytest.mark.parametrize(
    ("earlier", "allowed"),
    [
        pytest.param(tries(), True, id="the first"),
        pytest.param(tries(1, 2, 3, 4), True, id="the fifth"),
        pytest.param(tries(1, 2, 3, 4, 5), False, id="the sixth"),
        pytest.param(tries(1, 2, 3, 4, 15), True, id="one is a quarter of an hour old"),
        pytest.param(tries(1, 2, 3, 4, 14.99), False, id="one is almost a quarter of an hour old"),
        pytest.param(tries(0, 0, 0, 0, 0, failed=False), False, id="five are under way"),
    ],
)
def test_at_most_five_passwords_are_looked_at_in_fifteen_minutes(earlier: list[Try], allowed: bool) -> None:
    assert may_try(earlier, NOW) is allowed


@pytest.mark.parametrize(
    ("earlier", "locked"),
    [
        pytest.param(tries(1, 2, 3, 4), False, id="four failures"),
        pytest.param(tries(1, 2, 3, 4, 5), True, id="five failures"),
        pytest.param(tries(1, 2, 3, 4, 15), False, id="the first is too old"),
        pytest.param(tries(1, 2, 3, 4) + tries(0, failed=False), False, id="the fifth is under way"),
    ],
)
def test_five_failures_in_fifteen_minutes_lock(earlier: list[Try], locked: bool) -> None:
    assert locks(earlier, NOW) is locked


@pytest.mark.parametrize(
    ("before", "after", "own", "others", "fault"),
    [
        pytest.param(CLERK, replace(CLERK, role=Role.ADMIN), False, 1, None, id="a clerk becomes administrator"),
        pytest.param(ADMIN, replace(ADMIN, role=Role.CLERK), False, 1, None, id="one of two administrators"),
        pytest.param(ADMIN, replace(ADMIN, role=Role.CLERK), False, 0, "LAST_ADMIN", id="the last loses the role"),
        pytest.param(ADMIN, replace(ADMIN, disabled=True), False, 0, "LAST_ADMIN", id="the last is disabled"),
        pytest.param(ADMIN, replace(ADMIN, disabled=True), True, 1, "OWN_ACCOUNT", id="own account"),
        pytest.param(ADMIN, replace(ADMIN, role=Role.AUDITOR), True, 1, "OWN_ACCOUNT", id="own role"),
        pytest.param(CLERK, replace(CLERK, role=Role.ADMIN), True, 1, "OWN_ACCOUNT", id="own role raised"),
        pytest.param(ADMIN, replace(ADMIN, display_name="D."), True, 0, None, id="own display name"),
        pytest.param(
            replace(ADMIN, disabled=True), replace(ADMIN, disabled=True, role=Role.CLERK), False, 0, None,
            id="who was no active administrator before",
        ),
    ],
)  # fmt: skip
def test_an_agency_keeps_an_administrator_and_nobody_changes_their_own_rights(
    before: User, after: User, own: bool, others: int, fault: str | None
) -> None:
    assert change_fault(before, after, own=own, other_admins=others) == fault
