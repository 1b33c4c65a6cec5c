"""Agencies, users, API keys and the audit log, through the real stub; who may call what; wrong input."""

import asyncio
import dataclasses
from typing import Any
from uuid import UUID

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from opennotice.audit.v1 import audit_pb2
from opennotice.auth.v1 import auth_pb2

from services.chassis import names
from services.chassis.access import PERMISSIONS
from services.chassis.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from services.chassis.identity import IDENTITY_METADATA
from tests import cast
from tests.auth.conftest import Auth, email_of, refusal
from tests.cast import ALICE, BOB, CHARLIE, DANA, EVERYBODY, MORGAN, SAM
from tests.fix_rpc import Metadata

EVERY_ROLE = {"admin", "manager", "supervisor", "clerk", "auditor"}
# Who gets past the door of each rpc: roles of people, and names of processes.
MAY_CALL = {
    "SignIn": {"gateway"},
    "SignOut": {"gateway"},
    "GetCaller": EVERY_ROLE,
    "ChangePassword": EVERY_ROLE,
    "CreateAgency": {"host"},
    "ListAgencies": {"host"},
    "GetAgency": EVERY_ROLE,
    "UpdateAgency": {"admin"},
    "ExportAgencies": {"link", "enrichment"},
    "CreateUser": {"admin"},
    "GetUser": {"admin", "manager", "auditor"},
    "ListUsers": {"admin", "manager", "auditor"},
    "ListOfficers": EVERY_ROLE,
    "UpdateUser": {"admin"},
    "UnlockUser": {"admin"},
    "ResetPassword": {"admin"},
    "LookUpUser": {"link", "host"},
    "CreateApiKey": {"admin"},
    "ListApiKeys": {"admin", "auditor"},
    "RevokeApiKey": {"admin"},
    "ListActions": {"admin", "auditor"},
    "RecordAction": {"reporting", "gateway"},
}
METHODS = {method.name: method for method in auth_pb2.DESCRIPTOR.services_by_name["AuthService"].methods}
PEOPLE = (DANA, MORGAN, SAM, ALICE, BOB)
PROCESSES = ("gateway", "host", "link", "enrichment", "reporting", "tracking")


async def call(auth: Auth, method: str, metadata: Metadata | None) -> None:
    """Calls an rpc with an empty request and takes its whole answer."""
    request = getattr(auth_pb2, METHODS[method].input_type.name)()
    answer = getattr(auth.stub, method)(request, metadata=metadata)
    if METHODS[method].server_streaming:
        async for _ in answer:
            pass
    else:
        await answer


async def gets_in(auth: Auth, method: str, metadata: Metadata | None) -> bool:
    """Whether a call gets past the door; what it finds behind it is another test's business."""
    try:
        await call(auth, method, metadata)
    except grpc.aio.AioRpcError as error:
        return error.code() not in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
    return True


def test_every_rpc_stands_in_the_table() -> None:
    assert set(MAY_CALL) == set(METHODS)


@pytest.mark.parametrize("method", MAY_CALL)
async def test_an_rpc_is_open_to_its_callers_and_to_nobody_else(auth: Auth, method: str) -> None:
    let_in = {person.role for person in PEOPLE if await gets_in(auth, method, auth.by(person))}
    let_in |= {process for process in PROCESSES if await gets_in(auth, method, auth.by(process))}
    assert let_in == MAY_CALL[method]
    assert not await gets_in(auth, method, None)


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param((), id="G01-none"),
        pytest.param(((IDENTITY_METADATA, "x.y.z"),), id="G01-garbage-identity"),
        pytest.param((("authorization", "Bearer onk_" + "a" * 43),), id="G01-unknown-key"),
        pytest.param((("authorization", "Bearer ons_" + "a" * 43),), id="G01-session-instead-of-key"),
        pytest.param((("authorization", "Basic YTpi"),), id="G01-other-scheme"),
    ],
)
async def test_a_call_without_a_valid_credential_is_unauthenticated(auth: Auth, metadata: Metadata) -> None:
    told = await refusal(auth.stub.GetAgency(auth_pb2.GetAgencyRequest(), metadata=metadata))
    assert isinstance(told, Unauthenticated)


OF_ANOTHER_AGENCY = [
    ("GetUser", auth_pb2.GetUserRequest(name=CHARLIE.name)),
    ("UpdateUser", auth_pb2.UpdateUserRequest(user=auth_pb2.User(name=CHARLIE.name, disabled=True))),
    ("UnlockUser", auth_pb2.UnlockUserRequest(name=CHARLIE.name)),
    ("ResetPassword", auth_pb2.ResetPasswordRequest(name=CHARLIE.name)),
]


