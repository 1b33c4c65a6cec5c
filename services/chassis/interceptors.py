"""What happens around every rpc: who calls, may they, how long, how it ended.

Every rpc is served as one that streams its request, which looks the same on the wire: the library reads the message of
any other before it runs a line of ours, and for as long as a stranger likes. So the credential is checked before any
message is read, the one message of a call must come soon, and what is bounded is:

- a call without a valid credential ends at once; at most 150 calls wait for auth to say whether theirs is;
- the one message of a call comes within 10 s, and nothing after it;
- one caller (a person, an API key) has at most 100 calls under way, one agency 100 streams, all together 150 streams;
  the 200 calls of a process are never held by one of them. Our own processes are not counted;
- health and reflection, which need no credential, take nothing of these 200: 20 short calls and 20 streams at once, the
  first message within 5 s, a stream for 10 min (health) or 60 s (reflection).

Not bounded here are connections, and how slowly a caller with a credential takes its answers: a call that is answered
counts until the answer is taken or the connection ends.
"""

import asyncio
import contextvars
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any, cast

import grpc
import structlog
from grpc_status import rpc_status

from services.chassis import log
from services.chassis.access import Rule
from services.chassis.address import Network, client_address
from services.chassis.errors import (
    DeadlineExceeded,
    InvalidArgument,
    ResourceExhausted,
    ServiceError,
    Unauthenticated,
    Unavailable,
    to_status,
)
from services.chassis.identity import IDENTITY_METADATA, Caller, Checker, Exchanger, set_caller
from services.chassis.names import new_id
from services.chassis.postgres import gives_no_answer

UNARY_LIMIT_SECONDS = 30.0
STREAM_LIMIT_SECONDS = 3600.0
MESSAGE_SECONDS = 10.0
# Enough that a court's system works with many hands, and few enough that nobody shuts out the others.
CALLS_OF_A_CALLER = 100
STREAMS_OF_AN_AGENCY = 100
STREAMS = 150
_WAITING_FOR_AUTH = 150
LIBRARY_CALLS = 20
LIBRARY_STREAMS = 20
LIBRARY_MESSAGE_SECONDS = 5.0
WATCH_SECONDS = 600.0
REFLECTION_SECONDS = 60.0
_LOG = log.get(__name__)
_UNREADABLE = object()
Metadata = Sequence[tuple[str, Any]]
_REVALIDATE: contextvars.ContextVar[Callable[[], Awaitable[None]]] = contextvars.ContextVar("revalidate")


async def still_valid() -> None:
    """Raises Unauthenticated when the caller of the running stream was revoked, or their identity has run out."""
    await _REVALIDATE.get()()


