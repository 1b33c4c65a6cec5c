"""Signing in and out, and changing one's own password: where a password is checked and failures are counted.

A password is checked between two transactions, because it takes longer than a row should be locked. The first notes the
try, the second its outcome; both lock the user's row, so that tries sent in parallel are counted one after another.
"""

import asyncio
import time
from dataclasses import dataclass, replace
from uuid import UUID

from prometheus_client import Counter

from services.auth import account, audit, password, secret, session, store, text
from services.auth.account import User
from services.auth.session import Session
from services.chassis import clock
from services.chassis.errors import PermissionDenied, Unauthenticated, invalid
from services.chassis.identity import LIFETIME, Caller
from services.chassis.names import new_id
from services.chassis.postgres import Connection, Database

_VERB = "session.sign-in"
_SIGN_INS = Counter("opennotice_sign_ins_total", "Sign-ins that were decided, by outcome", ["outcome"])
_DONE, _REFUSED = _SIGN_INS.labels("done"), _SIGN_INS.labels("refused")
_LOCKS = Counter("opennotice_account_locks_total", "Accounts that were locked after five failed sign-ins")
# No refusal comes earlier than this after its question; longer than checking a password takes.
_REFUSAL_SECONDS = 0.2
# Passwords that are looked at side by side. The rest wait here and not for a connection: a flood of sign-ins must not
# keep those who are signed in from working.
_AT_ONCE = 4


@dataclass(frozen=True)
class SignedIn:
    """A session that was just opened, with the secret that only its browser keeps."""

    token: str
    session: Session
    user: User


@dataclass(frozen=True)
class _Checked:
    """What is known between the two transactions. Without a try the password was not looked at."""

    user: User
    try_id: UUID | None
    right: bool


