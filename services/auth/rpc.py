"""AuthService and IdentityService: proto in, proto out."""

import hashlib
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from opennotice.audit.v1 import audit_pb2
from opennotice.auth.v1 import auth_pb2, auth_pb2_grpc
from opennotice.identity.v1 import identity_pb2, identity_pb2_grpc

from services.auth import agency, api_key, audit, events, password, permission, store, text
from services.auth.account import User
from services.auth.action import ADDRESS_LIMIT, Action
from services.auth.api_key import ApiKey
from services.auth.credential import Credentials
from services.auth.permission import Role
from services.auth.registrar import Once, Registrar, known_agency, known_user
from services.auth.sign_in import Doorkeeper
from services.chassis import clock
from services.chassis.errors import Faults, PermissionDenied, invalid
from services.chassis.identity import caller
from services.chassis.names import parse_name, parse_uuid
from services.chassis.paging import Pages, page_size, scope_of
from services.chassis.postgres import Database

T = TypeVar("T")
Context = grpc.aio.ServicerContext[Any, Any]
_OFFICERS_LIMIT = 1000
_ROLES = {role: auth_pb2.Role.Value(f"ROLE_{role.name}") for role in Role}
_ROLE_WORDS = {number: role for role, number in _ROLES.items()}


class IdentityService(identity_pb2_grpc.IdentityServiceServicer):
    """Exchanges credentials for identities."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def IssueIdentity(
        self, request: identity_pb2.IssueIdentityRequest, context: Context
    ) -> identity_pb2.Identity:
        """Issues one."""
        faults = Faults()
        if not request.credential:
            faults.add("credential", "must be given")
        _check_address(request.source_address, faults)
        faults.stop()
        token, expire_time = await self._credentials.issue(
            request.credential, request.source_address, passive=request.passive
        )
        return identity_pb2.Identity(token=token, expire_time=clock.to_proto(expire_time))


class AuthService(auth_pb2_grpc.AuthServiceServicer):
    """Agencies, users, sessions, API keys, the audit log."""

    def __init__(
        self,
        *,
        serve: Database,
        directory: Database,
        doorkeeper: Doorkeeper,
        registrar: Registrar,
        pages: Pages,
    ) -> None:
        self._serve = serve
        self._directory = directory
        self._doorkeeper = doorkeeper
        self._registrar = registrar
        self._pages = pages

    # Sessions and the caller

    async def SignIn(self, request: auth_pb2.SignInRequest, context: Context) -> auth_pb2.Session:
        """Opens a session."""
        faults = Faults()
        if not request.email or len(request.email) > text.EMAIL_LIMIT or not text.is_printable(request.email):
            faults.add("email", f"must have 1 to {text.EMAIL_LIMIT} printable characters")
        if not request.password or len(password.normal_form(request.password)) > password.LONGEST:
            faults.add("password", f"must have 1 to {password.LONGEST} characters")
        _check_address(request.source_address, faults)
        faults.stop()
        opened = await self._doorkeeper.sign_in(request.email, request.password, request.source_address)
        return auth_pb2.Session(
            token=opened.token,
            expire_time=clock.to_proto(opened.session.expire_time),
            user=_user_to_proto(opened.user),
        )

    async def SignOut(self, request: auth_pb2.SignOutRequest, context: Context) -> Empty:
        """Ends a session."""
        await self._doorkeeper.sign_out(request.token, caller())
        return Empty()

    async def GetCaller(self, request: auth_pb2.GetCallerRequest, context: Context) -> auth_pb2.Caller:
        """Returns the caller."""
        who = caller()
        async with self._serve.transaction(who.agency) as conn:
            own = known_agency(await store.get_agency(conn, who.agency))
        return auth_pb2.Caller(
            name=who.subject,
            display_name=who.display_name,
            role=_ROLES[Role(who.role)] if who.role else auth_pb2.ROLE_UNSPECIFIED,
            permissions=sorted(who.permissions),
            own_clients_only=who.own_clients_only,
            agency=events.agency_to_proto(own),
        )

    async def ChangePassword(self, request: auth_pb2.ChangePasswordRequest, context: Context) -> Empty:
        """Changes the caller's own password."""
        who = caller()
        user_id = parse_name("users", who.subject)
        if user_id is None:
            raise PermissionDenied("NOT_A_USER", "only a user has a password")
        async with self._serve.transaction(who.agency) as conn:
            user = known_user(await store.get_user(conn, user_id))
            own = known_agency(await store.get_agency(conn, who.agency))
        if len(password.normal_form(request.current_password)) > password.LONGEST:
            raise invalid("current_password", "is not the password", "PASSWORD_WRONG")
        _check_password("new_password", request.new_password, (user.email, user.display_name, own.display_name))
        await self._doorkeeper.change_password(
            who, user, request.current_password, request.new_password, request.session_token
        )
        return Empty()

    # Agencies

    async def CreateAgency(
        self, request: auth_pb2.CreateAgencyRequest, context: Context
    ) -> auth_pb2.CreateAgencyResponse:
        """Creates an agency with its first administrator."""
        faults = Faults()
        wanted, chosen = request.agency, request.admin_password
        name = _checked(faults, "agency.display_name", text.display_name, wanted.display_name)
        zone = _checked(faults, "agency.time_zone", agency.time_zone, wanted.time_zone or agency.DEFAULT_TIME_ZONE)
        email = _checked(faults, "admin_email", text.email, request.admin_email)
        once = _once(request, faults, "admin_password")
        faults.stop()
        if chosen:
            _check_password("admin_password", chosen, (email, name))
        made, admin, secret = await self._registrar.create_agency(
            caller(), once, name=name, zone=zone, email=email, chosen=chosen
        )
        return auth_pb2.CreateAgencyResponse(
            agency=events.agency_to_proto(made), admin=_user_to_proto(admin), admin_password=secret
        )

    async def ListAgencies(
        self, request: auth_pb2.ListAgenciesRequest, context: Context
    ) -> auth_pb2.ListAgenciesResponse:
        """Lists all agencies."""
        async with self._directory.transaction() as conn:
            found = await store.list_agencies(conn)
        return auth_pb2.ListAgenciesResponse(agencies=[events.agency_to_proto(each) for each in found])

    async def ExportAgencies(
        self, request: auth_pb2.ExportAgenciesRequest, context: Context
    ) -> AsyncIterator[auth_pb2.Agency]:
        """Streams all agencies."""
        # Read at once: an install has few, and a slow reader must not hold a connection.
        async with self._directory.transaction() as conn:
            found = await store.list_agencies(conn)
        for each in found:
            yield events.agency_to_proto(each)

    async def GetAgency(self, request: auth_pb2.GetAgencyRequest, context: Context) -> auth_pb2.Agency:
        """Returns the caller's agency."""
        who = caller()
        async with self._serve.transaction(who.agency) as conn:
            return events.agency_to_proto(known_agency(await store.get_agency(conn, who.agency)))

    async def UpdateAgency(self, request: auth_pb2.UpdateAgencyRequest, context: Context) -> auth_pb2.Agency:
        """Changes settings of the caller's agency."""
        who, wanted = caller(), request.agency
        paths = _paths(request, wanted, ("display_name", "time_zone", "allowed_hosts", "staff_networks"))
        changes: dict[str, Any] = {}
        faults = Faults()
        if "display_name" in paths:
            changes["display_name"] = _checked(faults, "agency.display_name", text.display_name, wanted.display_name)
        if "time_zone" in paths:
            changes["time_zone"] = _checked(faults, "agency.time_zone", agency.time_zone, wanted.time_zone)
        if "allowed_hosts" in paths:
            changes["allowed_hosts"] = _checked_each(faults, "agency.allowed_hosts", agency.host, wanted.allowed_hosts)
        if "staff_networks" in paths:
            changes["staff_networks"] = _checked_each(
                faults, "agency.staff_networks", agency.network, wanted.staff_networks
            )
        faults.stop()
        updated = await self._registrar.update_agency(who, wanted.revision, changes)
        return events.agency_to_proto(updated)

    # Users

    async def CreateUser(self, request: auth_pb2.CreateUserRequest, context: Context) -> auth_pb2.CreateUserResponse:
        """Creates a user."""
        faults = Faults()
        email = _checked(faults, "user.email", text.email, request.user.email)
        name = _checked(faults, "user.display_name", text.display_name, request.user.display_name)
        role = _role(request.user.role, faults)
        once = _once(request, faults)
        faults.stop()
        given = await self._registrar.create_user(caller(), once, email=email, name=name, role=role)
        return auth_pb2.CreateUserResponse(user=_user_to_proto(given.thing), password=given.secret)

    async def GetUser(self, request: auth_pb2.GetUserRequest, context: Context) -> auth_pb2.User:
        """Returns one user."""
        who, user_id = caller(), parse_name("users", request.name)
        async with audit.transaction(self._serve, who, "user.get", request.name) as conn:
            return _user_to_proto(known_user(await store.get_user(conn, user_id) if user_id else None))

    async def ListUsers(self, request: auth_pb2.ListUsersRequest, context: Context) -> auth_pb2.ListUsersResponse:
        """Lists users."""
        who, size = caller(), page_size(request.page_size)
        scope = _scope("ListUsers", who.agency, request)
        after = self._pages.decode(scope, request.page_token)
        async with self._serve.transaction(who.agency) as conn:
            key = (str(after[0]), UUID(str(after[1]))) if after else None
            found = await store.list_users(conn, key, size + 1)
        page = found[:size]
        token = self._pages.encode(scope, [page[-1].display_name, str(page[-1].user_id)]) if len(found) > size else ""
        return auth_pb2.ListUsersResponse(users=map(_user_to_proto, page), next_page_token=token)

    async def ListOfficers(
        self, request: auth_pb2.ListOfficersRequest, context: Context
    ) -> auth_pb2.ListOfficersResponse:
        """Lists the names of active users."""
        who = caller()
        async with self._serve.transaction(who.agency) as conn:
            found = await store.list_active_users(conn, _OFFICERS_LIMIT)
        return auth_pb2.ListOfficersResponse(officers=map(_officer_to_proto, found))

    async def UpdateUser(self, request: auth_pb2.UpdateUserRequest, context: Context) -> auth_pb2.User:
        """Changes a user."""
        wanted = request.user
        paths = _paths(request, wanted, ("display_name", "role", "disabled"))
        changes: dict[str, Any] = {}
        faults = Faults()
        if "display_name" in paths:
            changes["display_name"] = _checked(faults, "user.display_name", text.display_name, wanted.display_name)
        if "role" in paths:
            changes["role"] = _role(wanted.role, faults)
        if "disabled" in paths:
            changes["disabled"] = wanted.disabled
        faults.stop()
        user_id = parse_name("users", wanted.name)
        updated = await self._registrar.update_user(caller(), wanted.name, user_id, wanted.revision, changes)
        return _user_to_proto(updated)

    async def UnlockUser(self, request: auth_pb2.UnlockUserRequest, context: Context) -> auth_pb2.User:
        """Unlocks an account."""
        user_id = parse_name("users", request.name)
        return _user_to_proto(await self._registrar.unlock_user(caller(), request.name, user_id))

    async def ResetPassword(
        self, request: auth_pb2.ResetPasswordRequest, context: Context
    ) -> auth_pb2.ResetPasswordResponse:
        """Gives a user a new password."""
        user_id = parse_name("users", request.name)
        made = await self._registrar.reset_password(caller(), request.name, user_id)
        return auth_pb2.ResetPasswordResponse(password=made)

    async def LookUpUser(self, request: auth_pb2.LookUpUserRequest, context: Context) -> auth_pb2.User:
        """Tells whether a user exists."""
        who = caller()
        is_host = who.process == "host"
        agency_id = parse_uuid(request.agency_id)
        if agency_id is None and (request.agency_id or not is_host):
            raise invalid("agency_id", "must be a UUID")
        user_id = parse_name("users", request.user)
        async with self._directory.transaction() as conn:
            if user_id is not None:
                place = await store.find_user(conn, user_id)
            elif text.is_printable(request.user):
                place = await store.find_email(conn, text.email_key(request.user))
            else:
                place = None
        if place is None or agency_id not in (None, place.agency_id):
            return _user_to_proto(known_user(None))
        async with self._serve.transaction(place.agency_id) as conn:
            user = known_user(await store.get_user(conn, place.user_id))
        if is_host:
            return _user_to_proto(user)
        return _officer_to_proto(known_user(None if user.disabled else user))

    # API keys

    async def CreateApiKey(
        self, request: auth_pb2.CreateApiKeyRequest, context: Context
    ) -> auth_pb2.CreateApiKeyResponse:
        """Creates an API key."""
        faults = Faults()
        wanted = request.api_key
        name = _checked(faults, "api_key.display_name", text.display_name, wanted.display_name)
        expire_time = None
        if wanted.HasField("expire_time"):
            expire_time = clock.checked(wanted.expire_time, "api_key.expire_time", faults)
            if expire_time is not None and expire_time <= clock.now():
                faults.add("api_key.expire_time", "must lie in the future")
        scopes = sorted(set(wanted.scopes))
        if not 1 <= len(wanted.scopes) <= api_key.SCOPE_LIMIT:
            faults.add("api_key.scopes", f"must have 1 to {api_key.SCOPE_LIMIT} entries")
        once = _once(request, faults)
        faults.stop()
        if unknown := permission.unknown_scopes(scopes):
            raise invalid("api_key.scopes", f"names no permission: {' '.join(unknown)[:200]}", "SCOPE_UNKNOWN")
        given = await self._registrar.create_api_key(caller(), once, name=name, scopes=scopes, expire_time=expire_time)
        return auth_pb2.CreateApiKeyResponse(api_key=_api_key_to_proto(given.thing), secret=given.secret)

    async def ListApiKeys(self, request: auth_pb2.ListApiKeysRequest, context: Context) -> auth_pb2.ListApiKeysResponse:
        """Lists API keys."""
        who, size = caller(), page_size(request.page_size)
        scope = _scope("ListApiKeys", who.agency, request)
        before = _time_and_id(self._pages.decode(scope, request.page_token))
        async with self._serve.transaction(who.agency) as conn:
            found = await store.list_api_keys(conn, before, size + 1)
        page = found[:size]
        last = [page[-1].create_time.isoformat(), str(page[-1].api_key_id)] if len(found) > size else None
        return auth_pb2.ListApiKeysResponse(
            api_keys=map(_api_key_to_proto, page),
            next_page_token=self._pages.encode(scope, last) if last else "",
        )

    async def RevokeApiKey(self, request: auth_pb2.RevokeApiKeyRequest, context: Context) -> auth_pb2.ApiKey:
        """Ends an API key."""
        api_key_id = parse_name("apiKeys", request.name)
        return _api_key_to_proto(await self._registrar.revoke_api_key(caller(), request.name, api_key_id))

    # The audit log

    async def ListActions(self, request: auth_pb2.ListActionsRequest, context: Context) -> auth_pb2.ListActionsResponse:
        """Lists the audit log."""
        who, size = caller(), page_size(request.page_size)
        faults = Faults()
        for field in ("verb_prefix", "actor"):
            if not text.is_printable(getattr(request, field)):
                faults.add(field, "must not contain control characters")
        faults.stop()
        scope = _scope("ListActions", who.agency, request)
        before = _time_and_id(self._pages.decode(scope, request.page_token))
        async with self._serve.transaction(who.agency) as conn:
            found = await store.list_actions(
                conn, verb_prefix=request.verb_prefix, actor=request.actor, before=before, limit=size + 1
            )
        page = found[:size]
        last = [page[-1].act_time.isoformat(), str(page[-1].action_id)] if len(found) > size else None
        return auth_pb2.ListActionsResponse(
            actions=map(_action_to_proto, page),
            next_page_token=self._pages.encode(scope, last) if last else "",
        )

    async def RecordAction(self, request: auth_pb2.RecordActionRequest, context: Context) -> Empty:
        """Writes a line of the audit log."""
        line = events.action_from_proto(request.action)
        async with self._serve.transaction(line.agency_id) as conn:
            await store.add_action(conn, line)
        return Empty()


