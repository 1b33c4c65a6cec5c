"""Signing in and out, locking, and exchanging a session or a key for an identity."""

import asyncio
import hashlib
from collections import Counter
from typing import Any

import pytest
from opennotice.auth.v1 import auth_pb2
from opennotice.identity.v1 import identity_pb2
from prometheus_client import REGISTRY

from services.auth.password import Hasher
from services.auth.sign_in import Doorkeeper
from services.chassis import names
from services.chassis.errors import InvalidArgument, NotFound, PermissionDenied, ServiceError, Unauthenticated
from services.chassis.identity import Caller
from services.chassis.postgres import Database
from tests import cast
from tests.auth.conftest import PASSWORD, Auth, email_of, id_of, refusal
from tests.cast import ALICE, BOB, CHARLIE, DANA

DANAS = email_of(DANA)
WRONG = "seven loud herons by the mill"


async def exchanged(auth: Auth, credential: str) -> Caller:
    """Returns who a credential belongs to, as every other service reads it."""
    request = identity_pb2.IssueIdentityRequest(credential=credential, source_address="192.0.2.7")
    issued = await auth.identities.IssueIdentity(request, metadata=auth.by("gateway"))
    return auth.keyring.checker().check(issued.token)


async def refused_exchange(auth: Auth, credential: str) -> ServiceError:
    request = identity_pb2.IssueIdentityRequest(credential=credential)
    return await refusal(auth.identities.IssueIdentity(request, metadata=auth.by("link")))


async def fail_times(auth: Auth, times: int, email: str = DANAS) -> None:
    for _ in range(times):
        await refusal(auth.sign_in(email, WRONG))


def is_locked(auth: Auth, email: str = DANAS) -> bool:
    return auth.rows("select lock_time from auth.users where email = %s", email)[0]["lock_time"] is not None


async def test_a_session_opens_with_the_right_password(auth: Auth) -> None:
    session = await auth.sign_in(DANAS)
    assert session.token.startswith("ons_")
    assert len(session.token) == 47
    assert session.user.name == DANA.name
    assert session.user.role == auth_pb2.ROLE_ADMIN
    assert session.user.HasField("sign_in_time")
    assert 0 < session.expire_time.seconds - session.user.sign_in_time.seconds <= 12 * 3600


async def test_the_address_is_taken_in_any_case(auth: Auth) -> None:
    assert (await auth.sign_in("DANA@Court.EXAMPLE")).user.name == DANA.name


async def test_only_the_hash_of_a_session_is_stored(auth: Auth) -> None:
    token = (await auth.sign_in(DANAS)).token
    stored = auth.rows("select session_hash from auth.sessions")
    assert [bytes(row["session_hash"]) for row in stored] == [hashlib.sha256(token.encode()).digest()]
    everything = auth.rows("select to_jsonb(s)::text || to_jsonb(u)::text as line from auth.sessions s, auth.users u")
    assert not any(token in row["line"] or PASSWORD in row["line"] for row in everything)


async def test_unknown_wrong_and_disabled_are_answered_alike(auth: Auth) -> None:
    auth.rows("update auth.users set disabled = true where email = %s", email_of(BOB))
    told = [
        await refusal(auth.sign_in("nobody@court.example", PASSWORD)),
        await refusal(auth.sign_in(DANAS, WRONG)),
        await refusal(auth.sign_in(email_of(BOB), PASSWORD)),
    ]
    assert all(isinstance(error, Unauthenticated) and error.reason == "SIGN_IN_REFUSED" for error in told)
    assert len({(error.message, str(error.fields), str(error.metadata)) for error in told}) == 1


async def test_sign_ins_are_counted_for_alarms(auth: Auth) -> None:
    before = counted()
    await auth.sign_in(DANAS)
    await refusal(auth.sign_in("nobody@court.example", PASSWORD))
    await fail_times(auth, 5)
    # Who knows the password is told of the lock; that is a refusal too.
    await refusal(auth.sign_in(DANAS))
    assert [after - was for after, was in zip(counted(), before, strict=True)] == [1, 7, 1]