@pytest.mark.parametrize(
    ("method", "request_"), OF_ANOTHER_AGENCY, ids=[f"G12-{each[0]}" for each in OF_ANOTHER_AGENCY]
)
async def test_a_user_of_another_agency_is_not_found_and_the_try_is_on_record(
    auth: Auth, method: str, request_: Any
) -> None:
    before = auth.rows("select * from auth.users where email = %s", email_of(CHARLIE))
    told = await refusal(getattr(auth.stub, method)(request_, metadata=auth.by(DANA)))
    assert isinstance(told, NotFound)
    assert told.reason == "USER_UNKNOWN"
    assert auth.rows("select * from auth.users where email = %s", email_of(CHARLIE)) == before
    lines = auth.rows("select agency_id, actor, target, outcome, details from auth.actions")
    assert lines == [
        {
            "agency_id": cast.FIRST_COURT,
            "actor": DANA.name,
            "target": CHARLIE.name,
            "outcome": "refused",
            "details": {"reason": "USER_UNKNOWN"},
        }
    ]


async def test_a_key_of_another_agency_is_not_found(auth: Auth) -> None:
    key = await make_key(auth, DANA, "opens:read")
    request = auth_pb2.RevokeApiKeyRequest(name=key.api_key.name)
    told = await refusal(auth.stub.RevokeApiKey(request, metadata=auth.by(CHARLIE)))
    assert isinstance(told, NotFound)
    assert told.reason == "API_KEY_UNKNOWN"
    assert auth.rows("select revoke_time from auth.api_keys") == [{"revoke_time": None}]


@pytest.mark.parametrize(
    "name", ["", "users/", "users/1", "clients/" + DANA.name[6:], DANA.name.upper(), DANA.name + "/x", "users/\0"]
)
async def test_a_name_in_another_spelling_is_not_found(auth: Auth, name: str) -> None:
    told = await refusal(auth.stub.GetUser(auth_pb2.GetUserRequest(name=name), metadata=auth.by(DANA)))
    assert isinstance(told, NotFound)


async def test_lists_show_nothing_of_another_agency(auth: Auth) -> None:
    await make_key(auth, DANA, "opens:read")
    users = await auth.stub.ListUsers(auth_pb2.ListUsersRequest(), metadata=auth.by(CHARLIE))
    officers = await auth.stub.ListOfficers(auth_pb2.ListOfficersRequest(), metadata=auth.by(CHARLIE))
    keys = await auth.stub.ListApiKeys(auth_pb2.ListApiKeysRequest(), metadata=auth.by(CHARLIE))
    actions = await auth.stub.ListActions(auth_pb2.ListActionsRequest(), metadata=auth.by(CHARLIE))
    assert [user.name for user in users.users] == [CHARLIE.name]
    assert [user.name for user in officers.officers] == [CHARLIE.name]
    assert list(keys.api_keys) == []
    assert list(actions.actions) == []


async def test_the_caller_is_told_who_they_are(auth: Auth) -> None:
    told = await auth.stub.GetCaller(auth_pb2.GetCallerRequest(), metadata=auth.by(ALICE))
    assert (told.name, told.display_name, told.role) == (ALICE.name, "Alice Novak", auth_pb2.ROLE_CLERK)
    assert list(told.permissions) == sorted(ALICE.permissions)
    assert told.own_clients_only
    assert (told.agency.name, told.agency.time_zone) == (f"agencies/{cast.FIRST_COURT}", "America/New_York")


# Agencies


def new_agency(email: str = "root@new.example", **more: Any) -> auth_pb2.CreateAgencyRequest:
    return auth_pb2.CreateAgencyRequest(
        **{"agency": auth_pb2.Agency(display_name="New Court"), "admin_email": email, **more}
    )


async def test_an_agency_is_created_with_an_administrator_who_can_sign_in(auth: Auth) -> None:
    made = await auth.stub.CreateAgency(new_agency(), metadata=auth.by("host"))
    assert (made.agency.display_name, made.agency.time_zone, made.agency.revision) == ("New Court", "UTC", 1)
    assert (made.admin.email, made.admin.role) == ("root@new.example", auth_pb2.ROLE_ADMIN)
    session = await auth.sign_in("ROOT@new.example", made.admin_password)
    assert session.user.name == made.admin.name
    lines = auth.rows("select verb, actor from auth.actions order by action_id")
    assert [line["verb"] for line in lines] == ["agency.create", "user.create", "session.sign-in"]
    assert lines[0]["actor"] == "services/host"


async def test_a_chosen_password_is_taken_and_not_shown_again(auth: Auth) -> None:
    chosen = "nine quiet herons by the mill"
    made = await auth.stub.CreateAgency(new_agency(admin_password=chosen), metadata=auth.by("host"))
    assert made.admin_password == ""
    assert (await auth.sign_in("root@new.example", chosen)).user.name == made.admin.name


async def test_an_agency_whose_administrator_exists_already_is_not_created(auth: Auth) -> None:
    told = await refusal(auth.stub.CreateAgency(new_agency("Dana@court.example"), metadata=auth.by("host")))
    assert isinstance(told, AlreadyExists)
    assert told.reason == "EMAIL_TAKEN"
    listed = await auth.stub.ListAgencies(auth_pb2.ListAgenciesRequest(), metadata=auth.by("host"))
    assert [agency.display_name for agency in listed.agencies] == ["First Court", "Other Court"]
    assert auth.rows("select 1 from auth.outbox") == []


