"""What happens around every rpc: who calls, may they, how long, how it ended.

One interceptor for all four kinds of rpc. A handler of another kind than the one asked for would break its stream, so a
refusal is raised inside a handler of the same kind.
"""

import asyncio
import contextvars
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import structlog
from grpc_status import rpc_status

from services.chassis import log
from services.chassis.access import Rule
from services.chassis.errors import (
    DeadlineExceeded,
    InvalidArgument,
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
_LOG = log.get(__name__)
_UNREADABLE = object()
_REVALIDATE: contextvars.ContextVar[Callable[[], Awaitable[None]]] = contextvars.ContextVar("revalidate")


async def still_valid() -> None:
    """Raises Unauthenticated when the caller of the running stream was revoked, or their identity has run out."""
    await _REVALIDATE.get()()


class Frame(grpc.aio.ServerInterceptor):
    """Checks the caller, sets the deadline, translates errors, writes one log line a call."""

    def __init__(self, rules: dict[str, Rule], checker: Checker, exchanger: Exchanger) -> None:
        self._rules = rules
        self._checker = checker
        self._exchanger = exchanger

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler | None]],
        details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler of one call."""
        handler = await continuation(details)
        if handler is None:
            return handler
        # Health and reflection are the library's; they tell nothing about anybody and carry no rule of ours.
        rule = self._rules.get(details.method)
        if rule is None:
            return handler
        wrap = _WRAPPERS[(handler.request_streaming, handler.response_streaming)]
        return wrap(self, details, rule, handler)

    async def enter(self, method: str, rule: Rule, context: grpc.aio.ServicerContext) -> None:
        """Finds and checks the caller and makes them known to the rpc."""
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(rpc=method, request=str(new_id()))
        metadata = dict(context.invocation_metadata() or ())
        found = await self._find(metadata, context)
        rule.check(found)
        set_caller(found)

        async def revalidate() -> None:
            rule.check(await self._find(metadata, context))

        _REVALIDATE.set(revalidate)

    async def _find(self, metadata: dict[str, Any], context: grpc.aio.ServicerContext) -> Caller | None:
        if identity := metadata.get(IDENTITY_METADATA):
            return self._checker.check(str(identity))
        authorization = str(metadata.get("authorization", ""))
        if not authorization:
            return None
        kind, _, credential = authorization.partition(" ")
        if kind.lower() != "bearer" or not credential.startswith("onk_"):
            raise Unauthenticated("CREDENTIAL_UNKNOWN", "authorization must be: Bearer <API key>")
        return await self._exchanger.caller_for(credential, _address_of(context.peer()))


def _address_of(peer: str) -> str:
    """Returns the address in gRPC's name of a peer ("ipv4:127.0.0.1:1234", "ipv6:[::1]:1234")."""
    return peer.partition(":")[2].rpartition(":")[0].replace("%5B", "").replace("%5D", "").strip("[]")


class _Outcome:
    """Turns whatever a handler raised into one status, and writes the log line of the call."""

    def __init__(self, method: str, context: grpc.aio.ServicerContext) -> None:
        self.method = method
        self.context = context
        self.began = time.monotonic()

    async def fail(self, error: BaseException) -> None:
        """Ends the call with the status of an error; never returns."""
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if isinstance(error, asyncio.CancelledError):
            self.log("CANCELLED")
            raise error
        if isinstance(error, TimeoutError):
            error = DeadlineExceeded("DEADLINE_EXCEEDED", "the call took longer than its deadline")
        elif gives_no_answer(error):
            _LOG.warning("store is away", error=type(error).__name__)
            error = Unavailable("STORE_AWAY", "the database does not answer now; try again")
        if isinstance(error, ServiceError):
            self.log(error.code.name, reason=error.reason)
            await self.context.abort_with_status(rpc_status.to_status(to_status(error)))
        _LOG.error("call failed", exc_info=error)
        self.log("INTERNAL")
        await self.context.abort(grpc.StatusCode.INTERNAL, "internal error")

    def log(self, status: str, **more: str) -> None:
        """Writes the line of this call."""
        _LOG.info("call", status=status, ms=round((time.monotonic() - self.began) * 1000, 1), **more)


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


def _wrap_unary(
    frame: Frame, details: grpc.HandlerCallDetails, rule: Rule, handler: Any, *, streaming: bool
) -> grpc.RpcMethodHandler:
    async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
        outcome = _Outcome(details.method, context)
        try:
            async with asyncio.timeout(_remaining(context, UNARY_LIMIT_SECONDS)):
                await frame.enter(details.method, rule, context)
                if streaming:
                    answer = await handler.stream_unary(_readable_each(request), context)
                else:
                    answer = await handler.unary_unary(_readable(request), context)
            outcome.log("OK")
            return answer
        except BaseException as error:
            await outcome.fail(error)

    make = grpc.stream_unary_rpc_method_handler if streaming else grpc.unary_unary_rpc_method_handler
    return make(call, _lenient(handler.request_deserializer), handler.response_serializer)


def _wrap_stream(
    frame: Frame, details: grpc.HandlerCallDetails, rule: Rule, handler: Any, *, streaming: bool
) -> grpc.RpcMethodHandler:
    async def call(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        outcome = _Outcome(details.method, context)
        try:
            async with asyncio.timeout(_remaining(context, STREAM_LIMIT_SECONDS)):
                await frame.enter(details.method, rule, context)
                if streaming:
                    answers = handler.stream_stream(_readable_each(request), context)
                else:
                    answers = handler.unary_stream(_readable(request), context)
                async for answer in answers:
                    yield answer
            outcome.log("OK")
        except GeneratorExit:
            outcome.log("CANCELLED")
            raise
        except BaseException as error:
            await outcome.fail(error)

    make = grpc.stream_stream_rpc_method_handler if streaming else grpc.unary_stream_rpc_method_handler
    return make(call, _lenient(handler.request_deserializer), handler.response_serializer)


_WRAPPERS: dict[tuple[bool, bool], Callable[..., grpc.RpcMethodHandler]] = {
    (False, False): lambda *args: _wrap_unary(*args, streaming=False),
    (True, False): lambda *args: _wrap_unary(*args, streaming=True),
    (False, True): lambda *args: _wrap_stream(*args, streaming=False),
    (True, True): lambda *args: _wrap_stream(*args, streaming=True),
}