def counted() -> list[float]:
    """Returns how many sign-ins succeeded and were refused, and how many accounts were locked, since the start."""
    names = (
        ("opennotice_sign_ins_total", {"outcome": "done"}),
        ("opennotice_sign_ins_total", {"outcome": "refused"}),
        ("opennotice_account_locks_total", {}),
    )
    return [REGISTRY.get_sample_value(name, labels) or 0.0 for name, labels in names]


async def test_five_failures_lock_and_only_the_right_password_is_told(auth: Auth) -> None:
    await fail_times(auth, 4)
    assert not is_locked(auth)
    await fail_times(auth, 1)
    assert is_locked(auth)
    assert (await refusal(auth.sign_in(DANAS, WRONG))).reason == "SIGN_IN_REFUSED"
    told = await refusal(auth.sign_in(DANAS))
    assert isinstance(told, PermissionDenied)
    assert told.reason == "ACCOUNT_LOCKED"
    assert auth.rows("select 1 from auth.sessions") == []


async def test_a_right_password_ends_the_count_of_failures(auth: Auth) -> None:
    await fail_times(auth, 4)
    await auth.sign_in(DANAS)
    await fail_times(auth, 4)
    assert not is_locked(auth)


async def test_failures_older_than_fifteen_minutes_do_not_count(auth: Auth) -> None:
    await fail_times(auth, 4)
    auth.rows("update auth.tries set try_time = try_time - interval '15 minutes'")
    await fail_times(auth, 4)
    assert not is_locked(auth)


async def test_of_a_hundred_parallel_wrong_passwords_five_are_looked_at_before_the_lock(auth: Auth) -> None:
    outcomes = await asyncio.gather(*(refusal(auth.sign_in(DANAS, WRONG)) for _ in range(100)))
    assert {error.reason for error in outcomes} == {"SIGN_IN_REFUSED"}
    assert is_locked(auth)
    lines = auth.rows("select verb, details from auth.actions order by record_time, action_id")
    before_lock = lines[: [line["verb"] for line in lines].index("user.lock")]
    looked_at = [line for line in before_lock if line["details"]["reason"] == "wrong password"]
    assert len(looked_at) == 4, "the fifth is written together with the lock"
    counted = Counter(line["details"].get("reason") for line in lines)
    assert counted["wrong password"] <= 10, "five before the lock, and five that could only be told of it"
    assert counted["wrong password"] + counted["too many tries"] == 100
    assert counted["five failed sign-ins"] == 1


async def test_a_right_password_hidden_among_a_hundred_parallel_ones_opens_nothing_after_the_lock(auth: Auth) -> None:
    await fail_times(auth, 5)
    tries = [auth.sign_in(DANAS, PASSWORD if number == 50 else WRONG) for number in range(100)]
    outcomes = await asyncio.gather(*(refusal(each) for each in tries))
    assert {error.reason for error in outcomes} <= {"SIGN_IN_REFUSED", "ACCOUNT_LOCKED"}
    assert auth.rows("select 1 from auth.sessions") == []


async def test_who_is_signed_in_goes_on_while_the_account_is_locked_from_outside(auth: Auth) -> None:
    token = (await auth.sign_in(DANAS)).token
    await fail_times(auth, 5)
    assert (await exchanged(auth, token)).subject == DANA.name


async def test_an_administrator_unlocks(auth: Auth) -> None:
    await fail_times(auth, 5, email_of(ALICE))
    unlocked = await auth.stub.UnlockUser(auth_pb2.UnlockUserRequest(name=ALICE.name), metadata=auth.by(DANA))
    assert not unlocked.locked
    assert (await auth.sign_in(email_of(ALICE))).user.name == ALICE.name


