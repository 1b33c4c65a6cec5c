"""What the database holds by itself: agencies apart, the audit log unchanged, each role only what it needs."""

from datetime import timedelta
from uuid import UUID

import psycopg
import pytest
from psycopg.errors import InsufficientPrivilege

from services.auth import purge, store, text
from services.auth.action import Action
from services.auth.session import Session
from services.chassis import clock, names, postgres
from tests import cast
from tests.auth.conftest import add_cast, email_of, id_of
from tests.cast import ALICE, CHARLIE, DANA
from tests.fix_postgres import Database

TABLES = ("agencies", "users", "tries", "sessions", "api_keys", "requests", "actions")


def action(agency_id: UUID | None) -> Action:
    return Action(names.new_id(), agency_id, clock.now(), DANA.name, "Dana", "link.revoke", "", "done", "", {})


@pytest.fixture
async def filled(serve: postgres.Database) -> postgres.Database:
    """Gives the serving role's database with the cast and a line of the audit log in each agency."""
    await add_cast(serve, "$argon2id$")
    for agency_id in (cast.FIRST_COURT, cast.OTHER_COURT):
        async with serve.transaction(agency_id) as conn:
            await store.add_action(conn, action(agency_id))
    return serve


async def test_a_transaction_sees_its_own_agency_and_no_other(filled: postgres.Database) -> None:
    async with filled.transaction(cast.OTHER_COURT) as conn:
        assert [user.name for user in await store.list_users(conn, None, 100)] == [CHARLIE.name]
        assert [agency.display_name for agency in await store.list_agencies(conn)] == ["Other Court"]
        assert await store.get_user(conn, id_of(ALICE)) is None
        assert len(await store.list_actions(conn, verb_prefix="", actor="", before=None, limit=10)) == 1


async def test_a_transaction_without_an_agency_sees_nothing(filled: postgres.Database) -> None:
    async with filled.transaction() as conn:
        for table in TABLES:
            cursor = await conn.execute(f"select count(*) from auth.{table}".encode())
            assert await cursor.fetchone() == (0,), table


async def test_a_used_connection_remembers_no_agency(filled: postgres.Database) -> None:
    async with filled.pool.connection() as conn:
        async with conn.transaction():
            await conn.execute("select set_config('app.agency', %s, true)", (str(cast.FIRST_COURT),))
            assert len(await store.list_users(conn, None, 100)) == 5
        assert await store.list_users(conn, None, 100) == []


@pytest.mark.parametrize("agency", [cast.OTHER_COURT, None], ids=["another agency", "no agency"])
async def test_nothing_is_written_into_another_agency(filled: postgres.Database, agency: UUID | None) -> None:
    with pytest.raises(InsufficientPrivilege, match="row-level security"):
        async with filled.transaction(agency) as conn:
            await store.add_action(conn, action(cast.FIRST_COURT))
    async with filled.transaction(agency) as conn:
        changed = await conn.execute("update auth.users set role = 'admin' where user_id = %s", (id_of(ALICE),))
        assert changed.rowcount == 0


@pytest.mark.parametrize("use", ["serve", "ingest"])
@pytest.mark.parametrize(
    "statement",
    [
        "update auth.actions set verb = 'a.b'",
        "delete from auth.actions",
        "truncate auth.actions",
        "alter table auth.actions disable row level security",
        "drop table auth.actions",
        "drop policy write on auth.actions",
        "insert into auth.actions (action_id) values (gen_random_uuid()) "
        "on conflict (action_id) do update set verb = ''",
    ],
)
def test_no_role_of_the_process_changes_the_audit_log(database: Database, use: str, statement: str) -> None:
    with psycopg.connect(database.url("auth", use)) as conn, pytest.raises(InsufficientPrivilege):
        conn.execute("select set_config('app.agency', %s, false)", (str(cast.FIRST_COURT),))
        conn.execute(statement.encode())


@pytest.mark.parametrize(
    ("use", "statement"),
    [
        ("directory", "select password_hash from auth.users"),
        ("directory", "select display_name from auth.users"),
        ("directory", "select scopes from auth.api_keys"),
        ("directory", "select user_id from auth.sessions"),
        ("directory", "select 1 from auth.actions"),
        ("directory", "update auth.users set role = 'admin'"),
        ("directory", "delete from auth.sessions"),
        ("ingest", "select 1 from auth.users"),
        ("ingest", "select 1 from auth.api_keys"),
        ("ingest", "select verb from auth.actions"),
        ("ingest", "update auth.agencies set display_name = ''"),
        ("serve", "delete from auth.users"),
        ("serve", "delete from auth.agencies"),
        ("serve", "select 1 from auth.outbox"),
        ("serve", "select 1 from auth.dead_letters"),
    ],
)
def test_a_role_reaches_only_what_it_needs(database: Database, use: str, statement: str) -> None:
    with psycopg.connect(database.url("auth", use)) as conn, pytest.raises(InsufficientPrivilege):
        conn.execute(statement.encode())


async def test_the_directory_finds_the_agency_of_an_address(
    filled: postgres.Database, directory: postgres.Database
) -> None:
    async with directory.transaction() as conn:
        found = await store.find_email(conn, text.email_key(email_of(CHARLIE).upper()))
        assert found == store.Place(cast.OTHER_COURT, id_of(CHARLIE))
        assert await store.find_email(conn, "nobody@court.example") is None
        assert await store.find_user(conn, id_of(ALICE)) == store.Place(cast.FIRST_COURT, id_of(ALICE))


async def test_a_session_cannot_name_a_user_of_another_agency(filled: postgres.Database) -> None:
    now = clock.now()
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        async with filled.transaction(cast.OTHER_COURT) as conn:
            await store.add_session(conn, Session(b"x" * 32, cast.OTHER_COURT, id_of(ALICE), now, now, now))


async def test_ended_sessions_and_old_requests_are_purged_and_others_stay(
    filled: postgres.Database, ingest: postgres.Database
) -> None:
    now = clock.now()
    request_ids = [names.new_id(), names.new_id()]
    async with filled.transaction(cast.FIRST_COURT) as conn:
        for number, expires in enumerate((now - timedelta(seconds=1), now + timedelta(hours=1))):
            kept = Session(bytes([number]) * 32, cast.FIRST_COURT, id_of(ALICE), now, now, expires)
            await store.add_session(conn, kept)
        for request_id, age in zip(request_ids, (timedelta(days=31), timedelta(days=29)), strict=True):
            made = store.Made(b"", id_of(ALICE))
            await store.claim_request(conn, cast.FIRST_COURT, request_id, made, now - age)
    async with ingest.transaction() as conn:
        assert await store.purge(conn, sessions_before=now, requests_before=now - purge.KEEP_REQUESTS) == 2
    async with filled.transaction(cast.FIRST_COURT) as conn:
        assert await store.get_session(conn, b"\0" * 32) is None
        assert await store.get_session(conn, b"\1" * 32) is not None
        made = store.Made(b"", id_of(ALICE))
        assert await store.claim_request(conn, cast.FIRST_COURT, request_ids[0], made, now) is None
        assert await store.claim_request(conn, cast.FIRST_COURT, request_ids[1], made, now) == made