async def test_a_wrong_agency_names_every_wrong_field(auth: Auth) -> None:
    request = new_agency("nobody", agency=auth_pb2.Agency(time_zone="Mars/Olympus"), request_id="1")
    told = await refusal(auth.stub.CreateAgency(request, metadata=auth.by("host")))
    assert [field for field, _ in told.fields] == [
        "agency.display_name", "agency.time_zone", "admin_email", "request_id",
    ]  # fmt: skip
    told = await refusal(auth.stub.CreateAgency(new_agency(admin_password="short"), metadata=auth.by("host")))
    assert (told.reason, told.fields[0][0]) == ("PASSWORD_REFUSED", "admin_password")


async def test_all_agencies_are_exported_to_the_services_that_keep_a_copy(auth: Auth) -> None:
    await auth.stub.CreateAgency(new_agency(), metadata=auth.by("host"))
    exported = [
        agency.display_name
        async for agency in auth.stub.ExportAgencies(auth_pb2.ExportAgenciesRequest(), metadata=auth.by("link"))
    ]
    assert exported == ["First Court", "Other Court", "New Court"]


async def update_agency(auth: Auth, *paths: str, revision: int = 0, **values: Any) -> auth_pb2.Agency:
    request = auth_pb2.UpdateAgencyRequest(
        agency=auth_pb2.Agency(revision=revision, **values),
        update_mask=FieldMask(paths=paths) if paths else None,
    )
    updated: auth_pb2.Agency = await auth.stub.UpdateAgency(request, metadata=auth.by(DANA))
    return updated


async def test_settings_of_an_agency_change_and_leave_a_line_and_a_revision(auth: Auth) -> None:
    changed = await update_agency(
        auth, time_zone="Europe/Berlin", allowed_hosts=["Pay.Court.Gov"], staff_networks=["10.1.0.0/16"]
    )
    assert (changed.time_zone, list(changed.allowed_hosts), changed.revision) == ("Europe/Berlin", ["pay.court.gov"], 2)
    assert changed.display_name == "First Court"
    assert await auth.stub.GetAgency(auth_pb2.GetAgencyRequest(), metadata=auth.by(ALICE)) == changed
    details = auth.rows("select details from auth.actions where verb = 'agency.update'")[0]["details"]
    assert details == {
        "time_zone": "Europe/Berlin", "allowed_hosts": "pay.court.gov", "staff_networks": "10.1.0.0/16",
    }  # fmt: skip


async def test_a_mask_says_which_fields_change_and_can_empty_a_list(auth: Auth) -> None:
    await update_agency(auth, allowed_hosts=["pay.court.gov"], staff_networks=["10.1.0.0/16"])
    changed = await update_agency(auth, "allowed_hosts", display_name="Ignored")
    assert (list(changed.allowed_hosts), changed.display_name) == ([], "First Court")
    assert list(changed.staff_networks) == ["10.1.0.0/16"]


async def test_a_star_replaces_all(auth: Auth) -> None:
    await update_agency(auth, allowed_hosts=["pay.court.gov"])
    changed = await update_agency(auth, "*", display_name="Renamed", time_zone="UTC")
    assert (changed.display_name, changed.time_zone, list(changed.allowed_hosts)) == ("Renamed", "UTC", [])


async def test_a_change_that_changes_nothing_makes_no_revision(auth: Auth) -> None:
    assert (await update_agency(auth, display_name="First Court")).revision == 1


async def test_the_second_of_two_editors_is_told(auth: Auth) -> None:
    await update_agency(auth, display_name="Renamed", revision=1)
    told = await refusal(update_agency(auth, display_name="Renamed otherwise", revision=1))
    assert isinstance(told, Aborted)
    assert told.reason == "CHANGED_MEANWHILE"


@pytest.mark.parametrize(
    ("paths", "values", "field"),
    [
        pytest.param((), {"time_zone": "Nowhere/Land"}, "agency.time_zone", id="A20-time-zone"),
        pytest.param((), {"allowed_hosts": ["ok.example", "https://x.example"]}, "agency.allowed_hosts", id="A01-host"),
        pytest.param((), {"staff_networks": ["10.0.0.1/8"]}, "agency.staff_networks", id="host bits set"),
        pytest.param(("display_name",), {}, "agency.display_name", id="A02-empty-name"),
        pytest.param((), {"display_name": "x" * 201}, "agency.display_name", id="A02-long-name"),
        pytest.param((), {"display_name": "a\0b"}, "agency.display_name", id="A02-nul"),
        pytest.param(("revision",), {}, "update_mask", id="G10-path-of-output"),
        pytest.param(("nonsense",), {}, "update_mask", id="G10-unknown-path"),
    ],
)
async def test_a_wrong_setting_names_its_field_and_changes_nothing(
    auth: Auth, paths: tuple[str, ...], values: dict[str, Any], field: str
) -> None:
    told = await refusal(update_agency(auth, *paths, **values))
    assert isinstance(told, InvalidArgument)
    assert [name for name, _ in told.fields] == [field]
    assert auth.rows("select max(revision) as revision from auth.agencies") == [{"revision": 1}]