async def test_a_lock_of_one_account_leaves_the_others_open(auth: Auth) -> None:
    await fail_times(auth, 5)
    assert (await auth.sign_in(email_of(CHARLIE))).user.name == CHARLIE.name


@pytest.mark.parametrize(
    ("email", "password", "field"),
    [
        pytest.param("", PASSWORD, "email", id="no address"),
        pytest.param("a" * 255, PASSWORD, "email", id="long address"),
        pytest.param("da\0na@court.example", PASSWORD, "email", id="NUL in the address"),
        pytest.param(DANAS, "", "password", id="A14-no-password"),
        pytest.param(DANAS, "x" * 129, "password", id="A14-long-password"),
        pytest.param(DANAS, "x" * 100_000, "password", id="A14-100-KB-password"),
    ],
)
async def test_what_cannot_be_a_sign_in_names_its_field(auth: Auth, email: str, password: str, field: str) -> None:
    told = await refusal(auth.sign_in(email, password))
    assert isinstance(told, InvalidArgument)
    assert [name for name, _ in told.fields] == [field]
    assert auth.rows("select 1 from auth.tries") == []


async def test_sign_ins_and_sign_outs_are_in_the_audit_log(auth: Auth) -> None:
    token = (await auth.sign_in(DANAS)).token
    await refusal(auth.sign_in(DANAS, WRONG))
    await refusal(auth.sign_in("nobody@court.example"))
    await auth.stub.SignOut(auth_pb2.SignOutRequest(token=token), metadata=auth.by("gateway"))
    lines = auth.rows(
        "select agency_id, actor, verb, outcome, source_address, details from auth.actions order by action_id"
    )
    assert [(line["actor"], line["verb"], line["outcome"]) for line in lines] == [
        (DANA.name, "session.sign-in", "done"),
        (DANA.name, "session.sign-in", "refused"),
        ("", "session.sign-in", "refused"),
        (DANA.name, "session.sign-out", "done"),
    ]
    assert [line["agency_id"] for line in lines] == [cast.FIRST_COURT, cast.FIRST_COURT, None, cast.FIRST_COURT]
    assert lines[0]["source_address"] == "192.0.2.7"
    assert lines[2]["details"] == {"reason": "unknown address"}, "what was typed may be a password"


async def test_a_session_is_exchanged_for_an_identity_of_its_user(auth: Auth) -> None:
    caller = await exchanged(auth, (await auth.sign_in(email_of(ALICE))).token)
    assert (caller.subject, caller.agency_id, caller.role) == (ALICE.name, ALICE.agency_id, "clerk")
    assert caller.permissions == ALICE.permissions
    assert caller.own_clients_only
    assert caller.issuer == "auth"
    assert caller.source_address == "192.0.2.7"


async def test_a_session_ends_with_sign_out(auth: Auth) -> None:
    token = (await auth.sign_in(DANAS)).token
    for _ in range(2):
        await auth.stub.SignOut(auth_pb2.SignOutRequest(token=token), metadata=auth.by("gateway"))
    assert isinstance(await refused_exchange(auth, token), Unauthenticated)


@pytest.mark.parametrize(
    ("change", "alive"),
    [
        pytest.param("use_time = use_time - interval '29 minutes'", True, id="idle for 29 minutes"),
        pytest.param("use_time = use_time - interval '30 minutes'", False, id="G01-idle-for-30-minutes"),
        pytest.param("expire_time = expire_time - interval '11 hours 59 minutes'", True, id="almost 12 hours old"),
        pytest.param("expire_time = expire_time - interval '12 hours'", False, id="G01-12-hours-old"),
    ],
)
async def test_a_session_lasts_half_an_hour_idle_and_twelve_hours_in_all(auth: Auth, change: str, alive: bool) -> None:
    token = (await auth.sign_in(DANAS)).token
    auth.rows(f"update auth.sessions set {change}")
    if alive:
        assert (await exchanged(auth, token)).subject == DANA.name
    else:
        assert (await refused_exchange(auth, token)).reason == "CREDENTIAL_UNKNOWN"


