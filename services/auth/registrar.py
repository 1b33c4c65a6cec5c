"""Creates and changes agencies, users and API keys: rules, rows, audit log and events, all in one commit."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Generic, TypeVar
from uuid import UUID, uuid5

from services.auth import account, audit, events, password, permission, secret, store, text
from services.auth.account import User
from services.auth.agency import Agency
from services.auth.api_key import ApiKey
from services.auth.permission import Role
from services.chassis import clock
from services.chassis.errors import Aborted, AlreadyExists, FailedPrecondition, NotFound, PermissionDenied
from services.chassis.identity import Caller
from services.chassis.names import new_id
from services.chassis.postgres import Connection, Database

T = TypeVar("T", User, ApiKey)


@dataclass(frozen=True)
class Once:
    """The request_id of a call and a hash of what it asks for. Without an id every call makes something new."""

    request_id: UUID | None
    content_hash: bytes


@dataclass(frozen=True)
class Given(Generic[T]):
    """Something that was made and the secret that comes with it: empty when a repeated request finds it made."""

    thing: T
    secret: str


class Registrar:
    """Keeps agencies, users and API keys."""

    def __init__(self, serve: Database, hasher: password.Hasher, on_event: Callable[[], None]) -> None:
        """`on_event` is called after a commit that left something in the outbox."""
        self._serve = serve
        self._hasher = hasher
        self._on_event = on_event

    async def create_agency(
        self, caller: Caller, once: Once, *, name: str, zone: str, email: str, chosen: str
    ) -> tuple[Agency, User, str]:
        """Creates an agency and its first administrator, both or neither; returns the password if it was made here."""
        now = clock.now()
        made_password = "" if chosen else password.make()
        # The id follows from the request's, so that a repeated request finds what the first one made.
        agency_id = uuid5(once.request_id, "agency") if once.request_id else new_id()
        agency = Agency(agency_id, name, zone, [], [], now, 1)
        password_hash = await self._hasher.hash(chosen or made_password)
        admin = _new_user(agency_id, email, "Administrator", Role.ADMIN, password_hash, now)
        async with self._serve.transaction(agency_id) as conn:
            if earlier := await _claim(conn, agency_id, once, admin.user_id, now):
                first = known_agency(await store.get_agency(conn, agency_id))
                return first, known_user(await store.get_user(conn, earlier)), ""
            await store.add_agency(conn, agency)
            await _add_user(conn, admin)
            target = f"agencies/{agency_id}"
            await audit.write(conn, caller, agency_id, "agency.create", target, display_name=name)
            await audit.write(conn, caller, agency_id, "user.create", admin.name, role=admin.role.value)
            await events.publish_agency(conn, agency)
        self._on_event()
        return agency, admin, made_password

    async def update_agency(self, caller: Caller, revision: int, changes: dict[str, str | list[str]]) -> Agency:
        """Changes settings of the caller's agency."""
        verb, target = "agency.update", f"agencies/{caller.agency}"
        async with audit.transaction(self._serve, caller, verb, target) as conn:
            before = known_agency(await store.lock_agency(conn, caller.agency))
            _check_revision(revision, before.revision)
            after = replace(before, **changes)  # type: ignore[arg-type]  # the caller names fields of Agency
            if after == before:
                return before
            after = replace(after, revision=before.revision + 1)
            await store.save_agency(conn, after)
            told = {field: value if isinstance(value, str) else " ".join(value) for field, value in changes.items()}
            await audit.write(conn, caller, caller.agency, verb, target, **told)
            await events.publish_agency(conn, after)
        self._on_event()
        return after

    async def create_user(self, caller: Caller, once: Once, *, email: str, name: str, role: Role) -> Given[User]:
        """Creates a user with a made password."""
        now = clock.now()
        chosen = password.make()
        user = _new_user(caller.agency, email, name, role, await self._hasher.hash(chosen), now)
        async with audit.transaction(self._serve, caller, "user.create") as conn:
            _check_holds(caller, permission.permissions_of(role))
            if earlier := await _claim(conn, caller.agency, once, user.user_id, now):
                return Given(known_user(await store.get_user(conn, earlier)), "")
            await _add_user(conn, user)
            await audit.write(conn, caller, caller.agency, "user.create", user.name, role=role.value)
        return Given(user, chosen)

    async def update_user(
        self, caller: Caller, name: str, user_id: UUID | None, revision: int, changes: dict[str, str | bool | Role]
    ) -> User:
        """Changes a user's display name, role or standing; who is disabled is signed out at once."""
        async with audit.transaction(self._serve, caller, "user.update", name) as conn:
            # Locked first, because two administrators who take each other's role at once must not both succeed.
            await store.lock_agency(conn, caller.agency)
            before = known_user(await store.lock_user(conn, user_id) if user_id else None)
            _check_revision(revision, before.revision)
            after = replace(before, **changes)  # type: ignore[arg-type]  # the caller names fields of User
            if after == before:
                return before
            own = caller.subject == before.name
            others = await store.count_other_admins(conn, before.user_id)
            if reason := account.change_fault(before, after, own=own, other_admins=others):
                raise FailedPrecondition(
                    reason, "an agency keeps an administrator, and nobody changes their own rights"
                )
            if after.role is not before.role or (before.disabled and not after.disabled):
                _check_holds(caller, permission.permissions_of(after.role))
            after = replace(after, revision=before.revision + 1)
            await store.save_user(conn, after)
            if after.disabled:
                await store.end_sessions(conn, after.user_id)
            told = {field: f"{getattr(before, field)} → {getattr(after, field)}" for field in changes}
            await audit.write(conn, caller, caller.agency, "user.update", name, **told)
        return after

    async def unlock_user(self, caller: Caller, name: str, user_id: UUID | None) -> User:
        """Unlocks an account and forgets its failures. One that is not locked is no error."""
        async with audit.transaction(self._serve, caller, "user.unlock", name) as conn:
            user = known_user(await store.lock_user(conn, user_id) if user_id else None)
            # Else a key for users could let passwords of an administrator be guessed without end.
            _check_holds(caller, permission.permissions_of(user.role))
            await store.forget_failures(conn, user.user_id)
            if user.lock_time is not None:
                user = replace(user, lock_time=None, revision=user.revision + 1)
                await store.save_user(conn, user)
            await audit.write(conn, caller, caller.agency, "user.unlock", name)
        return user

    async def reset_password(self, caller: Caller, name: str, user_id: UUID | None) -> str:
        """Gives a user a made password and signs them out."""
        chosen = password.make()
        password_hash = await self._hasher.hash(chosen)
        async with audit.transaction(self._serve, caller, "user.reset-password", name) as conn:
            user = known_user(await store.lock_user(conn, user_id) if user_id else None)
            if user.name == caller.subject:
                # Who found somebody's open browser must not get the account for good.
                raise FailedPrecondition("OWN_ACCOUNT", "one's own password is changed with the current one")
            # A new password is the account itself, so it is given only by who could have given its role.
            _check_holds(caller, permission.permissions_of(user.role))
            await store.save_user(conn, replace(user, password_hash=password_hash, revision=user.revision + 1))
            await store.end_sessions(conn, user.user_id)
            await audit.write(conn, caller, caller.agency, "user.reset-password", name)
        return chosen

    async def create_api_key(
        self, caller: Caller, once: Once, *, name: str, scopes: list[str], expire_time: datetime | None
    ) -> Given[ApiKey]:
        """Creates an API key."""
        now = clock.now()
        made = secret.make(secret.API_KEY)
        key = ApiKey(new_id(), caller.agency, name, scopes, expire_time, None, None, now)
        async with audit.transaction(self._serve, caller, "api-key.create") as conn:
            if not permission.holds(caller.permissions, permission.of_scopes(scopes)):
                raise PermissionDenied("SCOPE_NOT_HELD", "a caller cannot give a scope they do not have")
            if earlier := await _claim(conn, caller.agency, once, key.api_key_id, now):
                return Given(known_api_key(await store.get_api_key(conn, earlier)), "")
            await store.add_api_key(conn, key, secret.digest(made))
            told = {"display_name": name, "scopes": " ".join(scopes)}
            await audit.write(conn, caller, caller.agency, "api-key.create", key.name, **told)
        return Given(key, made)

    async def revoke_api_key(self, caller: Caller, name: str, api_key_id: UUID | None) -> ApiKey:
        """Ends an API key."""
        now = clock.now()
        async with audit.transaction(self._serve, caller, "api-key.revoke", name) as conn:
            key = known_api_key(await store.get_api_key(conn, api_key_id) if api_key_id else None)
            if await store.revoke_api_key(conn, key.api_key_id, now):
                await audit.write(conn, caller, caller.agency, "api-key.revoke", name)
            return known_api_key(await store.get_api_key(conn, key.api_key_id))