# Users


def new_user(email: str = "eve@court.example", request_id: str = "", **more: Any) -> auth_pb2.CreateUserRequest:
    user = {"email": email, "display_name": "Eve", "role": auth_pb2.ROLE_CLERK, **more}
    return auth_pb2.CreateUserRequest(user=auth_pb2.User(**user), request_id=request_id)


async def create_user(auth: Auth, request: auth_pb2.CreateUserRequest) -> auth_pb2.CreateUserResponse:
    made: auth_pb2.CreateUserResponse = await auth.stub.CreateUser(request, metadata=auth.by(DANA))
    return made


async def update_user(
    auth: Auth, person: cast.Person, *paths: str, by: cast.Person = DANA, **values: Any
) -> auth_pb2.User:
    request = auth_pb2.UpdateUserRequest(
        user=auth_pb2.User(name=person.name, **values), update_mask=FieldMask(paths=paths) if paths else None
    )
    updated: auth_pb2.User = await auth.stub.UpdateUser(request, metadata=auth.by(by))
    return updated


async def test_a_created_user_signs_in_with_the_password_that_was_shown(auth: Auth) -> None:
    made = await create_user(auth, new_user())
    assert (await auth.sign_in("EVE@court.example", made.password)).user.name == made.user.name
    got = await auth.stub.GetUser(auth_pb2.GetUserRequest(name=made.user.name), metadata=auth.by(BOB))
    assert (got.email, got.role, got.disabled, got.locked) == ("eve@court.example", auth_pb2.ROLE_CLERK, False, False)


@pytest.mark.parametrize("email", ["CHARLIE@court.example", "Dana@Court.Example"])
async def test_an_address_is_unique_in_the_install_in_any_case(auth: Auth, email: str) -> None:
    told = await refusal(create_user(auth, new_user(email)))
    assert isinstance(told, AlreadyExists)
    assert told.reason == "EMAIL_TAKEN"


@pytest.mark.parametrize(
    ("values", "field"),
    [
        pytest.param({"role": 0}, "user.role", id="G10-no-role"),
        pytest.param({"role": 99}, "user.role", id="G10-unknown-role"),
        pytest.param({"display_name": " "}, "user.display_name", id="A02-spaces"),
        pytest.param({"email": "eve"}, "user.email", id="no address"),
        pytest.param({"request_id": "not-a-uuid"}, "request_id", id="request id"),
    ],
)
async def test_a_wrong_user_names_its_field(auth: Auth, values: dict[str, Any], field: str) -> None:
    told = await refusal(create_user(auth, new_user(**values)))
    assert isinstance(told, InvalidArgument)
    assert [name for name, _ in told.fields] == [field]


async def test_a_repeated_request_creates_one_user(auth: Auth) -> None:
    request = new_user(request_id=str(names.new_id()))
    first, second = await asyncio.gather(create_user(auth, request), create_user(auth, request))
    assert first.user == second.user
    assert sorted([bool(first.password), bool(second.password)]) == [False, True], "a password is shown once"
    assert len(auth.rows("select 1 from auth.users where email = 'eve@court.example'")) == 1


async def test_a_request_id_with_other_content_is_refused(auth: Auth) -> None:
    request_id = str(names.new_id())
    await create_user(auth, new_user(request_id=request_id))
    told = await refusal(create_user(auth, new_user("frank@court.example", request_id=request_id)))
    assert isinstance(told, AlreadyExists)
    assert told.reason == "REQUEST_ID_REUSED"
    key = auth_pb2.ApiKey(display_name="Case system", scopes=["opens:read"])
    request = auth_pb2.CreateApiKeyRequest(api_key=key, request_id=request_id)
    assert (await refusal(auth.stub.CreateApiKey(request, metadata=auth.by(DANA)))).reason == "REQUEST_ID_REUSED"


async def test_a_repeated_request_creates_one_agency_and_one_key(auth: Auth) -> None:
    request = new_agency(request_id=str(names.new_id()))
    made = await asyncio.gather(*(auth.stub.CreateAgency(request, metadata=auth.by("host")) for _ in range(3)))
    assert len({answer.agency.name for answer in made}) == 1
    assert len({answer.admin.name for answer in made}) == 1
    assert [bool(answer.admin_password) for answer in made].count(True) == 1
    key = auth_pb2.ApiKey(display_name="Case system", scopes=["opens:read"])
    again = auth_pb2.CreateApiKeyRequest(api_key=key, request_id=str(names.new_id()))
    keys = await asyncio.gather(*(auth.stub.CreateApiKey(again, metadata=auth.by(DANA)) for _ in range(3)))
    assert len({answer.api_key.name for answer in keys}) == 1
    assert [bool(answer.secret) for answer in keys].count(True) == 1


