"""Dead letters: listed without what visitors sent, tried again by one call, gone only when they were taken in."""

from typing import Any

import grpc
import pytest
from opennotice.operations.v1 import operations_pb2, operations_pb2_grpc

from services.chassis.dead_letters import DeadLetters
from services.chassis.operations import OperationsService
from services.chassis.postgres import Database as Pool
from tests.cast import DANA
from tests.fix_rpc import Keyring, ServeRpc


@pytest.fixture
def letters(pool: Pool) -> DeadLetters:
    return DeadLetters(pool, "frame")


@pytest.fixture
async def stub(letters: DeadLetters, serve_rpc: ServeRpc) -> Any:
    channel = await serve_rpc(
        "link",
        operations_pb2_grpc.add_OperationsServiceServicer_to_server,
        OperationsService(letters),
        operations_pb2.DESCRIPTOR.services_by_name["OperationsService"],
    )
    return operations_pb2_grpc.OperationsServiceStub(channel)


async def keep(letters: DeadLetters, payload: bytes = b"198.51.100.9", kind: str = "a.B", consumer: str = "c") -> None:
    error = ValueError("ip_address is none")
    await letters.keep(consumer=consumer, subject="s", message_type=kind, payload=payload, error=error, attempts=5)


async def test_they_are_listed_page_by_page_without_their_bytes(
    letters: DeadLetters, stub: Any, keyring: Keyring
) -> None:
    for _ in range(3):
        await keep(letters)
    host = keyring.as_process("host")
    first = await stub.ListDeadLetters(operations_pb2.ListDeadLettersRequest(page_size=2), metadata=host)
    assert [one.name for one in first.dead_letters] == ["deadLetters/1", "deadLetters/2"]
    one = first.dead_letters[0]
    assert (one.consumer, one.message_type, one.payload_bytes, one.attempts) == ("c", "a.B", 12, 5)
    assert one.error == "ValueError: ip_address is none"
    assert b"198.51" not in first.SerializeToString()
    rest = await stub.ListDeadLetters(
        operations_pb2.ListDeadLettersRequest(page_size=2, page_token=first.next_page_token), metadata=host
    )
    assert [one.name for one in rest.dead_letters] == ["deadLetters/3"]
    assert rest.next_page_token == ""


async def test_what_is_taken_in_is_gone_and_what_is_refused_again_stays_with_its_reason(
    letters: DeadLetters, stub: Any, keyring: Keyring
) -> None:
    taken: list[bytes] = []

    async def replay(payload: bytes) -> None:
        if payload == b"bad":
            raise ValueError("still wrong")
        taken.append(payload)

    letters.on_replay("c", "a.B", replay)
    await keep(letters, b"good")
    await keep(letters, b"bad")
    await keep(letters, b"good too")
    await keep(letters, b"stranger", consumer="of an older version")
    answer = await stub.ReplayDeadLetters(
        operations_pb2.ReplayDeadLettersRequest(), metadata=keyring.as_process("host")
    )
    assert taken == [b"good", b"good too"]
    assert [(one.name, one.error) for one in answer.outcomes] == [
        ("deadLetters/1", ""),
        ("deadLetters/2", "ValueError: still wrong"),
        ("deadLetters/3", ""),
        ("deadLetters/4", "nothing here takes in a.B for of an older version"),
    ]
    assert [one.id for one in await letters.list(0, 10)] == [2, 4]


async def test_one_is_tried_by_its_name(letters: DeadLetters, stub: Any, keyring: Keyring) -> None:
    async def replay(_payload: bytes) -> None:
        return

    letters.on_replay("c", "a.B", replay)
    await keep(letters)
    await keep(letters)
    request = operations_pb2.ReplayDeadLettersRequest(names=["deadLetters/2", "deadLetters/77"])
    answer = await stub.ReplayDeadLetters(request, metadata=keyring.as_process("host"))
    assert [(one.name, one.error) for one in answer.outcomes] == [
        ("deadLetters/2", ""),
        ("deadLetters/77", "there is no such dead letter"),
    ]
    assert await letters.count() == 1


@pytest.mark.parametrize("name", ["", "1", "deadLetters/0", "deadLetters/x", "deadLetters/1 ", "deadLetters/１"])
async def test_a_name_that_is_none_is_one_clear_error(stub: Any, keyring: Keyring, name: str) -> None:
    request = operations_pb2.ReplayDeadLettersRequest(names=[name])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ReplayDeadLetters(request, metadata=keyring.as_process("host"))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_page_token_of_somebody_else_is_refused(stub: Any, keyring: Keyring) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.ListDeadLetters(
            operations_pb2.ListDeadLettersRequest(page_token="1 or 1=1"), metadata=keyring.as_process("host")
        )
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_only_the_host_may_ask(stub: Any, keyring: Keyring) -> None:
    for metadata in (keyring.as_person(DANA), keyring.as_process("tracking")):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ListDeadLetters(operations_pb2.ListDeadLettersRequest(), metadata=metadata)
        assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