class Places:
    """Counts the calls under way under names, and refuses those that are too many."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    def take(self, context: Any, *limits: tuple[str, int]) -> None:
        """Takes a place under each name until the call has ended; raises ResourceExhausted when there is none."""
        if any(self._taken[name] >= most for name, most in limits):
            raise ResourceExhausted("TOO_MANY_CALLS", "too many calls are under way; try again when one has ended")
        for name, _ in limits:
            self._taken[name] += 1
        # Not at the end of our own code: an answer that nobody takes still holds the call.
        context.add_done_callback(lambda _context: self._give_back(limits))

    def _give_back(self, limits: Sequence[tuple[str, int]]) -> None:
        for name, _ in limits:
            self._taken[name] -= 1
            if not self._taken[name]:
                del self._taken[name]


class Frame(grpc.aio.ServerInterceptor):
    """Checks the caller, sets the deadline, translates errors, writes one log line a call."""

    def __init__(
        self, rules: dict[str, Rule], checker: Checker, exchanger: Exchanger, trusted_proxies: Sequence[Network] = ()
    ) -> None:
        self._rules = rules
        self._checker = checker
        self._exchanger = exchanger
        self._trusted_proxies = trusted_proxies
        self._places = Places()
        self._library_places = Places()
        self._waiting_for_auth = 0
        self._wrapped: dict[str, grpc.RpcMethodHandler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """Returns the handler of a call, wrapped once for all calls of its rpc."""
        wrapped = self._wrapped.get(details.method)
        if wrapped is None:
            handler = await continuation(details)
            if handler is None:
                return None
            # Health and reflection are the library's; they tell nothing about anybody and carry no rule of ours.
            rule = self._rules.get(details.method)
            if rule is None:
                wrapped = _wrap_library(self._library_places, handler)
            elif handler.response_streaming:
                wrapped = _wrap_stream(self, details.method, rule, handler)
            else:
                wrapped = _wrap_unary(self, details.method, rule, handler)
            self._wrapped[details.method] = wrapped
        return wrapped

    async def enter(self, method: str, rule: Rule, context: grpc.aio.ServicerContext, *, streaming: bool) -> None:
        """Finds and checks the caller, gives them a place and makes them known to the rpc."""
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(rpc=method, request=str(new_id()))
        # The library gives pairs, whatever its types say: a name may come more than once.
        metadata = cast(Metadata, context.invocation_metadata() or ())
        with self._place_before_auth(metadata):
            found = await self._find(metadata, context)
        rule.check(found)
        if found is not None and found.process is None:
            limits = [(found.subject, CALLS_OF_A_CALLER)]
            if streaming:
                limits += [(str(found.agency_id), STREAMS_OF_AN_AGENCY), ("", STREAMS)]
            self._places.take(context, *limits)
        set_caller(found)

        async def revalidate() -> None:
            rule.check(await self._find(metadata, context))

        _REVALIDATE.set(revalidate)

    @contextmanager
    def _place_before_auth(self, metadata: Metadata) -> Iterator[None]:
        # Keys that nobody has ever issued must not fill the process with calls that wait for auth to say so. Whoever
        # brings an identity does not wait.
        waits = int(not dict(metadata).get(IDENTITY_METADATA))
        if waits and self._waiting_for_auth >= _WAITING_FOR_AUTH:
            raise ResourceExhausted("TOO_MANY_CALLS", "too many calls wait for their key to be checked; try again")
        self._waiting_for_auth += waits
        try:
            yield
        finally:
            self._waiting_for_auth -= waits

    async def _find(self, metadata: Metadata, context: grpc.aio.ServicerContext) -> Caller | None:
        values = dict(metadata)
        if identity := values.get(IDENTITY_METADATA):
            return self._checker.check(str(identity))
        authorization = str(values.get("authorization", ""))
        if not authorization:
            return None
        kind, _, credential = authorization.partition(" ")
        if kind.lower() != "bearer" or not credential.startswith("onk_"):
            raise Unauthenticated("CREDENTIAL_UNKNOWN", "authorization must be: Bearer <API key>")
        forwarded_for = [str(value) for name, value in metadata if name == "x-forwarded-for"]
        address = client_address(_address_of(context.peer()), forwarded_for, self._trusted_proxies)
        return await self._exchanger.caller_for(credential, address)


def _address_of(peer: str) -> str:
    """Returns the address in gRPC's name of a peer ("ipv4:127.0.0.1:1234", "ipv6:[::1]:1234")."""
    return peer.partition(":")[2].rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")


class _Outcome:
    """Turns whatever a handler raised into one status, and writes the log line of the call."""

    def __init__(self, method: str, context: grpc.aio.ServicerContext) -> None:
        self.method = method
        self.context = context
        self.began = time.monotonic()
        self.waits_for_message = False

    async def fail(self, error: BaseException) -> None:
        """Ends the call with the status of an error; never returns."""
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if isinstance(error, asyncio.CancelledError):
            self.log("CANCELLED")
            raise error
        if isinstance(error, TimeoutError):
            if self.waits_for_message:
                error = DeadlineExceeded("MESSAGE_LATE", f"no message came within {MESSAGE_SECONDS:g} seconds")
            else:
                error = DeadlineExceeded("DEADLINE_EXCEEDED", "the call took longer than its deadline")
        elif gives_no_answer(error):
            _LOG.warning("store is away", error=type(error).__name__)
            error = Unavailable("STORE_AWAY", "the database does not answer now; try again")
        if isinstance(error, ServiceError):
            self.log(error.code.name, reason=error.reason)
            await _refuse(self.context, error)
        _LOG.error("call failed", exc_info=error)
        self.log("INTERNAL")
        await self.context.abort(grpc.StatusCode.INTERNAL, "internal error")

    def log(self, status: str, **more: str) -> None:
        """Writes the line of this call."""
        _LOG.info("call", status=status, ms=round((time.monotonic() - self.began) * 1000, 1), **more)


async def _refuse(context: grpc.aio.ServicerContext, error: ServiceError) -> None:
    """Ends a call with the status of an error; never returns."""
    await context.abort_with_status(rpc_status.to_status(to_status(error)))


def _remaining(context: grpc.aio.ServicerContext, limit: float) -> float:
    left = context.time_remaining()
    return limit if left is None else max(0.001, min(left, limit))