async def test_a_failed_request_leaves_its_id_free(auth: Auth) -> None:
    request_id = str(names.new_id())
    await refusal(create_user(auth, new_user(email_of(CHARLIE), request_id=request_id)))
    assert (await create_user(auth, new_user(request_id=request_id))).password


@pytest.mark.parametrize(
    ("person", "values", "reason"),
    [
        pytest.param(DANA, {"disabled": True}, "OWN_ACCOUNT", id="A11-own-account"),
        pytest.param(DANA, {"role": auth_pb2.ROLE_AUDITOR}, "OWN_ACCOUNT", id="A11-own-role"),
    ],
)
async def test_nobody_changes_their_own_rights(
    auth: Auth, person: cast.Person, values: dict[str, Any], reason: str
) -> None:
    told = await refusal(update_user(auth, person, **values))
    assert isinstance(told, FailedPrecondition)
    assert told.reason == reason


async def test_an_own_name_may_be_changed(auth: Auth) -> None:
    assert (await update_user(auth, DANA, display_name="Dana R.")).display_name == "Dana R."


async def test_the_last_administrator_stays_one(auth: Auth) -> None:
    host = auth.keyring.signer("host").sign(
        subject="services/host", agency_id=cast.FIRST_COURT, permissions=PERMISSIONS
    )[0]
    for change in ({"disabled": True}, {"role": auth_pb2.ROLE_MANAGER}):
        request = auth_pb2.UpdateUserRequest(user=auth_pb2.User(name=DANA.name, **change))
        told = await refusal(auth.stub.UpdateUser(request, metadata=((IDENTITY_METADATA, host),)))
        assert isinstance(told, FailedPrecondition)
        assert told.reason == "LAST_ADMIN"


async def test_two_administrators_who_demote_each_other_at_once_do_not_both_succeed(auth: Auth) -> None:
    await update_user(auth, MORGAN, role=auth_pb2.ROLE_ADMIN)
    morgan = dataclasses.replace(MORGAN, role="admin", permissions=PERMISSIONS)
    outcomes = await asyncio.gather(
        update_user(auth, DANA, by=morgan, role=auth_pb2.ROLE_CLERK),
        update_user(auth, MORGAN, by=DANA, role=auth_pb2.ROLE_CLERK),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, Exception) for outcome in outcomes) == 1
    admins = auth.rows("select 1 from auth.users where agency_id = %s and role = 'admin'", cast.FIRST_COURT)
    assert len(admins) == 1


async def test_a_user_is_disabled_and_enabled(auth: Auth) -> None:
    token = (await auth.sign_in(email_of(ALICE))).token
    assert token
    assert (await update_user(auth, ALICE, disabled=True)).disabled
    assert auth.rows("select 1 from auth.sessions") == []
    officers = await auth.stub.ListOfficers(auth_pb2.ListOfficersRequest(), metadata=auth.by(BOB))
    assert ALICE.name not in [officer.name for officer in officers.officers]
    assert not (await update_user(auth, ALICE, "disabled")).disabled
    assert (await auth.sign_in(email_of(ALICE))).user.name == ALICE.name


@pytest.mark.parametrize(
    ("paths", "values", "field"),
    [
        pytest.param(("email",), {"email": "x@y.example"}, "update_mask", id="G10-path-that-does-not-change"),
        pytest.param(("role",), {}, "user.role", id="G10-role-unset"),
        pytest.param((), {"role": 77}, "user.role", id="G10-unknown-role"),
        pytest.param(("display_name",), {}, "user.display_name", id="A02-empty"),
    ],
)
async def test_a_wrong_change_of_a_user_names_its_field(
    auth: Auth, paths: tuple[str, ...], values: dict[str, Any], field: str
) -> None:
    told = await refusal(update_user(auth, ALICE, *paths, **values))
    assert isinstance(told, InvalidArgument)
    assert [name for name, _ in told.fields] == [field]


async def test_the_second_of_two_editors_of_a_user_is_told(auth: Auth) -> None:
    assert (await update_user(auth, ALICE, role=auth_pb2.ROLE_MANAGER, revision=1)).revision == 2
    told = await refusal(update_user(auth, ALICE, role=auth_pb2.ROLE_AUDITOR, revision=1))
    assert isinstance(told, Aborted)
    assert told.reason == "CHANGED_MEANWHILE"


