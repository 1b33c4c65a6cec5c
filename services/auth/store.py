"""All SQL of auth. Every function works inside the transaction that its caller opened."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString, TypeVar
from uuid import UUID

from psycopg.errors import UniqueViolation
from psycopg.rows import BaseRowFactory, class_row, kwargs_row, scalar_row
from psycopg.types.json import Jsonb

from services.auth.account import Try, User
from services.auth.action import Action
from services.auth.agency import Agency
from services.auth.api_key import ApiKey
from services.auth.permission import Role
from services.auth.session import Session
from services.chassis.postgres import Connection

R = TypeVar("R")


class EmailTaken(Exception):
    """Another user of this install has the e-mail address."""


@dataclass(frozen=True)
class Place:
    """Where in the install something lies: all that may be known before its agency is."""

    agency_id: UUID
    user_id: UUID


@dataclass(frozen=True)
class Made:
    """What an earlier request with the same id has made."""

    content_hash: bytes
    target_id: UUID


_AGENCY: LiteralString = (
    "select agency_id, display_name, time_zone, allowed_hosts, staff_networks, create_time, revision "
    "from auth.agencies "
)
_USER: LiteralString = (
    "select user_id, agency_id, email, display_name, role, disabled, password_hash, lock_time, sign_in_time, "
    "create_time, revision from auth.users "
)
_API_KEY: LiteralString = (
    "select api_key_id, agency_id, display_name, scopes, expire_time, revoke_time, use_time, create_time "
    "from auth.api_keys "
)
_ACTION: LiteralString = (
    "select action_id, agency_id, act_time, actor, actor_display_name, verb, target, outcome, source_address, details "
    "from auth.actions "
)


# Agencies


async def add_agency(conn: Connection, agency: Agency) -> None:
    """Adds an agency."""
    await conn.execute(
        """
        insert into auth.agencies
            (agency_id, display_name, time_zone, allowed_hosts, staff_networks, create_time, revision)
        values (%s, %s, %s, %s, %s, %s, %s)
        """,
        (
            agency.agency_id,
            agency.display_name,
            agency.time_zone,
            agency.allowed_hosts,
            agency.staff_networks,
            agency.create_time,
            agency.revision,
        ),
    )


async def get_agency(conn: Connection, agency_id: UUID) -> Agency | None:
    """Returns an agency."""
    return await _one(conn, class_row(Agency), _AGENCY + "where agency_id = %s", agency_id)


async def lock_agency(conn: Connection, agency_id: UUID) -> Agency | None:
    """Returns an agency and keeps others from changing it, or who administers it, until the transaction ends."""
    return await _one(conn, class_row(Agency), _AGENCY + "where agency_id = %s for update", agency_id)


async def list_agencies(conn: Connection) -> list[Agency]:
    """Returns every agency that the role may see, oldest first."""
    return await _all(conn, class_row(Agency), _AGENCY + "order by create_time, agency_id")


async def save_agency(conn: Connection, agency: Agency) -> None:
    """Writes the settings and the revision of an agency."""
    await conn.execute(
        """
        update auth.agencies
        set display_name = %s, time_zone = %s, allowed_hosts = %s, staff_networks = %s, revision = %s
        where agency_id = %s
        """,
        (
            agency.display_name,
            agency.time_zone,
            agency.allowed_hosts,
            agency.staff_networks,
            agency.revision,
            agency.agency_id,
        ),
    )


# Users


async def add_user(conn: Connection, user: User, email_key: str) -> None:
    """Adds a user; raises EmailTaken when any agency has one with that address."""
    try:
        await conn.execute(
            """
            insert into auth.users
                (user_id, agency_id, email, email_key, display_name, role, disabled, password_hash, create_time,
                revision)
            values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
            """,
            (
                user.user_id,
                user.agency_id,
                user.email,
                email_key,
                user.display_name,
                user.role,
                user.disabled,
                user.password_hash,
                user.create_time,
                user.revision,
            ),
        )
    except UniqueViolation as error:
        if error.diag.constraint_name != "users#email_key":
            raise
        raise EmailTaken from error


async def get_user(conn: Connection, user_id: UUID) -> User | None:
    """Returns a user."""
    return await _one(conn, kwargs_row(_user), _USER + "where user_id = %s", user_id)


async def lock_user(conn: Connection, user_id: UUID) -> User | None:
    """Returns a user and keeps others from changing it, or from trying a password, until the transaction ends."""
    return await _one(conn, kwargs_row(_user), _USER + "where user_id = %s for update", user_id)


async def list_users(conn: Connection, after: tuple[str, UUID] | None, limit: int) -> list[User]:
    """Returns users by display name, beginning after a name and an id."""
    if after is None:
        return await _all(conn, kwargs_row(_user), _USER + "order by lower(display_name), user_id limit %s", limit)
    return await _all(
        conn,
        kwargs_row(_user),
        _USER + "where (lower(display_name), user_id) > (lower(%s), %s) order by lower(display_name), user_id limit %s",
        *after,
        limit,
    )


async def list_active_users(conn: Connection, limit: int) -> list[User]:
    """Returns users who may sign in, by display name."""
    return await _all(
        conn, kwargs_row(_user), _USER + "where not disabled order by lower(display_name), user_id limit %s", limit
    )


async def count_other_admins(conn: Connection, user_id: UUID) -> int:
    """Counts active administrators besides one user."""
    query = "select count(*) from auth.users where role = 'admin' and not disabled and user_id <> %s"
    return await _one(conn, scalar_row, query, user_id) or 0


async def save_user(conn: Connection, user: User) -> None:
    """Writes what of a user can change, and the revision."""
    await conn.execute(
        """
        update auth.users
        set display_name = %s, role = %s, disabled = %s, password_hash = %s, lock_time = %s, sign_in_time = %s,
            revision = %s
        where user_id = %s
        """,
        (
            user.display_name,
            user.role,
            user.disabled,
            user.password_hash,
            user.lock_time,
            user.sign_in_time,
            user.revision,
            user.user_id,
        ),
    )


# What is known of a thing before its agency is: asked as the directory role, which sees no other column


async def find_email(conn: Connection, email_key: str) -> Place | None:
    """Returns where the user with an e-mail address is."""
    return await _one(
        conn, class_row(Place), "select agency_id, user_id from auth.users where email_key = %s", email_key
    )


async def find_user(conn: Connection, user_id: UUID) -> Place | None:
    """Returns where a user is."""
    return await _one(conn, class_row(Place), "select agency_id, user_id from auth.users where user_id = %s", user_id)


async def find_session(conn: Connection, session_hash: bytes) -> UUID | None:
    """Returns the agency of a session."""
    query = "select agency_id from auth.sessions where session_hash = %s"
    return await _one(conn, scalar_row, query, session_hash)


async def find_api_key(conn: Connection, key_hash: bytes) -> UUID | None:
    """Returns the agency of an API key."""
    return await _one(conn, scalar_row, "select agency_id from auth.api_keys where key_hash = %s", key_hash)


# Tries


async def add_try(conn: Connection, try_id: UUID, user: User, now: datetime) -> None:
    """Notes that a password is about to be checked."""
    await conn.execute(
        "insert into auth.tries (try_id, agency_id, user_id, try_time) values (%s, %s, %s, %s)",
        (try_id, user.agency_id, user.user_id, now),
    )


async def fail_try(conn: Connection, try_id: UUID) -> None:
    """Notes that a password was wrong."""
    await conn.execute("update auth.tries set failed = true where try_id = %s", (try_id,))


async def list_tries(conn: Connection, user_id: UUID) -> list[Try]:
    """Returns the tries of a user that still count or are under way."""
    return await _all(conn, class_row(Try), "select try_time, failed from auth.tries where user_id = %s", user_id)


async def end_try(conn: Connection, try_id: UUID) -> None:
    """Forgets one try that was no failure."""
    await conn.execute("delete from auth.tries where try_id = %s", (try_id,))


async def forget_failures(conn: Connection, user_id: UUID) -> None:
    """Forgets the failures of a user; tries under way stay, because their outcome is still to be counted."""
    await conn.execute("delete from auth.tries where user_id = %s and failed", (user_id,))


async def forget_old_tries(conn: Connection, user_id: UUID, before: datetime) -> None:
    """Forgets the tries of a user that count no more."""
    await conn.execute("delete from auth.tries where user_id = %s and try_time <= %s", (user_id, before))


# Sessions


async def add_session(conn: Connection, session: Session) -> None:
    """Adds a session."""
    await conn.execute(
        """
        insert into auth.sessions (session_hash, agency_id, user_id, create_time, use_time, expire_time)
        values (%s, %s, %s, %s, %s, %s)
        """,
        (
            session.session_hash,
            session.agency_id,
            session.user_id,
            session.create_time,
            session.use_time,
            session.expire_time,
        ),
    )


async def get_session(conn: Connection, session_hash: bytes) -> Session | None:
    """Returns a session."""
    return await _one(
        conn,
        class_row(Session),
        """
        select session_hash, agency_id, user_id, create_time, use_time, expire_time
        from auth.sessions
        where session_hash = %s
        """,
        session_hash,
    )


async def touch_session(conn: Connection, session_hash: bytes, now: datetime) -> None:
    """Notes the use of a session."""
    await conn.execute("update auth.sessions set use_time = %s where session_hash = %s", (now, session_hash))


async def end_session(conn: Connection, session_hash: bytes) -> UUID | None:
    """Ends a session and returns whose it was."""
    query = "delete from auth.sessions where session_hash = %s returning user_id"
    return await _one(conn, scalar_row, query, session_hash)


async def end_sessions(conn: Connection, user_id: UUID, *, but: bytes = b"") -> None:
    """Ends every session of a user but one."""
    await conn.execute("delete from auth.sessions where user_id = %s and session_hash <> %s", (user_id, but))


# API keys


async def add_api_key(conn: Connection, key: ApiKey, key_hash: bytes) -> None:
    """Adds an API key."""
    await conn.execute(
        """
        insert into auth.api_keys (api_key_id, agency_id, key_hash, display_name, scopes, expire_time, create_time)
        values (%s, %s, %s, %s, %s, %s, %s)
        """,
        (key.api_key_id, key.agency_id, key_hash, key.display_name, key.scopes, key.expire_time, key.create_time),
    )


async def get_api_key(conn: Connection, api_key_id: UUID) -> ApiKey | None:
    """Returns an API key."""
    return await _one(conn, class_row(ApiKey), _API_KEY + "where api_key_id = %s", api_key_id)


async def get_api_key_by_hash(conn: Connection, key_hash: bytes) -> ApiKey | None:
    """Returns the API key with a secret."""
    return await _one(conn, class_row(ApiKey), _API_KEY + "where key_hash = %s", key_hash)


async def list_api_keys(conn: Connection, before: tuple[datetime, UUID] | None, limit: int) -> list[ApiKey]:
    """Returns API keys, newest first, beginning before a time and an id."""
    order: LiteralString = "order by create_time desc, api_key_id desc limit %s"
    if before is None:
        return await _all(conn, class_row(ApiKey), _API_KEY + order, limit)
    query = _API_KEY + "where (create_time, api_key_id) < (%s, %s) " + order
    return await _all(conn, class_row(ApiKey), query, *before, limit)


async def revoke_api_key(conn: Connection, api_key_id: UUID, now: datetime) -> bool:
    """Ends an API key; tells whether it was still valid."""
    query = "update auth.api_keys set revoke_time = %s where api_key_id = %s and revoke_time is null"
    return (await conn.execute(query, (now, api_key_id))).rowcount == 1


async def touch_api_key(conn: Connection, api_key_id: UUID, minute: datetime) -> None:
    """Notes the use of an API key."""
    await conn.execute("update auth.api_keys set use_time = %s where api_key_id = %s", (minute, api_key_id))


# Requests


async def claim_request(conn: Connection, agency_id: UUID, request_id: UUID, made: Made, now: datetime) -> Made | None:
    """Notes what a request is about to make. Returns what an earlier one with the same id made, or None.

    Of two at once the second waits here until the first is committed or rolled back.
    """
    insert = """
        insert into auth.requests (agency_id, request_id, content_hash, target_id, create_time)
        values (%s, %s, %s, %s, %s)
        on conflict (agency_id, request_id) do nothing
        """
    values = (agency_id, request_id, made.content_hash, made.target_id, now)
    if (await conn.execute(insert, values)).rowcount == 1:
        return None
    query = "select content_hash, target_id from auth.requests where agency_id = %s and request_id = %s"
    return await _one(conn, class_row(Made), query, agency_id, request_id)


# The audit log


async def add_action(conn: Connection, action: Action) -> None:
    """Adds a line to the audit log; one with the same id is kept once."""
    # Without naming the column of the conflict, because that would need the right to read the table.
    await conn.execute(
        """
        insert into auth.actions
            (action_id, agency_id, act_time, actor, actor_display_name, verb, target, outcome, source_address, details)
        values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
        on conflict do nothing
        """,
        (
            action.action_id,
            action.agency_id,
            action.act_time,
            action.actor,
            action.actor_display_name,
            action.verb,
            action.target,
            action.outcome,
            action.source_address,
            Jsonb(action.details),
        ),
    )


async def list_actions(
    conn: Connection, *, verb_prefix: str, actor: str, before: tuple[datetime, UUID] | None, limit: int
) -> list[Action]:
    """Returns lines of the audit log, newest first, beginning before a time and an id."""
    query: LiteralString = _ACTION + "where starts_with(verb, %s) "
    values: list[object] = [verb_prefix]
    if actor:
        query += "and actor = %s "
        values.append(actor)
    if before is not None:
        query += "and (act_time, action_id) < (%s, %s) "
        values += before
    query += "order by act_time desc, action_id desc limit %s"
    return await _all(conn, class_row(Action), query, *values, limit)


# Housekeeping


async def purge(conn: Connection, *, sessions_before: datetime, requests_before: datetime) -> int:
    """Removes sessions that have run out and requests that nobody will repeat; returns how many."""
    ended = await conn.execute("delete from auth.sessions where expire_time < %s", (sessions_before,))
    forgotten = await conn.execute("delete from auth.requests where create_time < %s", (requests_before,))
    return ended.rowcount + forgotten.rowcount


def _user(**columns: Any) -> User:
    return User(**{**columns, "role": Role(columns["role"])})


async def _one(conn: Connection, rows: BaseRowFactory[R], query: LiteralString, *values: object) -> R | None:
    async with conn.cursor(row_factory=rows) as cursor:
        await cursor.execute(query, values)
        return await cursor.fetchone()


async def _all(conn: Connection, rows: BaseRowFactory[R], query: LiteralString, *values: object) -> list[R]:
    async with conn.cursor(row_factory=rows) as cursor:
        await cursor.execute(query, values)
        return await cursor.fetchall()
