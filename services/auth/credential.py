"""Exchanges what a caller holds, a session or an API key, for a short-lived signed identity."""

from datetime import datetime
from uuid import UUID

from services.auth import api_key, permission, secret, session, store
from services.chassis import clock
from services.chassis.errors import Unauthenticated
from services.chassis.identity import Signer
from services.chassis.postgres import Connection, Database

Signed = tuple[str, datetime]


class Credentials:
    """Knows which sessions and API keys count at this moment."""

    def __init__(self, serve: Database, directory: Database, signer: Signer) -> None:
        self._serve = serve
        self._directory = directory
        self._signer = signer

    async def issue(self, credential: str, source_address: str, *, passive: bool = False) -> Signed:
        """Returns a signed identity and when it ends; raises Unauthenticated without saying why.

        Passive means that nobody did anything: it does not count as use, so an idle session still ends.
        """
        signed = None
        if secret.is_well_formed(credential):
            kept = secret.digest(credential)
            is_session = credential.startswith(secret.SESSION)
            async with self._directory.transaction() as conn:
                find = store.find_session if is_session else store.find_api_key
                agency_id = await find(conn, kept)
            if agency_id is not None:
                sign = self._for_session if is_session else self._for_api_key
                async with self._serve.transaction(agency_id) as conn:
                    signed = await sign(conn, kept, agency_id, source_address, passive)
        if signed is None:
            raise Unauthenticated("CREDENTIAL_UNKNOWN", "the credential is not valid")
        return signed

    async def exchange(self, credential: str, source_address: str) -> str:
        """Returns a signed identity, for the frame of auth itself, which has no need to call over the wire."""
        return (await self.issue(credential, source_address))[0]

    async def _for_session(
        self, conn: Connection, session_hash: bytes, agency_id: UUID, source_address: str, passive: bool
    ) -> Signed | None:
        now = clock.now()
        found = await store.get_session(conn, session_hash)
        if found is None or not session.is_alive(found, now):
            return None
        user = await store.get_user(conn, found.user_id)
        if user is None or user.disabled:
            return None
        if not passive and session.must_touch(found, now):
            await store.touch_session(conn, session_hash, now)
        return self._signer.sign(
            subject=user.name,
            display_name=user.display_name,
            agency_id=agency_id,
            role=user.role.value,
            permissions=permission.permissions_of(user.role),
            own_clients_only=permission.sees_own_clients_only(user.role),
            source_address=source_address,
        )

    async def _for_api_key(
        self, conn: Connection, key_hash: bytes, agency_id: UUID, source_address: str, passive: bool
    ) -> Signed | None:
        now = clock.now()
        key = await store.get_api_key_by_hash(conn, key_hash)
        if key is None or not api_key.is_alive(key, now):
            return None
        if not passive and api_key.must_touch(key, now):
            await store.touch_api_key(conn, key.api_key_id, api_key.use_minute(now))
        return self._signer.sign(
            subject=key.name,
            display_name=key.display_name,
            agency_id=agency_id,
            permissions=permission.of_scopes(key.scopes),
            source_address=source_address,
        )