async def test_a_key_for_users_makes_nobody_mightier_than_itself(auth: Auth) -> None:
    secret = (await make_key(auth, DANA, "users:read", "users:write")).secret
    bearer = (("authorization", f"Bearer {secret}"),)
    raised = auth_pb2.UpdateUserRequest(user=auth_pb2.User(name=ALICE.name, role=auth_pb2.ROLE_ADMIN))
    former = (await auth.stub.CreateUser(new_user(role=auth_pb2.ROLE_ADMIN), metadata=auth.by(DANA))).user
    dismissed = auth_pb2.UpdateUserRequest(user=auth_pb2.User(name=former.name, disabled=True))
    assert (await auth.stub.UpdateUser(dismissed, metadata=bearer)).disabled
    enabled = auth_pb2.UpdateUserRequest(user=auth_pb2.User(name=former.name))
    enabled.update_mask.paths.append("disabled")
    for attempt in (
        auth.stub.CreateUser(new_user(role=auth_pb2.ROLE_ADMIN), metadata=bearer),
        auth.stub.UpdateUser(raised, metadata=bearer),
        auth.stub.ResetPassword(auth_pb2.ResetPasswordRequest(name=DANA.name), metadata=bearer),
        auth.stub.UpdateUser(enabled, metadata=bearer),
        auth.stub.UnlockUser(auth_pb2.UnlockUserRequest(name=DANA.name), metadata=bearer),
    ):
        told = await refusal(attempt)
        assert isinstance(told, PermissionDenied)
        assert told.reason == "ROLE_NOT_HELD"


async def test_a_user_is_looked_up_for_link_and_for_the_host(auth: Auth) -> None:
    first = str(cast.FIRST_COURT)

    async def look_up(process: str, user: str, agency_id: str) -> auth_pb2.User:
        request = auth_pb2.LookUpUserRequest(user=user, agency_id=agency_id)
        found: auth_pb2.User = await auth.stub.LookUpUser(request, metadata=auth.by(process))
        return found

    assert (await look_up("link", ALICE.name, first)).display_name == "Alice Novak"
    assert (await look_up("link", ALICE.name, first)).email == "", "link needs no address"
    assert (await look_up("host", "ALICE@court.example", "")).name == ALICE.name
    assert (await look_up("host", ALICE.name, first)).email == email_of(ALICE)
    for user, agency_id in ((CHARLIE.name, first), ("users/1", first), ("nobody@court.example", first), ("\0", first)):
        assert (await refusal(look_up("link", user, agency_id))).reason == "USER_UNKNOWN"
    for agency_id in ("", "1"):
        assert [field for field, _ in (await refusal(look_up("link", ALICE.name, agency_id))).fields] == ["agency_id"]
    await update_user(auth, ALICE, disabled=True)
    assert (await refusal(look_up("link", ALICE.name, first))).reason == "USER_UNKNOWN"
    assert (await look_up("host", ALICE.name, first)).disabled


# API keys


async def make_key(auth: Auth, person: cast.Person, *scopes: str) -> auth_pb2.CreateApiKeyResponse:
    request = auth_pb2.CreateApiKeyRequest(api_key=auth_pb2.ApiKey(display_name="Case system", scopes=scopes))
    made: auth_pb2.CreateApiKeyResponse = await auth.stub.CreateApiKey(request, metadata=auth.by(person))
    return made


async def test_a_secret_is_shown_once(auth: Auth) -> None:
    made = await make_key(auth, DANA, "opens:read", "opens:read")
    assert made.secret.startswith("onk_")
    assert list(made.api_key.scopes) == ["opens:read"]
    listed = await auth.stub.ListApiKeys(auth_pb2.ListApiKeysRequest(), metadata=auth.by(BOB))
    assert list(listed.api_keys) == [made.api_key]
    lines = auth.rows("select to_jsonb(a)::text as line from auth.actions a")
    assert lines
    assert not any(made.secret in line["line"] for line in lines)


@pytest.mark.parametrize(
    ("values", "field", "reason"),
    [
        pytest.param({"scopes": []}, "api_key.scopes", "FIELDS_INVALID", id="no scope"),
        pytest.param({"scopes": ["opens:read", "x"]}, "api_key.scopes", "SCOPE_UNKNOWN", id="unknown scope"),
        pytest.param({"scopes": ["opens:read\0"]}, "api_key.scopes", "SCOPE_UNKNOWN", id="NUL in a scope"),
        pytest.param({"scopes": ["opens:read"] * 51}, "api_key.scopes", "FIELDS_INVALID", id="too many scopes"),
        pytest.param({"display_name": ""}, "api_key.display_name", "FIELDS_INVALID", id="A02-empty"),
        pytest.param({"expire_time": Timestamp(seconds=1)}, "api_key.expire_time", "FIELDS_INVALID", id="in the past"),
        pytest.param(
            {"expire_time": Timestamp(seconds=10**15)}, "api_key.expire_time", "FIELDS_INVALID", id="G10-out-of-range"
        ),
        pytest.param(
            {"expire_time": Timestamp(seconds=4 * 10**9, nanos=-1)}, "api_key.expire_time", "FIELDS_INVALID",
            id="G10-negative-nanos",
        ),
    ],
)  # fmt: skip
async def test_a_wrong_key_names_its_field(auth: Auth, values: dict[str, Any], field: str, reason: str) -> None:
    key = auth_pb2.ApiKey(**{"display_name": "Case system", "scopes": ["opens:read"], **values})
    told = await refusal(auth.stub.CreateApiKey(auth_pb2.CreateApiKeyRequest(api_key=key), metadata=auth.by(DANA)))
    assert isinstance(told, InvalidArgument)
    assert (told.reason, [name for name, _ in told.fields]) == (reason, [field])