async def test_the_use_of_a_session_is_written_at_most_once_a_minute(auth: Auth) -> None:
    token = (await auth.sign_in(DANAS)).token
    first = auth.rows("select use_time, xmin::text as version from auth.sessions")
    await exchanged(auth, token)
    assert auth.rows("select use_time, xmin::text as version from auth.sessions") == first
    auth.rows("update auth.sessions set use_time = use_time - interval '1 minute'")
    await exchanged(auth, token)
    assert auth.rows("select use_time from auth.sessions")[0]["use_time"] >= first[0]["use_time"]


async def test_a_page_that_is_merely_open_does_not_keep_its_session_from_ending(auth: Auth) -> None:
    token = (await auth.sign_in(DANAS)).token
    auth.rows("update auth.sessions set use_time = use_time - interval '29 minutes'")
    before = auth.rows("select use_time from auth.sessions")
    request = identity_pb2.IssueIdentityRequest(credential=token, passive=True)
    await auth.identities.IssueIdentity(request, metadata=auth.by("gateway"))
    assert auth.rows("select use_time from auth.sessions") == before


async def test_a_disabled_user_and_a_new_role_count_at_once(auth: Auth) -> None:
    token = (await auth.sign_in(email_of(ALICE))).token
    user = auth_pb2.User(name=ALICE.name, role=auth_pb2.ROLE_AUDITOR)
    await auth.stub.UpdateUser(auth_pb2.UpdateUserRequest(user=user), metadata=auth.by(DANA))
    assert (await exchanged(auth, token)).role == "auditor"
    user = auth_pb2.User(name=ALICE.name, disabled=True)
    await auth.stub.UpdateUser(auth_pb2.UpdateUserRequest(user=user), metadata=auth.by(DANA))
    assert (await refused_exchange(auth, token)).reason == "CREDENTIAL_UNKNOWN"


async def make_key(auth: Auth, *scopes: str, **more: Any) -> auth_pb2.CreateApiKeyResponse:
    request = auth_pb2.CreateApiKeyRequest(
        api_key=auth_pb2.ApiKey(display_name="Case system", scopes=scopes, **more), request_id=str(names.new_id())
    )
    made: auth_pb2.CreateApiKeyResponse = await auth.stub.CreateApiKey(request, metadata=auth.by(DANA))
    return made


async def test_a_key_is_exchanged_for_an_identity_with_its_scopes(auth: Auth) -> None:
    made = await make_key(auth, "opens:read", "links:write")
    caller = await exchanged(auth, made.secret)
    assert (caller.subject, caller.agency_id, caller.role) == (made.api_key.name, cast.FIRST_COURT, "")
    assert caller.permissions == {"opens:read", "links:write"}
    assert not caller.own_clients_only
    used = auth.rows("select use_time, key_hash from auth.api_keys")[0]
    assert (used["use_time"].second, used["use_time"].microsecond) == (0, 0)
    assert bytes(used["key_hash"]) == hashlib.sha256(made.secret.encode()).digest()


async def test_a_key_works_over_the_wire_until_it_is_revoked(auth: Auth) -> None:
    made = await make_key(auth, "users:read")
    bearer = (("authorization", f"Bearer {made.secret}"),)
    found = await auth.stub.GetUser(auth_pb2.GetUserRequest(name=BOB.name), metadata=bearer)
    assert found.display_name == BOB.display_name
    assert isinstance(
        await refusal(auth.stub.GetUser(auth_pb2.GetUserRequest(name=CHARLIE.name), metadata=bearer)), NotFound
    )
    denied = await refusal(auth.stub.ListApiKeys(auth_pb2.ListApiKeysRequest(), metadata=bearer))
    assert isinstance(denied, PermissionDenied)
    for _ in range(2):
        request = auth_pb2.RevokeApiKeyRequest(name=made.api_key.name)
        assert (await auth.stub.RevokeApiKey(request, metadata=auth.by(DANA))).HasField("revoke_time")
    assert (await refused_exchange(auth, made.secret)).reason == "CREDENTIAL_UNKNOWN"


