"""Turn a gRPC status into an exception."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TypeVar, cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import BadRequest, ResourceInfo, RetryInfo

from phoenix_client import errors
from phoenix_client.errors import FieldViolation, PhoenixClientError
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb2

_DETAILS_KEY = "grpc-status-details-bin"
_DECIMAL_ID = re.compile(r"[0-9]{1,20}")
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_CLASSES: dict[grpc.StatusCode, type[PhoenixClientError]] = {
    each.code: each
    for each in vars(errors).values()
    if isinstance(each, type) and each.__base__ is PhoenixClientError
}

_Detail = TypeVar("_Detail", bound=Message)


@contextmanager
def client_errors() -> Generator[None, None, None]:
    """Raise the client's exception for a call in the block, sync or async, that fails."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from error


def from_rpc_error(error: grpc.RpcError) -> PhoenixClientError:
    """Return the exception that stands for a failed call, sync or async."""
    status = _read_status(error)
    return _exception(
        error.code(),
        error.details() or "",
        violations=[v for d in _details(status, BadRequest) for v in d.field_violations],
        missing=[detail.resource_name for detail in _details(status, ResourceInfo)],
        # gRPC itself gives RESOURCE_EXHAUSTED, without details, to a message that is too large.
        delays=[detail.retry_delay for detail in _details(status, RetryInfo)],
    )


def from_request_status(status: retrieval_pb2.RequestStatus) -> PhoenixClientError:
    """Return the exception that stands for a failed request of a batch."""
    return _exception(
        _CODES.get(status.code, grpc.StatusCode.UNKNOWN),
        status.message,
        violations=status.field_violations,
        delays=[status.retry_delay] if status.HasField("retry_delay") else [],
    )


def _exception(
    code: grpc.StatusCode,
    message: str,
    *,
    violations: Iterable[BadRequest.FieldViolation | retrieval_pb2.FieldViolation],
    missing: Iterable[str] = (),
    delays: Sequence[Duration],
) -> PhoenixClientError:
    match code:
        case grpc.StatusCode.INVALID_ARGUMENT:
            fields = tuple(FieldViolation(v.field, v.description) for v in violations)
            return errors.InvalidArgumentError(message, field_violations=fields)
        case grpc.StatusCode.NOT_FOUND:
            post_ids = tuple(int(name) for name in missing if _DECIMAL_ID.fullmatch(name))
            return errors.NotFoundError(message, missing_post_ids=post_ids)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            retry_after_s = delays[0].seconds + delays[0].nanos / 1e9 if delays else None
            return errors.ResourceExhaustedError(
                message, retry_after_s=retry_after_s, retryable=bool(delays)
            )
        case _ if code in _CLASSES:
            return _CLASSES[code](message)
        case _:
            return errors.UnknownStatusError(message, code=code)


def _read_status(error: grpc.RpcError) -> status_pb2.Status:
    """Return the status with its details, or an empty one if there is none or it is damaged."""
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