class Doorkeeper:
    """Checks passwords and opens and ends sessions."""

    def __init__(self, serve: Database, directory: Database, hasher: password.Hasher) -> None:
        self._serve = serve
        self._directory = directory
        self._hasher = hasher
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def sign_in(self, email: str, given: str, source_address: str) -> SignedIn:
        """Opens a session; raises one and the same error whatever was wrong, except to who knows the password."""
        try:
            async with self._turn:
                began = time.monotonic()
                signed_in = await self._sign_in(email, given, source_address)
                _DONE.inc()
                return signed_in
        except PermissionDenied:
            _REFUSED.inc()
            raise
        except Unauthenticated:
            _REFUSED.inc()
            # The work is the same for an unknown address but for a row or two, and that would still tell who exists.
            await asyncio.sleep(max(0.0, began + _REFUSAL_SECONDS - time.monotonic()))
            raise

    async def _sign_in(self, email: str, given: str, source_address: str) -> SignedIn:
        async with self._directory.transaction() as conn:
            place = await store.find_email(conn, text.email_key(email))
        if place is None:
            await self._hasher.matches(given, None)
            nobody = _visitor("", "", None, source_address)
            async with self._serve.transaction() as conn:
                await audit.write(conn, nobody, None, _VERB, "", outcome="refused", reason="unknown address")
            raise _refused()
        checked = await self._check(place.agency_id, place.user_id, given)
        visitor = _visitor(checked.user.name, checked.user.display_name, place.agency_id, source_address)
        async with self._serve.transaction(place.agency_id) as conn:
            user, right = await self._settle(conn, visitor, checked)
            reason = _reason_against(user, checked, right)
            if reason is None:
                return await self._open(conn, visitor, user)
            await audit.write(conn, visitor, place.agency_id, _VERB, user.name, outcome="refused", reason=reason)
        if reason == "locked":
            raise PermissionDenied("ACCOUNT_LOCKED", "the account is locked; an administrator can unlock it")
        raise _refused()

    async def sign_out(self, token: str, caller: Caller) -> None:
        """Ends a session, if there is one."""
        kept = secret.digest(token)
        async with self._directory.transaction() as conn:
            agency_id = await store.find_session(conn, kept)
        if agency_id is None:
            return
        async with self._serve.transaction(agency_id) as conn:
            user_id = await store.end_session(conn, kept)
            user = await store.get_user(conn, user_id) if user_id else None
            if user is not None:
                leaver = replace(caller, subject=user.name, display_name=user.display_name)
                await audit.write(conn, leaver, agency_id, "session.sign-out", user.name)

    async def change_password(self, caller: Caller, user: User, given: str, new: str, kept_session: str) -> None:
        """Gives a user the password they chose and ends their sessions but one."""
        checked = await self._check(user.agency_id, user.user_id, given)
        new_hash = await self._hasher.hash(new) if checked.right else ""
        async with self._serve.transaction(user.agency_id) as conn:
            current, right = await self._settle(conn, caller, checked)
            if right:
                await store.save_user(conn, replace(current, password_hash=new_hash, revision=current.revision + 1))
                but = secret.digest(kept_session) if kept_session else b""
                await store.end_sessions(conn, user.user_id, but=but)
            await audit.write(
                conn,
                caller,
                user.agency_id,
                "user.change-password",
                user.name,
                outcome="done" if right else "refused",
                **({} if right else {"reason": "PASSWORD_WRONG"}),
            )
        if not right:
            raise invalid("current_password", "is not the password", "PASSWORD_WRONG")

    async def _check(self, agency_id: UUID, user_id: UUID, given: str) -> _Checked:
        now = clock.now()
        try_id = None
        async with self._serve.transaction(agency_id) as conn:
            user = await store.lock_user(conn, user_id)
            assert user is not None, "users are never removed"
            await store.forget_old_tries(conn, user_id, now - account.WINDOW)
            if account.may_try(await store.list_tries(conn, user_id), now):
                try_id = new_id()
                await store.add_try(conn, try_id, user, now)
        # One try too many takes as long as any other, so that it does not tell whether the account exists.
        right = await self._hasher.matches(given, user.password_hash if try_id else None)
        return _Checked(user, try_id, right)

    async def _settle(self, conn: Connection, caller: Caller, checked: _Checked) -> tuple[User, bool]:
        """Counts the outcome of a try; returns the user as they are now, and whether the password was right."""
        user = await store.lock_user(conn, checked.user.user_id)
        assert user is not None, "users are never removed"
        # A password that was replaced while it was being checked is no longer right.
        right = checked.right and user.password_hash == checked.user.password_hash
        if checked.try_id is None:
            return user, False
        if right:
            await store.end_try(conn, checked.try_id)
            if user.lock_time is None:
                await store.forget_failures(conn, user.user_id)
            return user, True
        await store.fail_try(conn, checked.try_id)
        now = clock.now()
        if user.lock_time is None and account.locks(await store.list_tries(conn, user.user_id), now):
            user = replace(user, lock_time=now, revision=user.revision + 1)
            await store.save_user(conn, user)
            # Counting begins anew: the owner who comes with the right password is told of the lock, and whoever locked
            # it still has no more than five tries in fifteen minutes, none of which opens a session.
            await store.forget_failures(conn, user.user_id)
            auth = _visitor("services/auth", "auth", user.agency_id, caller.source_address)
            await audit.write(conn, auth, user.agency_id, "user.lock", user.name, reason="five failed sign-ins")
            _LOCKS.inc()
        return user, False

    async def _open(self, conn: Connection, visitor: Caller, user: User) -> SignedIn:
        now = clock.now()
        token = secret.make(secret.SESSION)
        opened = Session(
            session_hash=secret.digest(token),
            agency_id=user.agency_id,
            user_id=user.user_id,
            create_time=now,
            use_time=now,
            expire_time=session.expire_time(now),
        )
        await store.add_session(conn, opened)
        # No new revision: signing in changes nothing that somebody else may be editing.
        user = replace(user, sign_in_time=now)
        await store.save_user(conn, user)
        await audit.write(conn, visitor, user.agency_id, _VERB, user.name)
        return SignedIn(token, opened, user)


def _reason_against(user: User, checked: _Checked, right: bool) -> str | None:
    if checked.try_id is None:
        return "too many tries"
    if not right:
        return "wrong password"
    if user.disabled:
        return "disabled"
    return "locked" if user.lock_time else None


def _refused() -> Unauthenticated:
    return Unauthenticated("SIGN_IN_REFUSED", "the e-mail address or the password is wrong")


def _visitor(subject: str, display_name: str, agency_id: UUID | None, source_address: str) -> Caller:
    """Returns who the audit log names for an act of somebody who holds no identity yet."""
    return Caller(
        issuer="auth",
        subject=subject,
        display_name=display_name,
        agency_id=agency_id,
        role="",
        permissions=frozenset(),
        own_clients_only=False,
        source_address=source_address,
        expire_time=clock.now() + LIFETIME,
    )
