"""From a gRPC status to an exception."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import TypeVar, cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from phoenix_client import errors
from phoenix_client.errors import FieldViolation, PhoenixClientError
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb2

_DETAILS_KEY = "grpc-status-details-bin"
_DECIMAL_ID = re.compile(r"[0-9]{1,20}")
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_PLAIN: dict[grpc.StatusCode, type[PhoenixClientError]] = {
    cls.code: cls
    for cls in (
        errors.FailedPreconditionError,
        errors.UnavailableError,
        errors.DeadlineExceededError,
        errors.CallCancelledError,
        errors.UnauthenticatedError,
        errors.PermissionDeniedError,
        errors.UnimplementedError,
        errors.InternalError,
    )
}

_Detail = TypeVar("_Detail", bound=Message)


@contextmanager
def client_errors() -> Generator[None, None, None]:
    """Raise the exception that stands for it where a call in the block, sync or async, fails."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


def from_rpc_error(error: grpc.RpcError) -> PhoenixClientError:
    """Return the exception that stands for a failed call, sync or async."""
    message = error.details() or ""
    status = _read_status(error)
    match error.code():
        case grpc.StatusCode.INVALID_ARGUMENT:
            return errors.InvalidArgumentError(message, field_violations=_violations(status))
        case grpc.StatusCode.NOT_FOUND:
            return errors.NotFoundError(message, missing_post_ids=_missing_post_ids(status))
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            # gRPC itself gives this status, without details, to a message that is too large.
            retry_after_s = _retry_after_s(status)
            return errors.ResourceExhaustedError(
                message, retry_after_s=retry_after_s, retryable=retry_after_s is not None
            )
        case code:
            return _without_details(code, message)


def from_request_status(status: retrieval_pb2.RequestStatus) -> PhoenixClientError:
    """Return the exception that stands for a failed request of a batch."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT:
            return errors.InvalidArgumentError(
                status.message,
                field_violations=tuple(
                    FieldViolation(v.field, v.description) for v in status.field_violations
                ),
            )
        case grpc.StatusCode.NOT_FOUND:
            return errors.NotFoundError(status.message)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            told = status.HasField("retry_delay")
            return errors.ResourceExhaustedError(
                status.message,
                retry_after_s=_seconds(status.retry_delay) if told else None,
                retryable=told,
            )
        case _:
            return _without_details(code, status.message)


def _without_details(code: grpc.StatusCode, message: str) -> PhoenixClientError:
    if code in _PLAIN:
        return _PLAIN[code](message)
    return errors.UnknownStatusError(message, code=code)


def _read_status(error: grpc.RpcError) -> status_pb2.Status:
    """Return the status with its details; an empty one where there is none to be read."""
    metadata = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    for key, value in metadata:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            try:
                return status_pb2.Status.FromString(value)
            except DecodeError:
                break
    return status_pb2.Status()


def _details(status: status_pb2.Status, kind: type[_Detail]) -> list[_Detail]:
    found: list[_Detail] = []
    for packed in status.details:
        detail = kind()
        try:
            if packed.Unpack(detail):
                found.append(detail)
        except DecodeError:
            continue
    return found


def _violations(status: status_pb2.Status) -> tuple[FieldViolation, ...]:
    return tuple(
        FieldViolation(violation.field, violation.description)
        for detail in _details(status, error_details_pb2.BadRequest)
        for violation in detail.field_violations
    )


def _missing_post_ids(status: status_pb2.Status) -> tuple[int, ...]:
    names = [d.resource_name for d in _details(status, error_details_pb2.ResourceInfo)]
    return tuple(int(name) for name in names if _DECIMAL_ID.fullmatch(name))


def _retry_after_s(status: status_pb2.Status) -> float | None:
    for detail in _details(status, error_details_pb2.RetryInfo):
        return _seconds(detail.retry_delay)
    return None


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