async def test_an_expired_key_is_refused(auth: Auth) -> None:
    made = await make_key(auth, "opens:read")
    auth.rows("update auth.api_keys set expire_time = now()")
    assert (await refused_exchange(auth, made.secret)).reason == "CREDENTIAL_UNKNOWN"


@pytest.mark.parametrize(
    "credential",
    [
        pytest.param("ons_" + "a" * 43, id="G01-unknown-session"),
        pytest.param("onk_" + "a" * 43, id="G01-unknown-key"),
        pytest.param("onk_", id="G01-cut-off"),
        pytest.param("Bearer onk_" + "a" * 43, id="G01-with-its-scheme"),
        pytest.param("\0", id="G01-nul"),
        pytest.param("x" * 100_000, id="G01-long"),
    ],
)
async def test_every_unknown_credential_is_answered_alike(auth: Auth, credential: str) -> None:
    told = await refused_exchange(auth, credential)
    assert isinstance(told, Unauthenticated)
    assert (told.reason, told.message) == ("CREDENTIAL_UNKNOWN", "the credential is not valid")


@pytest.mark.parametrize("kind", ["key", "session"])
async def test_who_holds_a_credential_cannot_exchange_it_themselves(auth: Auth, kind: str) -> None:
    # Else a revoked key would go on for a minute as its last identity, from whatever address its holder chose to name.
    if kind == "key":
        asked = auth_pb2.CreateApiKeyRequest(api_key=auth_pb2.ApiKey(display_name="docket", scopes=["opens:read"]))
        credential = (await auth.stub.CreateApiKey(asked, metadata=auth.by(DANA))).secret
        metadata = [(), (("authorization", f"Bearer {credential}"),), auth.by(DANA)]
    else:
        credential = (await auth.sign_in(DANAS)).token
        metadata = [(), auth.by(DANA)]
    request = identity_pb2.IssueIdentityRequest(credential=credential, source_address="203.0.113.66")
    told = [await refusal(auth.identities.IssueIdentity(request, metadata=each)) for each in metadata]
    assert [error.reason for error in told] == ["CREDENTIAL_MISSING"] + ["PERMISSION_MISSING"] * (len(metadata) - 1)


async def test_an_exchange_without_a_credential_or_with_a_long_address_names_its_field(auth: Auth) -> None:
    request = identity_pb2.IssueIdentityRequest(source_address="x" * 46)
    told = await refusal(auth.identities.IssueIdentity(request, metadata=auth.by("gateway")))
    assert [field for field, _ in told.fields] == ["credential", "source_address"]


async def change_password(auth: Auth, current: str, new: str, keep: str = "") -> None:
    request = auth_pb2.ChangePasswordRequest(current_password=current, new_password=new, session_token=keep)
    await auth.stub.ChangePassword(request, metadata=auth.by(DANA))


async def test_a_changed_password_ends_the_other_sessions(auth: Auth) -> None:
    mine, other = (await auth.sign_in(DANAS)).token, (await auth.sign_in(DANAS)).token
    await change_password(auth, PASSWORD, "eight quiet herons by the mill", mine)
    assert (await exchanged(auth, mine)).subject == DANA.name
    assert (await refused_exchange(auth, other)).reason == "CREDENTIAL_UNKNOWN"
    assert (await refusal(auth.sign_in(DANAS))).reason == "SIGN_IN_REFUSED"
    await auth.sign_in(DANAS, "eight quiet herons by the mill")


async def test_a_changed_password_ends_every_session_when_none_is_named(auth: Auth) -> None:
    token = (await auth.sign_in(DANAS)).token
    await change_password(auth, PASSWORD, "eight quiet herons by the mill")
    assert (await refused_exchange(auth, token)).reason == "CREDENTIAL_UNKNOWN"


