"""OperationsService: a process tells the operator of the host about its dead letters and tries them again."""

import re
from typing import Any

import grpc
from opennotice.operations.v1 import operations_pb2, operations_pb2_grpc

from services.chassis.clock import to_proto
from services.chassis.dead_letters import DeadLetter, DeadLetters
from services.chassis.errors import invalid
from services.chassis.paging import page_size

_MOST_AT_ONCE = 200
_NAME = re.compile(r"deadLetters/([1-9][0-9]{0,17})", re.ASCII)
_TOKEN = re.compile(r"[0-9]{0,18}", re.ASCII)
Context = grpc.aio.ServicerContext[Any, Any]


class OperationsService(operations_pb2_grpc.OperationsServiceServicer):
    """Answers for the dead letters of one process."""

    def __init__(self, dead_letters: DeadLetters) -> None:
        self._dead_letters = dead_letters

    async def ListDeadLetters(
        self, request: operations_pb2.ListDeadLettersRequest, context: Context
    ) -> operations_pb2.ListDeadLettersResponse:
        """Lists them, oldest first."""
        size = page_size(request.page_size)
        found = await self._dead_letters.list(_after(request.page_token), size + 1)
        shown = found[:size]
        more = str(shown[-1].id) if len(found) > size else ""
        return operations_pb2.ListDeadLettersResponse(
            dead_letters=[_to_proto(one) for one in shown], next_page_token=more
        )

    async def ReplayDeadLetters(
        self, request: operations_pb2.ReplayDeadLettersRequest, context: Context
    ) -> operations_pb2.ReplayDeadLettersResponse:
        """Tries them again, one after the other."""
        if len(request.names) > _MOST_AT_ONCE:
            raise invalid("names", f"at most {_MOST_AT_ONCE}")
        more = ""
        if request.names:
            numbers = [_number(name) for name in request.names]
        else:
            found = await self._dead_letters.list(_after(request.page_token), _MOST_AT_ONCE + 1)
            numbers = [one.id for one in found[:_MOST_AT_ONCE]]
            more = str(numbers[-1]) if len(found) > _MOST_AT_ONCE else ""
        outcomes = [
            operations_pb2.ReplayOutcome(name=f"deadLetters/{number}", error=await self._dead_letters.replay(number))
            for number in numbers
        ]
        return operations_pb2.ReplayDeadLettersResponse(outcomes=outcomes, next_page_token=more)


def _to_proto(one: DeadLetter) -> operations_pb2.DeadLetter:
    return operations_pb2.DeadLetter(
        name=f"deadLetters/{one.id}",
        consumer=one.consumer,
        subject=one.subject,
        message_type=one.message_type,
        payload_bytes=one.payload_bytes,
        error=one.error,
        attempts=one.attempts,
        create_time=to_proto(one.create_time),
    )


def _number(name: str) -> int:
    found = _NAME.fullmatch(name)
    if found is None:
        raise invalid("names", "each must be deadLetters/{number}")
    return int(found[1])


def _after(token: str) -> int:
    if not _TOKEN.fullmatch(token):
        raise invalid("page_token", "is none of ours", "PAGE_TOKEN_INVALID")
    return int(token or 0)