def known_agency(found: Agency | None) -> Agency:
    """Returns an agency that was found; raises NotFound for none."""
    if found is None:
        raise NotFound("AGENCY_UNKNOWN", "no such agency")
    return found


def known_user(found: User | None) -> User:
    """Returns a user that was found; raises NotFound for none, or one of another agency."""
    if found is None:
        raise NotFound("USER_UNKNOWN", "no such user")
    return found


def known_api_key(found: ApiKey | None) -> ApiKey:
    """Returns an API key that was found; raises NotFound for none, or one of another agency."""
    if found is None:
        raise NotFound("API_KEY_UNKNOWN", "no such API key")
    return found


def _new_user(agency_id: UUID, email: str, name: str, role: Role, password_hash: str, now: datetime) -> User:
    return User(
        user_id=new_id(),
        agency_id=agency_id,
        email=email,
        display_name=name,
        role=role,
        disabled=False,
        password_hash=password_hash,
        lock_time=None,
        sign_in_time=None,
        create_time=now,
        revision=1,
    )


async def _add_user(conn: Connection, user: User) -> None:
    try:
        await store.add_user(conn, user, text.email_key(user.email))
    except store.EmailTaken as error:
        raise AlreadyExists("EMAIL_TAKEN", "another user has this e-mail address") from error


async def _claim(conn: Connection, agency_id: UUID, once: Once, target_id: UUID, now: datetime) -> UUID | None:
    """Returns the id of what an earlier call with the same request_id made, or None when this call is to make it."""
    if once.request_id is None:
        return None
    made = store.Made(once.content_hash, target_id)
    earlier = await store.claim_request(conn, agency_id, once.request_id, made, now)
    if earlier is None:
        return None
    if earlier.content_hash != once.content_hash:
        raise AlreadyExists("REQUEST_ID_REUSED", "another request had this request_id")
    return earlier.target_id


def _check_revision(asked: int, current: int) -> None:
    if asked not in (0, current):
        raise Aborted("CHANGED_MEANWHILE", "somebody else changed it meanwhile; read it again")


def _check_holds(caller: Caller, wanted: Collection[str]) -> None:
    # Else an API key for creating users could make itself an administrator.
    if not permission.holds(caller.permissions, wanted):
        raise PermissionDenied("ROLE_NOT_HELD", "a caller cannot give a role that may do more than they may")