async def test_a_key_gives_no_scope_that_it_does_not_hold(auth: Auth) -> None:
    secret = (await make_key(auth, DANA, "api-keys:write")).secret
    bearer = (("authorization", f"Bearer {secret}"),)
    for scope in ("opens:read", "all"):
        key = auth_pb2.ApiKey(display_name="More", scopes=[scope])
        told = await refusal(auth.stub.CreateApiKey(auth_pb2.CreateApiKeyRequest(api_key=key), metadata=bearer))
        assert isinstance(told, PermissionDenied)
        assert told.reason == "SCOPE_NOT_HELD"
    refused = auth.rows("select details from auth.actions where verb = 'api-key.create' and outcome = 'refused'")
    assert [line["details"]["reason"] for line in refused] == ["SCOPE_NOT_HELD"] * 2


# Lists


async def test_users_come_by_display_name_page_by_page(auth: Auth) -> None:
    await create_user(auth, new_user(display_name="alba"))
    seen, token = [], ""
    while True:
        request = auth_pb2.ListUsersRequest(page_size=2, page_token=token)
        page = await auth.stub.ListUsers(request, metadata=auth.by(DANA))
        seen += [user.display_name for user in page.users]
        token = page.next_page_token
        if not token:
            break
        assert len(page.users) == 2
    assert seen == ["alba", "Alice Novak", "Bob Lind", "Dana Reyes", "Morgan Lee", "Sam Okafor"]


async def test_keys_and_actions_come_newest_first_page_by_page(auth: Auth) -> None:
    made = [(await make_key(auth, DANA, "opens:read")).api_key.name for _ in range(5)]
    keys, actions, token = [], [], ""
    for _ in range(3):
        request = auth_pb2.ListApiKeysRequest(page_size=2, page_token=token)
        page = await auth.stub.ListApiKeys(request, metadata=auth.by(DANA))
        keys += [key.name for key in page.api_keys]
        token = page.next_page_token
    assert token == ""
    for _ in range(3):
        log_request = auth_pb2.ListActionsRequest(page_size=2, page_token=token)
        answer = await auth.stub.ListActions(log_request, metadata=auth.by(BOB))
        actions += [action.target for action in answer.actions]
        token = answer.next_page_token
    assert token == ""
    assert keys == actions == made[::-1]


LISTS = {
    "ListUsers": auth_pb2.ListUsersRequest,
    "ListApiKeys": auth_pb2.ListApiKeysRequest,
    "ListActions": auth_pb2.ListActionsRequest,
}


@pytest.mark.parametrize("method", LISTS)
async def test_a_page_size_is_zero_for_fifty_lowered_to_two_hundred_and_never_negative(auth: Auth, method: str) -> None:
    for size in (0, 201, 2**31 - 1):
        await getattr(auth.stub, method)(LISTS[method](page_size=size), metadata=auth.by(DANA))
    for size in (-1, -(2**31)):
        told = await refusal(getattr(auth.stub, method)(LISTS[method](page_size=size), metadata=auth.by(DANA)))
        assert isinstance(told, InvalidArgument)
        assert [field for field, _ in told.fields] == ["page_size"]


async def test_no_more_than_two_hundred_users_come_at_once(auth: Auth) -> None:
    auth.rows(
        "insert into auth.users (user_id, agency_id, email, email_key, display_name, role, password_hash, create_time) "
        "select gen_random_uuid(), %s, n || '@x.example', n || '@x.example', 'User ' || n, 'clerk', '', now() "
        "from generate_series(1, 300) n",
        cast.FIRST_COURT,
    )
    for asked, got in ((0, 50), (1000, 200)):
        page = await auth.stub.ListUsers(auth_pb2.ListUsersRequest(page_size=asked), metadata=auth.by(DANA))
        assert len(page.users) == got
        assert page.next_page_token


