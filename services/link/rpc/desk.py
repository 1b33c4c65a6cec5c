"""What every rpc works with: transactions of the caller's agency, request ids, pages of lists, update masks."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

import grpc
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message as ProtoMessage
from opennotice.auth.v1 import auth_pb2, auth_pb2_grpc

from services.chassis import clock
from services.chassis.errors import (
    Aborted,
    AlreadyExists,
    FailedPrecondition,
    Faults,
    NotFound,
    Unavailable,
    from_rpc_error,
    invalid,
)
from services.chassis.identity import caller
from services.chassis.names import parse_name, parse_uuid
from services.chassis.outbox import Wakes
from services.chassis.paging import Pages, page_size, scope_of
from services.chassis.postgres import Connection, Database
from services.link import events
from services.link.once import Claim
from services.link.store import agencies, feed
from services.link.target import TargetRefused, check_target
from services.link.token import TokenKeys, TokenKind, token_hash

T = TypeVar("T")
# Nobody has this id; a caller who may see only own clients and is no user sees nothing.
_NOBODY = UUID(int=0)


@dataclass(frozen=True)
class Window:
    """One page of a list: where it begins, how long it is, what its successor is called."""

    scope: str
    size: int
    after: list[Any] | None
    pages: Pages = field(repr=False)

    def cut(self, rows: Sequence[T], key: Callable[[T], list[str | int]]) -> tuple[Sequence[T], str]:
        """Returns the rows of this page and the token of the next; asks to be given one row more than its size."""
        if len(rows) <= self.size:
            return rows, ""
        shown = rows[: self.size]
        return shown, self.pages.encode(self.scope, key(shown[-1]))


class Desk:
    """The tools of the rpcs."""

    def __init__(
        self,
        *,
        serve: Database,
        directory: Database,
        relay: Wakes,
        pages: Pages,
        keys: TokenKeys,
        public_url: str,
        hosts: events.Agencies,
        auth: "auth_pb2_grpc.AuthServiceAsyncStub",
        as_process: events.AsProcess,
    ) -> None:
        self.directory = directory
        self.keys = keys
        self._serve = serve
        self._relay = relay
        self._pages = pages
        self._public_url = public_url
        self._hosts = hosts
        self._auth = auth
        self._as_process = as_process
        self._known_agencies: set[UUID] = set()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Opens the one transaction of an rpc that changes something; its events are published at once after it."""
        async with self.reading() as conn:
            yield conn
        self._relay.wake()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Connection]:
        """Opens the one transaction of an rpc that reads.

        A name that leads to nothing is written to the audit log: it may be a try at another agency's data.
        """
        try:
            async with self._serve.transaction(caller().agency) as conn:
                yield conn
        except NotFound as error:
            await self._note_refusal(error)
            raise

    async def _note_refusal(self, error: NotFound) -> None:
        name = error.metadata.get("name", "")
        collection, _, identifier = name.partition("/")
        if parse_uuid(identifier) is None:
            return
        async with self._serve.transaction(caller().agency) as conn:
            await events.announce_action(
                conn,
                caller(),
                f"{collection.removesuffix('s')}.look-up",
                name,
                clock.now(),
                refused=True,
                details={"reason": error.reason},
            )
        self._relay.wake()

    async def claim(self, conn: Connection, request_id: UUID | None, digest: bytes, resource_id: UUID) -> UUID | None:
        """Claims a request id for a new resource; returns the id of the first result when there is one already."""
        if request_id is None:
            return None
        wanted = Claim(request_id, digest, resource_id)
        found = (await feed.claim(conn, caller().agency, [wanted]))[request_id]
        if found == wanted:
            return None
        if found.digest != digest:
            raise reused()
        return found.resource_id

    def window(self, request: Any) -> Window:
        """Reads page_size and page_token of a list request; the token is bound to all else in it and to the caller."""
        query = type(request)()
        query.CopyFrom(request)
        query.page_size, query.page_token = 0, ""
        method = type(request).__name__ + (caller().subject if caller().own_clients_only else "")
        scope = scope_of(method, caller().agency, query.SerializeToString(deterministic=True))
        size = page_size(request.page_size)
        return Window(scope, size, self._pages.decode(scope, request.page_token), self._pages)

    async def know_agency(self) -> None:
        """Makes sure that the list of hosts of the caller's agency is here; asks the auth service when it is not."""
        agency_id = caller().agency
        if agency_id in self._known_agencies:
            return
        async with self._serve.transaction(agency_id) as conn:
            known = await agencies.allowed_hosts(conn, agency_id) is not None
        if not known:
            await self._hosts.load()
        self._known_agencies.add(agency_id)

    async def hold_targets(self, conn: Connection) -> None:
        """Keeps the agency's list of hosts as it is until the commit; before the lock of any row."""
        await agencies.hold_targets(conn, caller().agency)

    async def allowed_target(self, conn: Connection, uri: str, field: str) -> str:
        """Returns the host of a target that the agency allows, and keeps the list as it is until the commit."""
        await self.hold_targets(conn)
        hosts = await agencies.allowed_hosts(conn, caller().agency)
        if hosts is None:
            raise Unavailable("AGENCY_UNKNOWN", "the settings of the agency have not arrived yet; try again")
        try:
            return check_target(uri, hosts)
        except TargetRefused as refusal:
            raise invalid(field, str(refusal), "TARGET_NOT_ALLOWED") from refusal

    async def check_officer(self, officer_id: UUID, field: str) -> None:
        """Raises OFFICER_UNKNOWN unless the user exists and is active in the caller's agency."""
        if officer_id == own_officer():
            return
        request = auth_pb2.LookUpUserRequest(user=f"users/{officer_id}", agency_id=str(caller().agency))
        try:
            user = await self._auth.LookUpUser(request, timeout=5, metadata=self._as_process())
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise invalid(field, "there is no such user", "OFFICER_UNKNOWN") from error
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise Unavailable("AUTH_AWAY", "the officer cannot be checked now; try again") from error
            raise from_rpc_error(error) from error
        if user.disabled:
            raise invalid(field, "this user is disabled", "OFFICER_UNKNOWN")

    def uri(self, kind: TokenKind, identifier: UUID, key_version: int, stored_hash: bytes) -> str:
        """Returns the full address of a link or redirect; refuses when the key it was made under is not here."""
        try:
            token = self.keys.token(kind, identifier, key_version)
        except KeyError:
            token = ""
        if token_hash(token) != stored_hash:
            raise FailedPrecondition("TOKEN_KEY_LOST", "the key that this address was made from is not here any more")
        return f"{self._public_url}/{'r/' if kind is TokenKind.REDIRECT else ''}{token}"