def _user_to_proto(user: User) -> auth_pb2.User:
    return auth_pb2.User(
        name=user.name,
        email=user.email,
        display_name=user.display_name,
        role=_ROLES[user.role],
        disabled=user.disabled,
        locked=user.lock_time is not None,
        sign_in_time=clock.to_proto(user.sign_in_time),
        create_time=clock.to_proto(user.create_time),
        revision=user.revision,
    )


def _officer_to_proto(user: User) -> auth_pb2.User:
    return auth_pb2.User(name=user.name, display_name=user.display_name)


def _api_key_to_proto(key: ApiKey) -> auth_pb2.ApiKey:
    return auth_pb2.ApiKey(
        name=key.name,
        display_name=key.display_name,
        scopes=key.scopes,
        expire_time=clock.to_proto(key.expire_time),
        revoke_time=clock.to_proto(key.revoke_time),
        use_time=clock.to_proto(key.use_time),
        create_time=clock.to_proto(key.create_time),
    )


def _action_to_proto(line: Action) -> audit_pb2.Action:
    return audit_pb2.Action(
        action_id=str(line.action_id),
        act_time=clock.to_proto(line.act_time),
        agency_id=str(line.agency_id or ""),
        actor=line.actor,
        actor_display_name=line.actor_display_name,
        verb=line.verb,
        target=line.target,
        outcome=events.OUTCOMES[line.outcome],
        source_address=line.source_address,
        details=line.details,
    )


