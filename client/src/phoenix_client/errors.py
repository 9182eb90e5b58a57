"""The exceptions of the client.

    PhoenixClientError                  any call that failed; .code, .message, .retryable
    ├── InvalidArgumentError            the request is invalid; .field_violations
    ├── NotFoundError                   no such post, or generation; .missing_post_ids
    ├── FailedPreconditionError         the server cannot do this as it is now
    ├── ResourceExhaustedError          the server has no room now; .retry_after_s
    ├── UnavailableError                no server there, or it is starting or shutting down
    ├── DeadlineExceededError           no reply within the time limit
    ├── CallCancelledError              the call was cancelled
    ├── UnauthenticatedError            credentials are missing or invalid
    ├── PermissionDeniedError           the call is not allowed
    ├── UnimplementedError              the server does not know the method
    ├── InternalError                   the server failed
    │   └── MalformedReplyError         its reply contradicts itself
    └── UnknownStatusError              any other status
    FileError(ValueError)               a file has a mistake; .name, .location, .problem
    ├── SequenceError                   a file of users' histories
    ├── PostsFileError                  a file of posts
    └── VectorsFileError                a file of vectors

Values that cannot be sent at all (an id of more than 64 bits, columns of different lengths) raise
`ValueError` where they are given, before any call.
"""

from __future__ import annotations

from typing import NamedTuple

import grpc


class FieldViolation(NamedTuple):
    """An invalid field.

    Attributes:
        field: Its path in the request, as in `user.action_masks[3]`.
        description: Why it is invalid.
    """

    field: str
    description: str


class PhoenixClientError(Exception):
    """A call that failed.

    Attributes:
        code: The gRPC status.
        message: What went wrong, as the server says it.
        retryable: Whether the same call may succeed a little later.
    """

    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    retryable: bool = False

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message


class InvalidArgumentError(PhoenixClientError):
    """The request is invalid and would fail on every server.

    Attributes:
        field_violations: The invalid fields. Empty if the server names none.
    """

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(
        self, message: str = "", *, field_violations: tuple[FieldViolation, ...] = ()
    ) -> None:
        super().__init__(message)
        self.field_violations = field_violations


class NotFoundError(PhoenixClientError):
    """The corpus does not hold a post, or no generation of a number is READY.

    Attributes:
        missing_post_ids: The posts that it does not hold. Empty if the server does not name them,
            or if a generation was not found.
    """

    code = grpc.StatusCode.NOT_FOUND

    def __init__(self, message: str = "", *, missing_post_ids: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.missing_post_ids = missing_post_ids


class FailedPreconditionError(PhoenixClientError):
    """The server cannot do this in its current state; the message says why.

    For example, its corpus is read-only, a generation cannot be loaded, or another one is being
    loaded.
    """

    code = grpc.StatusCode.FAILED_PRECONDITION


class ResourceExhaustedError(PhoenixClientError):
    """The queue, the corpus, the disk or the memory is full, or a message is too large.

    Attributes:
        retry_after_s: Seconds to wait before a retry, as the server asks. None if it does not.
        retryable: Whether the server asks to retry. It does not where waiting does not help: for a
            message that is too large, or a corpus that is full.
    """

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(
        self, message: str = "", *, retry_after_s: float | None = None, retryable: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.retryable = retryable


class UnavailableError(PhoenixClientError):
    """No server can be reached, or the server is starting or shutting down."""

    code = grpc.StatusCode.UNAVAILABLE
    retryable = True


class DeadlineExceededError(PhoenixClientError):
    """No reply came within the time limit.

    Not retryable: the same call is likely to take as long again. A change may take effect even so.
    """

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class CallCancelledError(PhoenixClientError):
    """The call was cancelled by the server, by a proxy, or by closing the client.

    Cancelling a task that awaits a call raises `asyncio.CancelledError` instead.
    """

    code = grpc.StatusCode.CANCELLED


class UnauthenticatedError(PhoenixClientError):
    """Credentials are missing or invalid."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDeniedError(PhoenixClientError):
    """The credentials or the settings of the server do not allow the call.

    For example, it only loads generations from the directories of `--allow-load`.
    """

    code = grpc.StatusCode.PERMISSION_DENIED


class UnimplementedError(PhoenixClientError):
    """The server does not know the method: it is another service, or an older version."""

    code = grpc.StatusCode.UNIMPLEMENTED


class InternalError(PhoenixClientError):
    """The server failed; the request is not the cause."""

    code = grpc.StatusCode.INTERNAL


class MalformedReplyError(InternalError):
    """The server's reply contradicts itself: columns of different lengths, for example."""


class UnknownStatusError(PhoenixClientError):
    """A status that the contract does not use; `code` has it."""

    def __init__(
        self, message: str = "", *, code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    ) -> None:
        super().__init__(message)
        self.code = code


class FileError(ValueError):
    """A file cannot be read, or has a mistake.

    Attributes:
        name: The file.
        location: The place in the file. Empty for the file as a whole.
        problem: What is wrong there.
    """

    def __init__(self, name: str, location: str, problem: str) -> None:
        super().__init__(name, location, problem)
        self.name = name
        self.location = location
        self.problem = problem

    def __str__(self) -> str:
        return ": ".join(part for part in (self.name, self.location, self.problem) if part)


class SequenceError(FileError):
    """A mistake in a file of users' histories; `location` is as in `history[3].post_id`."""


class PostsFileError(FileError):
    """A mistake in a file of posts; `location` is as in `line 3: labels[0]`."""


class VectorsFileError(FileError):
    """A mistake in a file of vectors; `location` is as in `line 3: [0]`."""