@pytest.mark.parametrize(
    ("current", "new", "reason", "field"),
    [
        pytest.param(WRONG, "eight quiet herons by the mill", "PASSWORD_WRONG", "current_password", id="wrong"),
        pytest.param("x" * 129, "eight quiet herons by the mill", "PASSWORD_WRONG", "current_password", id="A14-long"),
        pytest.param(PASSWORD, "eight herons", "PASSWORD_REFUSED", "new_password", id="A14-short"),
        pytest.param(PASSWORD, "x7#k" * 33, "PASSWORD_REFUSED", "new_password", id="A14-132-characters"),
        pytest.param(PASSWORD, "passwordpassword", "PASSWORD_REFUSED", "new_password", id="A14-common"),
        pytest.param(PASSWORD, DANAS, "PASSWORD_REFUSED", "new_password", id="A14-own-address"),
    ],
)
async def test_a_refused_change_of_password_changes_nothing(
    auth: Auth, current: str, new: str, reason: str, field: str
) -> None:
    told = await refusal(change_password(auth, current, new))
    assert (told.reason, [name for name, _ in told.fields]) == (reason, [field])
    await auth.sign_in(DANAS)


async def test_guessing_the_current_password_locks_too(auth: Auth) -> None:
    for _ in range(5):
        await refusal(change_password(auth, WRONG, "eight quiet herons by the mill"))
    assert is_locked(auth)


async def test_a_key_has_no_password_to_change(auth: Auth) -> None:
    made = await make_key(auth, "all")
    request = auth_pb2.ChangePasswordRequest(current_password=PASSWORD, new_password="eight quiet herons by the mill")
    bearer = (("authorization", f"Bearer {made.secret}"),)
    assert (await refusal(auth.stub.ChangePassword(request, metadata=bearer))).reason == "NOT_A_USER"


async def test_a_reset_password_is_shown_once_and_ends_the_sessions(auth: Auth) -> None:
    token = (await auth.sign_in(email_of(ALICE))).token
    request = auth_pb2.ResetPasswordRequest(name=ALICE.name)
    made = (await auth.stub.ResetPassword(request, metadata=auth.by(DANA))).password
    assert (await refused_exchange(auth, token)).reason == "CREDENTIAL_UNKNOWN"
    assert (await refusal(auth.sign_in(email_of(ALICE)))).reason == "SIGN_IN_REFUSED"
    await auth.sign_in(email_of(ALICE), made)
    stored = auth.rows("select password_hash from auth.users where user_id = %s", id_of(ALICE))[0]["password_hash"]
    assert made not in stored


async def test_nobody_resets_their_own_password(auth: Auth) -> None:
    request = auth_pb2.ResetPasswordRequest(name=DANA.name)
    assert (await refusal(auth.stub.ResetPassword(request, metadata=auth.by(DANA)))).reason == "OWN_ACCOUNT"


class Patient(Hasher):
    """Checks a password for real, but not before it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def matches(self, password: str, stored: str | None) -> bool:
        """Waits first."""
        await self.go.wait()
        return await super().matches(password, stored)


async def test_a_password_that_is_replaced_while_it_is_checked_opens_nothing(
    auth: Auth, serve: Database, directory: Database
) -> None:
    hasher = Patient()
    signing_in = asyncio.ensure_future(Doorkeeper(serve, directory, hasher).sign_in(DANAS, PASSWORD, ""))
    async with asyncio.timeout(10):
        while not auth.rows("select 1 from auth.tries"):
            await asyncio.sleep(0.01)
    auth.rows("update auth.users set password_hash = %s", await Hasher().hash("eight quiet herons by the mill"))
    hasher.go.set()
    with pytest.raises(Unauthenticated):
        await signing_in
    assert auth.rows("select 1 from auth.sessions") == []
