"""Errors that cross the wire intact: a status, a machine reason, the fields at fault.

Only what a caller may want to tell apart has a reason; everything else is INTERNAL and tells nothing. Reasons are part
of the contract and are never renamed. Wording for people is made at the gateway.
"""

from collections.abc import Sequence
from typing import ClassVar

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

DOMAIN = "opennotice"
STATUS_DETAILS = "grpc-status-details-bin"


class ServiceError(Exception):
    """An error with a meaning for the caller."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL

    def __init__(self, reason: str, message: str, *, fields: Sequence[tuple[str, str]] = (), **metadata: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.fields = list(fields)
        self.metadata = metadata


class InvalidArgument(ServiceError):
    """What was sent is wrong; `fields` names each fault."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(ServiceError):
    """There is none, or it belongs to another agency."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(ServiceError):
    """Something that must be unique is taken."""

    code = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(ServiceError):
    """The state of the thing does not allow it."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(ServiceError):
    """Somebody else changed it meanwhile."""

    code = grpc.StatusCode.ABORTED


class PermissionDenied(ServiceError):
    """The caller is known and may not."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Unauthenticated(ServiceError):
    """The caller is not known."""

    code = grpc.StatusCode.UNAUTHENTICATED


class ResourceExhausted(ServiceError):
    """Too much at once."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(ServiceError):
    """Something needed is away; the call may be repeated."""

    code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(ServiceError):
    """It took longer than the caller or the service allows."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


_BY_CODE: dict[grpc.StatusCode, type[ServiceError]] = {cls.code: cls for cls in ServiceError.__subclasses__()}


class Faults:
    """Collects what is wrong with a request, so that the caller is told everything at once."""

    def __init__(self) -> None:
        self.fields: list[tuple[str, str]] = []

    def add(self, field: str, message: str) -> None:
        """Notes one wrong field."""
        self.fields.append((field, message))

    def stop(self) -> None:
        """Raises InvalidArgument when anything was noted."""
        if self.fields:
            told = "; ".join(f"{field}: {message}" for field, message in self.fields)
            raise InvalidArgument("FIELDS_INVALID", told, fields=self.fields)


def invalid(field: str, message: str, reason: str = "FIELDS_INVALID") -> InvalidArgument:
    """Builds the error for one wrong field."""
    return InvalidArgument(reason, f"{field}: {message}", fields=[(field, message)])


def to_status(error: ServiceError) -> status_pb2.Status:
    """Builds the status message that travels in the trailing metadata."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    details = [_packed(info)]
    if error.fields:
        violations = [
            error_details_pb2.BadRequest.FieldViolation(field=field, description=message)
            for field, message in error.fields
        ]
        details.append(_packed(error_details_pb2.BadRequest(field_violations=violations)))
    number = getattr(code_pb2, error.code.name)
    return status_pb2.Status(code=number, message=error.message, details=details)


def from_rpc_error(error: grpc.aio.AioRpcError) -> ServiceError:
    """Turns what a stub raised back into the error that the service meant."""
    cls = _BY_CODE.get(error.code(), ServiceError)
    reason, metadata, fields = error.code().name, {}, []
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS:
            for detail in status_pb2.Status.FromString(value).details:
                info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
                if detail.Unpack(info):
                    reason, metadata = info.reason, dict(info.metadata)
                elif detail.Unpack(bad):
                    fields = [(violation.field, violation.description) for violation in bad.field_violations]
    found = cls(reason, error.details() or reason, fields=fields, **metadata)
    if cls is ServiceError:
        found.__dict__["code"] = error.code()
    return found


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