def _lenient(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    """Keeps the library from answering garbage with the name of a Python class."""

    def read(data: bytes) -> Any:
        try:
            return deserialize(data) if deserialize else data
        except Exception:
            return _UNREADABLE

    return read


def _readable(request: Any) -> Any:
    if request is _UNREADABLE:
        raise InvalidArgument("MESSAGE_UNREADABLE", "the request is not a readable protobuf message of this rpc")
    return request


async def _readable_each(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _readable(request)


async def _only_message(context: Any) -> Any:
    """Returns the one message of a call whose request is no stream, once nothing more can come."""
    request = await context.read()
    if request is grpc.aio.EOF:
        raise InvalidArgument("MESSAGE_MISSING", "this rpc takes one message, and none came")
    if await context.read() is not grpc.aio.EOF:
        raise InvalidArgument("MESSAGE_REPEATED", "this rpc takes one message, and more came")
    return _readable(request)


async def _send(context: grpc.aio.ServicerContext, answer: Any) -> None:
    try:
        await context.write(answer)
    except grpc.aio.InternalError:
        # The library's word for a connection that is gone, which may come before its cancellation.
        raise asyncio.CancelledError from None


@asynccontextmanager
async def _under_way(
    frame: Frame, method: str, rule: Rule, handler: Any, requests: AsyncIterator[Any], context: Any
) -> AsyncIterator[Any]:
    """Gives what the handler of a call is asked, and ends the call with a status whatever happens to it."""
    outcome = _Outcome(method, context)
    limit = _remaining(context, STREAM_LIMIT_SECONDS if handler.response_streaming else UNARY_LIMIT_SECONDS)
    ends = asyncio.get_running_loop().time() + limit
    outcome.waits_for_message = limit > MESSAGE_SECONDS
    try:
        async with asyncio.timeout_at(ends - max(0.0, limit - MESSAGE_SECONDS)) as clock:
            await frame.enter(method, rule, context, streaming=handler.request_streaming or handler.response_streaming)
            request = _readable_each(requests) if handler.request_streaming else await _only_message(context)
            outcome.waits_for_message = False
            clock.reschedule(ends)
            yield request
        outcome.log("OK")
    except BaseException as error:
        await outcome.fail(error)


def _wrap_unary(frame: Frame, method: str, rule: Rule, handler: Any) -> grpc.RpcMethodHandler:
    behave = handler.stream_unary if handler.request_streaming else handler.unary_unary

    async def call(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> Any:
        async with _under_way(frame, method, rule, handler, requests, context) as request:
            return await behave(request, context)

    return grpc.stream_unary_rpc_method_handler(
        call, _lenient(handler.request_deserializer), handler.response_serializer
    )


def _wrap_stream(frame: Frame, method: str, rule: Rule, handler: Any) -> grpc.RpcMethodHandler:
    behave = handler.stream_stream if handler.request_streaming else handler.unary_stream

    # Writes by itself instead of yielding: what is cancelled at a yield has lost its time-out to the library, which
    # then sends no status.
    async def call(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> None:
        async with (
            _under_way(frame, method, rule, handler, requests, context) as request,
            aclosing(behave(request, context)) as answers,
        ):
            async for answer in answers:
                await _send(context, answer)

    return grpc.stream_stream_rpc_method_handler(
        call, _lenient(handler.request_deserializer), handler.response_serializer
    )


def _wrap_library(places: Places, handler: Any) -> grpc.RpcMethodHandler:
    """Bounds an rpc of health or reflection, which anybody may call."""
    if not handler.response_streaming:
        place, lasts = ("calls", LIBRARY_CALLS), LIBRARY_MESSAGE_SECONDS
    else:
        place, lasts = ("streams", LIBRARY_STREAMS), REFLECTION_SECONDS if handler.request_streaming else WATCH_SECONDS
    behave = handler.unary_unary or handler.unary_stream or handler.stream_stream

    async def asked(requests: AsyncIterator[Any], clock: asyncio.Timeout, ends: float) -> AsyncIterator[Any]:
        async for request in requests:
            clock.reschedule(ends)
            yield _readable(request)

    async def call(requests: AsyncIterator[Any], context: grpc.aio.ServicerContext) -> Any:
        now = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(now + LIBRARY_MESSAGE_SECONDS) as clock:
                places.take(context, place)
                if handler.request_streaming:
                    async with aclosing(behave(asked(requests, clock, now + lasts), context)) as answers:
                        async for answer in answers:
                            await _send(context, answer)
                    return None
                request = await _only_message(context)
                clock.reschedule(now + lasts)
                return await behave(request, context)
        except TimeoutError:
            await _refuse(context, DeadlineExceeded("DEADLINE_EXCEEDED", "this call may not last longer"))
        except ServiceError as error:
            await _refuse(context, error)
        except grpc.aio.InternalError:
            raise asyncio.CancelledError from None

    make = grpc.stream_stream_rpc_method_handler if handler.response_streaming else grpc.stream_unary_rpc_method_handler
    return make(call, _lenient(handler.request_deserializer), handler.response_serializer)