def _checked(faults: Faults, field: str, check: Callable[[str], str], value: str) -> str:
    """Returns a value as its rule gives it back, noting a fault where the rule refuses it."""
    try:
        return check(value)
    except ValueError as fault:
        faults.add(field, str(fault))
        return value


def _checked_each(faults: Faults, field: str, check: Callable[[str], str], values: Iterable[str]) -> list[str]:
    try:
        return agency.each(values, check)
    except ValueError as fault:
        faults.add(field, str(fault))
        return []


def _check_address(value: str, faults: Faults) -> None:
    if len(value) > ADDRESS_LIMIT or not text.is_printable(value):
        faults.add("source_address", f"must have at most {ADDRESS_LIMIT} printable characters")


def _check_password(field: str, chosen: str, own_words: Collection[str]) -> None:
    if fault := password.fault(chosen, own_words=own_words):
        raise invalid(field, fault, "PASSWORD_REFUSED")


def _role(number: auth_pb2.Role.ValueType, faults: Faults) -> Role:
    role = _ROLE_WORDS.get(number)
    if role is None:
        faults.add("user.role", "must be one of the roles")
        return Role.AUDITOR
    return role


def _paths(
    request: auth_pb2.UpdateAgencyRequest | auth_pb2.UpdateUserRequest, wanted: Message, allowed: Collection[str]
) -> set[str]:
    """Returns which fields are to change: those of the mask, or every populated one."""
    paths = set(request.update_mask.paths)
    if not paths:
        return {field.name for field, _ in wanted.ListFields()} & set(allowed)
    if unknown := sorted(paths - set(allowed) - {"*"}):
        raise invalid("update_mask", f"names no field that can be changed: {', '.join(unknown)[:200]}")
    return set(allowed) if "*" in paths else paths


def _once(request: Any, faults: Faults, *secret_fields: str) -> Once:
    """Returns the request_id and a hash of the rest.

    Secrets are left out: a quick hash of a password must not lie in the database, however mixed with other things.
    """
    request_id = parse_uuid(request.request_id)
    if request_id is None and request.request_id:
        faults.add("request_id", "must be a UUID in lower case")
    content = type(request)()
    content.CopyFrom(request)
    for field in secret_fields:
        content.ClearField(field)
    said = f"{content.DESCRIPTOR.full_name}\n".encode() + content.SerializeToString(deterministic=True)
    return Once(request_id, hashlib.sha256(said).digest())


def _scope(method: str, agency_id: UUID, request: Any) -> str:
    """Returns what a page token is bound to: everything of the request but the page itself."""
    query = type(request)()
    query.CopyFrom(request)
    query.ClearField("page_token")
    query.ClearField("page_size")
    return scope_of(method, agency_id, query.SerializeToString(deterministic=True))


def _time_and_id(values: list[str | int] | None) -> tuple[datetime, UUID] | None:
    return (datetime.fromisoformat(str(values[0])), UUID(str(values[1]))) if values else None
