"""Exceptions as gRPC statuses: a code, a message and details, all of bounded size."""

import logging
from collections.abc import Iterator

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from phoenix_server import errors
from phoenix_server.errors import InvalidRequestError, OverloadedError, Violation, escape_controls

_log = logging.getLogger(__name__)

# Message and details travel in trailers, and peers refuse more than 8 KiB of them. The message goes
# twice: percent-encoded, and among the details, which are base64.
_MAX_TRAILERS = 7800
_MAX_MESSAGE = 1024
_MAX_DESCRIPTION = 256
_MAX_FIELD = 128
_MAX_DETAILS = 40
_ANY_BYTES = 64  # of the type's name around a detail

_CODES = {
    InvalidRequestError: code_pb2.INVALID_ARGUMENT,
    errors.PostNotFoundError: code_pb2.NOT_FOUND,
    errors.CorpusFullError: code_pb2.RESOURCE_EXHAUSTED,
    errors.StorageError: code_pb2.RESOURCE_EXHAUSTED,
    errors.ReadOnlyError: code_pb2.FAILED_PRECONDITION,
    OverloadedError: code_pb2.RESOURCE_EXHAUSTED,
    errors.DeadlineExceededError: code_pb2.DEADLINE_EXCEEDED,
    errors.GenerationError: code_pb2.FAILED_PRECONDITION,  # and BusyError
    errors.NoGenerationError: code_pb2.NOT_FOUND,
    errors.NoMemoryError: code_pb2.RESOURCE_EXHAUSTED,
    errors.ForbiddenError: code_pb2.PERMISSION_DENIED,
    errors.NotReadyError: code_pb2.UNAVAILABLE,
    errors.UnimplementedError: code_pb2.UNIMPLEMENTED,
}


def to_status(exc: Exception, what: str = "a call") -> status_pb2.Status:
    """Return the status for an exception.

    That of an unexpected one hides the details, which go to the log with a traceback.

    Args:
        exc: The exception.
        what: What has failed, for the log.
    """
    code = next((code for kind, code in _CODES.items() if isinstance(exc, kind)), None)
    if code is None:
        _log.error("%s failed", what, exc_info=exc)
        message = "internal error; the server's log says more"
        return status_pb2.Status(code=code_pb2.INTERNAL, message=message)
    message = cut(str(exc), _MAX_MESSAGE)
    status = status_pb2.Status(code=code, message=message)
    room = (_MAX_TRAILERS - _header_bytes(message)) * 3 // 4 - len(message.encode())
    for detail in _details(exc, room):
        status.details.add().Pack(detail)
    return status


def bounded_violations(exc: InvalidRequestError) -> Iterator[Violation]:
    """Yield the first violations, cut to a bounded size."""
    for field, description in exc.violations[:_MAX_DETAILS]:
        yield Violation(cut(field, _MAX_FIELD), cut(description, _MAX_DESCRIPTION))


def retry_delay(exc: Exception) -> Duration | None:
    """Return when to retry: after at least a millisecond. None: to wait does not help."""
    if not isinstance(exc, OverloadedError) or exc.retry_after_s is None:
        return None
    delay = Duration()
    delay.FromMilliseconds(max(1, round(exc.retry_after_s * 1e3)))
    return delay


def cut(text: str, most: int) -> str:
    """Return the beginning of a text that takes at most `most` bytes of a header.

    Characters that end a line or control a terminal are escaped: much of the text may be a
    caller's.
    """
    if len(text) <= most and text.isascii() and text.isprintable() and "%" not in text:
        return text
    shown = escape_controls(text[:most])
    if len(text) <= most and _header_bytes(shown) <= most:
        return shown
    room = most - _header_bytes("…")
    for end, character in enumerate(shown):
        room -= _header_bytes(character)
        if room < 0:
            return f"{shown[:end]}…"
    return f"{shown}…"


def _header_bytes(text: str) -> int:
    """Return the size of a text as a `grpc-message`, where %XX stands for some bytes."""
    return sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in text.encode())


def _details(exc: Exception, room: int) -> Iterator[Message]:
    """Yield the details of an error; those that are of any length take at most `room` bytes."""
    if isinstance(exc, InvalidRequestError):
        request = error_details_pb2.BadRequest()
        room -= _ANY_BYTES
        for field, description in bounded_violations(exc):
            request.field_violations.add(field=field, description=description)
            if request.ByteSize() > room:
                del request.field_violations[-1]
                break
        yield request
    elif isinstance(exc, errors.PostNotFoundError):
        for post_id in exc.post_ids[:_MAX_DETAILS]:
            yield error_details_pb2.ResourceInfo(
                resource_type="post", resource_name=str(post_id), description="not in the corpus"
            )
    elif (delay := retry_delay(exc)) is not None:
        yield error_details_pb2.RetryInfo(retry_delay=delay)
