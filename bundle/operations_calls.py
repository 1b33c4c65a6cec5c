"""What the operator's command asks of every process with events, as issuer "host"."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
from opennotice.operations.v1 import operations_pb2, operations_pb2_grpc

from bundle.auth_calls import CallRefused, reason_of
from bundle.home import Home
from bundle.processes import reached_at
from bundle.settings import SERVICES, BundleSettings
from services.chassis.identity import IDENTITY_METADATA, Signer

_SECONDS = 40.0


@dataclass(frozen=True)
class DeadLetter:
    """An event that a process has set aside."""

    service: str
    name: str
    consumer: str
    message_type: str
    bytes: int
    error: str
    attempts: int
    create_time: str


@dataclass(frozen=True)
class Outcome:
    """What came of another try; without an error it was taken in."""

    service: str
    name: str
    error: str


class OperationsCalls:
    """Calls of OperationsService on every process."""

    def __init__(self, home: Home, settings: BundleSettings) -> None:
        self._signer = Signer("host", home.identity_key("host").read_text())
        self._settings = settings

    def dead_letters(self, service: str | None) -> Iterator[DeadLetter]:
        """Returns what was set aside, service by service, the oldest first."""
        for one in _services(service):
            token = ""
            while True:
                request = operations_pb2.ListDeadLettersRequest(page_size=200, page_token=token)
                page = self._call(one, "ListDeadLetters", request)
                for letter in page.dead_letters:
                    yield DeadLetter(
                        service=one,
                        name=letter.name,
                        consumer=letter.consumer,
                        message_type=letter.message_type,
                        bytes=letter.payload_bytes,
                        error=letter.error,
                        attempts=letter.attempts,
                        create_time=letter.create_time.ToJsonString(),
                    )
                token = page.next_page_token
                if not token:
                    break

    def replay(self, service: str | None, names: list[str]) -> Iterator[Outcome]:
        """Has dead letters tried again: those named, or all."""
        for one in _services(service):
            token = ""
            while True:
                request = operations_pb2.ReplayDeadLettersRequest(names=names, page_token=token)
                answer = self._call(one, "ReplayDeadLetters", request)
                for outcome in answer.outcomes:
                    yield Outcome(one, outcome.name, outcome.error)
                token = answer.next_page_token
                if not token:
                    break

    def _call(self, service: str, method: str, request: Any) -> Any:
        options = [("grpc.enable_http_proxy", 0)]
        with grpc.insecure_channel(reached_at(self._settings.grpc_bind(service)), options=options) as channel:
            stub = operations_pb2_grpc.OperationsServiceStub(channel)
            try:
                return getattr(stub, method)(
                    request, metadata=[(IDENTITY_METADATA, self._signer.as_process())], timeout=_SECONDS
                )
            except grpc.RpcError as error:
                raise CallRefused(f"{service}: {reason_of(error)}") from None


def _services(service: str | None) -> tuple[str, ...]:
    return (service,) if service else SERVICES
