"""What each role and each key may do; how long sessions and keys count; what a line of the audit log may hold."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from services.auth import action, api_key, permission, secret, session
from services.auth.action import Action
from services.auth.api_key import ApiKey
from services.auth.permission import Role
from services.auth.session import Session
from services.chassis.access import PERMISSIONS

NOW = datetime(2026, 3, 2, 12, 0, 30, tzinfo=UTC)
SESSION = Session(b"", UUID(int=1), UUID(int=2), NOW, NOW, session.expire_time(NOW))
KEY = ApiKey(UUID(int=1), UUID(int=2), "Case system", ["opens:read"], None, None, None, NOW)
LINE = Action(UUID(int=1), None, NOW, "users/1", "Dana", "link.revoke", "links/1", "done", "", {})


def test_an_administrator_holds_every_permission_there_is() -> None:
    assert permission.permissions_of(Role.ADMIN) == PERMISSIONS
    assert permission.of_scopes(["all"]) == PERMISSIONS


def test_an_auditor_changes_nothing_and_exports_nothing() -> None:
    assert all(held.endswith(":read") for held in permission.permissions_of(Role.AUDITOR))


def test_only_a_clerk_sees_own_clients_only() -> None:
    assert [role for role in Role if permission.sees_own_clients_only(role)] == [Role.CLERK]


def test_a_clerk_neither_exports_nor_administers() -> None:
    held = permission.permissions_of(Role.CLERK)
    assert not held & {"opens:export", "users:read", "users:write", "audit:read", "delivery:write", "portals:write"}


def test_a_key_holds_its_scopes_and_nothing_of_an_unknown_one() -> None:
    assert permission.of_scopes(["opens:read", "time:travel"]) == {"opens:read"}
    assert permission.unknown_scopes(["opens:read", "time:travel", "all", ""]) == ["", "time:travel"]


def test_nobody_gives_what_they_do_not_hold() -> None:
    assert permission.holds({"opens:read", "opens:export"}, {"opens:read"})
    assert not permission.holds({"opens:read"}, {"opens:read", "opens:export"})


@pytest.mark.parametrize(
    ("used", "at", "alive"),
    [
        pytest.param(timedelta(0), timedelta(minutes=29, seconds=59), True, id="idle for less than half an hour"),
        pytest.param(timedelta(0), timedelta(minutes=30), False, id="idle for half an hour"),
        pytest.param(timedelta(hours=11, minutes=50), timedelta(hours=11, minutes=59), True, id="almost twelve hours"),
        pytest.param(timedelta(hours=11, minutes=59), timedelta(hours=12), False, id="twelve hours, always used"),
    ],
)
def test_a_session_ends_after_half_an_hour_idle_and_twelve_hours_in_all(
    used: timedelta, at: timedelta, alive: bool
) -> None:
    assert session.is_alive(replace(SESSION, use_time=NOW + used), NOW + at) is alive


def test_use_is_written_down_once_a_minute() -> None:
    assert not session.must_touch(SESSION, NOW + timedelta(seconds=59))
    assert session.must_touch(SESSION, NOW + timedelta(seconds=60))
    used = replace(KEY, use_time=api_key.use_minute(NOW))
    assert used.use_time == datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
    assert api_key.must_touch(KEY, NOW)
    assert not api_key.must_touch(used, NOW + timedelta(seconds=29))
    assert api_key.must_touch(used, NOW + timedelta(seconds=30))


@pytest.mark.parametrize(
    ("key", "alive"),
    [
        pytest.param(KEY, True, id="without end"),
        pytest.param(replace(KEY, expire_time=NOW + timedelta(seconds=1)), True, id="not yet"),
        pytest.param(replace(KEY, expire_time=NOW), False, id="G01-expired"),
        pytest.param(replace(KEY, revoke_time=NOW - timedelta(days=1)), False, id="G01-revoked"),
    ],
)
def test_a_key_counts_until_it_expires_or_is_revoked(key: ApiKey, alive: bool) -> None:
    assert api_key.is_alive(key, NOW) is alive


def test_a_secret_is_long_new_and_recognizable() -> None:
    made = [secret.make(prefix) for prefix in (secret.SESSION, secret.API_KEY) for _ in range(50)]
    assert len(set(made)) == 100
    assert all(len(each) == 47 and secret.is_well_formed(each) for each in made)
    assert len(secret.digest(made[0])) == 32


@pytest.mark.parametrize(
    "given", ["", "ons_", "onx_" + "a" * 43, "ons_" + "a" * 42, "ons_" + "a" * 44, "ons_" + "é" * 43]
)
def test_what_we_never_made_is_recognized_without_asking_the_database(given: str) -> None:
    assert not secret.is_well_formed(given)


@pytest.mark.parametrize(
    ("given", "fine"),
    [("link.revoke", True), ("session.sign-in", True), ("link", False), ("link.", False), ("Link.revoke", False),
     ("a.b.c", False), ("link.revoke\n", False)],
)  # fmt: skip
def test_a_verb_is_two_words(given: str, fine: bool) -> None:
    assert action.is_verb(given) is fine


def test_a_line_is_cut_to_fit_rather_than_lost() -> None:
    long = replace(LINE, actor_display_name="D" * 300, details={"filter": "x" * 501, "rows": "1\x002", "short": "y"})
    kept = action.storable(long)
    assert kept.actor_display_name == "D" * 199 + "…"
    assert kept.details == {"filter": "x" * 499 + "…", "rows": "12", "short": "y"}
