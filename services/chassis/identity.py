"""Who is calling: short-lived signed identities that every service checks by itself.

Three kinds of issuer. `auth` speaks for people and API keys. `host` is the operator's command on the machine, whose key
only the operator can read. Every other issuer is a process that speaks for itself and is never more than that process.
"""

import asyncio
import contextvars
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet, OKPKey

from services.chassis.errors import Unauthenticated

ALGORITHM = "Ed25519"
LIFETIME = timedelta(seconds=60)
# Between machines of one install; more would let a revoked credential live on.
CLOCK_SKEW_SECONDS = 5
IDENTITY_METADATA = "opennotice-identity"
# May name any subject; all others name themselves.
TRUSTED_ISSUERS = frozenset({"auth", "host"})


@dataclass(frozen=True)
class Caller:
    """Who is behind a call, as their identity says."""

    issuer: str
    subject: str
    display_name: str
    agency_id: UUID | None
    role: str
    permissions: frozenset[str]
    own_clients_only: bool
    source_address: str
    expire_time: datetime

    @property
    def agency(self) -> UUID:
        """The agency; refuses a caller who has none."""
        if self.agency_id is None:
            raise Unauthenticated("AGENCY_MISSING", "this call needs an identity that belongs to an agency")
        return self.agency_id

    @property
    def process(self) -> str | None:
        """The name of the calling process, when the caller is one."""
        return None if self.issuer == "auth" else self.issuer


_CALLER: contextvars.ContextVar[Caller] = contextvars.ContextVar("caller")


def caller() -> Caller:
    """Returns who made the rpc that is running."""
    try:
        return _CALLER.get()
    except LookupError:
        raise Unauthenticated("IDENTITY_MISSING", "this call needs an identity") from None


def set_caller(found: Caller | None) -> None:
    """Tells the running rpc who called it."""
    if found is not None:
        _CALLER.set(found)


class Signer:
    """Signs identities as one issuer."""

    def __init__(self, issuer: str, private_key_pem: str) -> None:
        self.issuer = issuer
        self._key = OKPKey.import_key(private_key_pem)

    def sign(
        self,
        *,
        subject: str,
        display_name: str = "",
        agency_id: UUID | None = None,
        role: str = "",
        permissions: frozenset[str] = frozenset(),
        own_clients_only: bool = False,
        source_address: str = "",
    ) -> tuple[str, datetime]:
        """Returns a signed identity and when it ends."""
        issued = int(time.time())
        ends = issued + int(LIFETIME.total_seconds())
        claims = {
            "iss": self.issuer,
            "sub": subject,
            "iat": issued,
            "exp": ends,
            "name": display_name,
            "agency": str(agency_id) if agency_id else "",
            "role": role,
            "permissions": sorted(permissions),
            "own": own_clients_only,
            "address": source_address,
        }
        token = jwt.encode({"alg": ALGORITHM, "kid": self.issuer}, claims, self._key, algorithms=[ALGORITHM])
        return token, datetime.fromtimestamp(ends, UTC)

    def as_process(self) -> str:
        """Returns an identity for a call that the process makes for itself."""
        return self.sign(subject=f"services/{self.issuer}", display_name=self.issuer)[0]


class Checker:
    """Checks identities against the public keys of all issuers."""

    def __init__(self, trust: str) -> None:
        self._keys = KeySet.import_key_set(json.loads(trust))
        self._seen: dict[str, Caller] = {}

    def check(self, token: str) -> Caller:
        """Returns the caller of a valid identity; raises Unauthenticated for any other."""
        now = datetime.now(UTC)
        found = self._seen.get(token)
        if found is None:
            found = self._read(token)
            # A forwarded identity comes with every call of a page; checking its signature once is enough.
            if len(self._seen) > 10_000:
                self._seen.clear()
            self._seen[token] = found
        if now > found.expire_time + timedelta(seconds=CLOCK_SKEW_SECONDS):
            self._seen.pop(token, None)
            raise Unauthenticated("IDENTITY_EXPIRED", "the identity has run out")
        return found

    def _read(self, token: str) -> Caller:
        try:
            decoded = jwt.decode(token, self._keys, algorithms=[ALGORITHM])
            claims = decoded.claims
            issuer = str(claims["iss"])
            subject = str(claims["sub"])
            # The key that fits is chosen by kid; an issuer must not sign under another's name.
            if decoded.header.get("kid") != issuer:
                raise ValueError("issuer and key differ")
            if issuer not in TRUSTED_ISSUERS and subject != f"services/{issuer}":
                raise ValueError("a process may only speak for itself")
            speaks_for_others = issuer in TRUSTED_ISSUERS
            return Caller(
                issuer=issuer,
                subject=subject,
                display_name=str(claims["name"]),
                agency_id=UUID(claims["agency"]) if claims["agency"] and speaks_for_others else None,
                role=str(claims["role"]),
                permissions=frozenset(claims["permissions"]) if speaks_for_others else frozenset(),
                own_clients_only=bool(claims["own"]),
                source_address=str(claims["address"]),
                expire_time=datetime.fromtimestamp(int(claims["exp"]), UTC),
            )
        except (JoseError, ValueError, KeyError, TypeError) as error:
            raise Unauthenticated("IDENTITY_INVALID", "the identity is not valid") from error


Exchange = Callable[[str, str], Awaitable[str]]


class Exchanger:
    """Exchanges credentials for identities and remembers them for a few seconds.

    The memory is short on purpose: how long an entry lives is how long a revoked key still works.
    """

    KEEP_SECONDS = 3.0

    def __init__(self, exchange: Exchange, checker: Checker) -> None:
        self._exchange = exchange
        self._checker = checker
        self._kept: dict[tuple[str, str], tuple[float, asyncio.Task[str]]] = {}

    async def token_for(self, credential: str, source_address: str) -> str:
        """Returns a signed identity for a session or an API key; callers that wait together share one exchange."""
        key, now = (credential, source_address), time.monotonic()
        kept = self._kept.get(key)
        if kept is None or now - kept[0] > self.KEEP_SECONDS:
            if len(self._kept) > 10_000:
                self._kept.clear()
            kept = (now, asyncio.ensure_future(self._exchange(credential, source_address)))
            self._kept[key] = kept
        try:
            return await asyncio.shield(kept[1])
        except Exception:
            # A refusal must not outlive its cause: auth may have been restarting.
            self._kept.pop(key, None)
            raise

    async def caller_for(self, credential: str, source_address: str) -> Caller:
        """Returns who holds a credential."""
        return self._checker.check(await self.token_for(credential, source_address))

    def forget(self, credential: str) -> None:
        """Drops what is remembered of one credential, after a sign-out."""
        for key in [key for key in self._kept if key[0] == credential]:
            del self._kept[key]