async def test_a_page_token_belongs_to_its_query_and_its_agency(auth: Auth) -> None:
    for _ in range(3):
        await make_key(auth, DANA, "opens:read")
    page = await auth.stub.ListActions(auth_pb2.ListActionsRequest(page_size=1), metadata=auth.by(DANA))
    token = page.next_page_token
    assert token
    wrong: list[tuple[str, Any, cast.Person]] = [
        ("ListActions", auth_pb2.ListActionsRequest(verb_prefix="link.", page_token=token), DANA),
        ("ListActions", auth_pb2.ListActionsRequest(page_token=token), CHARLIE),
        ("ListActions", auth_pb2.ListActionsRequest(page_token=token[:-2] + "AA"), DANA),
        ("ListActions", auth_pb2.ListActionsRequest(page_token="é" * 10), DANA),
        ("ListApiKeys", auth_pb2.ListApiKeysRequest(page_token=token), DANA),
        ("ListUsers", auth_pb2.ListUsersRequest(page_token="bm90IGEgdG9rZW4="), DANA),
    ]
    for method, request, person in wrong:
        told = await refusal(getattr(auth.stub, method)(request, metadata=auth.by(person)))
        assert isinstance(told, InvalidArgument)
        assert told.reason == "PAGE_TOKEN_INVALID"
    other_size = auth_pb2.ListActionsRequest(page_size=2, page_token=token)
    assert len((await auth.stub.ListActions(other_size, metadata=auth.by(DANA))).actions) == 2


# The audit log


def line(**more: Any) -> audit_pb2.Action:
    return audit_pb2.Action(
        **{
            "action_id": str(names.new_id()),
            "act_time": Timestamp(seconds=1_790_000_000),
            "agency_id": str(cast.FIRST_COURT),
            "actor": ALICE.name,
            "actor_display_name": "Alice Novak",
            "verb": "opens.export",
            "outcome": audit_pb2.OUTCOME_DONE,
            "source_address": "192.0.2.9",
            "details": {"rows": "12"},
            **more,
        }
    )


async def record(auth: Auth, action: audit_pb2.Action) -> None:
    await auth.stub.RecordAction(auth_pb2.RecordActionRequest(action=action), metadata=auth.by("reporting"))


async def list_actions(auth: Auth, **filters: Any) -> list[audit_pb2.Action]:
    answer = await auth.stub.ListActions(auth_pb2.ListActionsRequest(**filters), metadata=auth.by(BOB))
    return list(answer.actions)


async def test_a_recorded_line_comes_back_as_it_was_and_once(auth: Auth) -> None:
    action = line()
    for _ in range(2):
        await record(auth, action)
    assert await list_actions(auth) == [action]


async def test_the_audit_log_is_searched_by_verb_and_actor(auth: Auth) -> None:
    await record(auth, line())
    await record(auth, line(verb="link.revoke", actor=DANA.name))
    await record(auth, line(verb="link.create", actor=ALICE.name))
    assert [action.verb for action in await list_actions(auth, verb_prefix="link.")] == ["link.create", "link.revoke"]
    assert [action.verb for action in await list_actions(auth, verb_prefix="link.", actor=DANA.name)] == ["link.revoke"]
    assert await list_actions(auth, verb_prefix="lin%") == []
    told = await refusal(list_actions(auth, verb_prefix="\0", actor="\0"))
    assert [field for field, _ in told.fields] == ["verb_prefix", "actor"]


async def test_a_line_of_another_agency_or_of_none_is_not_shown(auth: Auth) -> None:
    await record(auth, line(agency_id=str(cast.OTHER_COURT)))
    await record(auth, line(agency_id=""))
    assert await list_actions(auth) == []
    assert len(auth.rows("select 1 from auth.actions")) == 2


@pytest.mark.parametrize(
    ("values", "field"),
    [
        pytest.param({"action_id": ""}, "action.action_id", id="no id"),
        pytest.param({"agency_id": "1"}, "action.agency_id", id="no agency id"),
        pytest.param({"act_time": None}, "action.act_time", id="no time"),
        pytest.param({"act_time": Timestamp(seconds=-(10**12))}, "action.act_time", id="G10-time-out-of-range"),
        pytest.param({"act_time": Timestamp(seconds=1, nanos=-1)}, "action.act_time", id="G10-negative-nanos"),
        pytest.param({"actor": ""}, "action.actor", id="no actor"),
        pytest.param({"verb": "revoke"}, "action.verb", id="one word"),
        pytest.param({"outcome": 0}, "action.outcome", id="no outcome"),
        pytest.param({"outcome": 9}, "action.outcome", id="G10-unknown-outcome"),
    ],
)
async def test_an_incomplete_line_names_its_field(auth: Auth, values: dict[str, Any], field: str) -> None:
    told = await refusal(record(auth, line(**values)))
    assert isinstance(told, InvalidArgument)
    assert [name for name, _ in told.fields] == [field]


async def test_an_act_whose_line_cannot_be_written_does_not_happen(auth: Auth) -> None:
    auth.rows("alter table auth.actions add constraint full_up check (verb <> 'user.update') not valid")
    await refusal(update_user(auth, ALICE, role=auth_pb2.ROLE_MANAGER))
    role = auth.rows("select role from auth.users where user_id = %s", UUID(ALICE.name[6:]))
    assert role == [{"role": "clerk"}]


def test_the_cast_has_a_person_of_every_role() -> None:
    assert {person.role for person in EVERYBODY} == EVERY_ROLE