class AtDesk:
    """A part of the service that works with the desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk


def own_officer() -> UUID | None:
    """Returns whose clients the caller is limited to; None for a caller who sees all of the agency."""
    if not caller().own_clients_only:
        return None
    return parse_name("users", caller().subject) or _NOBODY


def reused() -> AlreadyExists:
    """Builds the error for a request id that stands for another content."""
    return AlreadyExists("REQUEST_ID_REUSED", "this request_id was used for another content")


def not_found(collection: str, name: str) -> NotFound:
    """Builds the error for a name that leads to nothing the caller may see."""
    noun = collection.removesuffix("s")
    return NotFound(f"{noun.upper()}_UNKNOWN", f"there is no such {noun}", name=name[:100])


def check_revision(asked: int, current: int) -> None:
    """Raises CHANGED_MEANWHILE unless no revision was asked for, or the current one."""
    if asked not in (0, current):
        raise Aborted("CHANGED_MEANWHILE", "it was changed meanwhile; read it again", revision=str(current))


def chosen_fields(mask: FieldMask, resource: ProtoMessage, known: Sequence[str], faults: Faults) -> set[str]:
    """Returns which fields an update changes: those of the mask, or without one every populated field."""
    if not mask.paths:
        return {descriptor.name for descriptor, _ in resource.ListFields()} & set(known)
    if list(mask.paths) == ["*"]:
        return set(known)
    for path in mask.paths:
        if path not in known:
            faults.add("update_mask", f"has the unknown path {path[:60]!r}; known are {', '.join(known)}")
    return set(mask.paths) & set(known)
