"""What can go wrong.

    PhoenixClientError                  any call that failed; .code, .message, .retryable
    ├── InvalidArgumentError            the request is at fault; .field_violations
    ├── NotFoundError                   no such post, or generation; .missing_post_ids
    ├── FailedPreconditionError         the server cannot do this as it is now
    ├── ResourceExhaustedError          the server has no room now; .retry_after_s
    ├── UnavailableError                no server there, or it loads or drains
    ├── DeadlineExceededError           no answer within the time given
    ├── CallCancelledError              the call was cancelled on its way
    ├── UnauthenticatedError            credentials are missing or not valid
    ├── PermissionDeniedError           it is not allowed
    ├── UnimplementedError              the server does not know the method
    ├── InternalError                   the server is at fault
    │   └── MalformedReplyError         its reply contradicts itself
    └── UnknownStatusError              any other status
    FileError(ValueError)               a file is at fault; .name, .location, .problem
    ├── SequenceError                   one of a user's history
    └── PostsFileError                  one of posts

Values that cannot be sent at all (an id of more than 64 bits, columns of different lengths) raise
`ValueError` where they are given, before any call.
"""

from __future__ import annotations

from typing import NamedTuple

import grpc


class FieldViolation(NamedTuple):
    """A field at fault.

    Attributes:
        field: Its path in the request, as in `user.action_masks[3]`.
        description: Why it is at fault.
    """

    field: str
    description: str


class PhoenixClientError(Exception):
    """A call that failed.

    Attributes:
        code: The gRPC status.
        message: What went wrong, in the server's words.
        retryable: Whether the same call may succeed when it is made again a little later.
    """

    code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    retryable: bool = False

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message


class InvalidArgumentError(PhoenixClientError):
    """The request is at fault, and fails wherever it is sent.

    Attributes:
        field_violations: The fields at fault. Empty if the server names none.
    """

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(
        self, message: str = "", *, field_violations: tuple[FieldViolation, ...] = ()
    ) -> None:
        super().__init__(message)
        self.field_violations = field_violations


class NotFoundError(PhoenixClientError):
    """The corpus does not hold a post, or the server no generation that is ready.

    Attributes:
        missing_post_ids: The posts it does not hold. Empty if the server does not say, or if it is
            about a generation.
    """

    code = grpc.StatusCode.NOT_FOUND

    def __init__(self, message: str = "", *, missing_post_ids: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.missing_post_ids = missing_post_ids


class FailedPreconditionError(PhoenixClientError):
    """The server cannot do this as it is now; the message says why.

    It serves its corpus read-only, for example, or a generation cannot be loaded, or another is
    being loaded.
    """

    code = grpc.StatusCode.FAILED_PRECONDITION


class ResourceExhaustedError(PhoenixClientError):
    """A queue, the corpus, the disk or the memory is full, or a message is larger than allowed.

    Attributes:
        retry_after_s: How many seconds the server asks to wait. None if it does not say.
        retryable: False where nothing suggests that waiting helps: a message stays too large, a
            corpus stays full.
    """

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(
        self, message: str = "", *, retry_after_s: float | None = None, retryable: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.retryable = retryable


class UnavailableError(PhoenixClientError):
    """No server can be reached, or the server loads or drains."""

    code = grpc.StatusCode.UNAVAILABLE
    retryable = True


class DeadlineExceededError(PhoenixClientError):
    """No answer came within the time given.

    Not retryable as it is: the same call is likely to take as long again. A change may take effect
    even so.
    """

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class CallCancelledError(PhoenixClientError):
    """The call was cancelled by the server, by what lies between, or by closing the client.

    Cancelling a task that awaits a call raises `asyncio.CancelledError`, as everywhere.
    """

    code = grpc.StatusCode.CANCELLED


class UnauthenticatedError(PhoenixClientError):
    """Credentials are missing or not valid."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDeniedError(PhoenixClientError):
    """The call is not allowed: by the credentials, or as the server was started.

    It loads generations from the directories of `--allow-load` alone.
    """

    code = grpc.StatusCode.PERMISSION_DENIED


class UnimplementedError(PhoenixClientError):
    """The server does not know the method: another service, or an older one."""

    code = grpc.StatusCode.UNIMPLEMENTED


class InternalError(PhoenixClientError):
    """The server is at fault."""

    code = grpc.StatusCode.INTERNAL


class MalformedReplyError(InternalError):
    """The server's reply contradicts itself: columns of different lengths, for example."""


class UnknownStatusError(PhoenixClientError):
    """A status that the contract does not provide for; `code` says which."""

    def __init__(
        self, message: str = "", *, code: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    ) -> None:
        super().__init__(message)
        self.code = code


class FileError(ValueError):
    """A file is at fault.

    Attributes:
        name: The file.
        location: Where in it. Empty for the file as a whole.
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
    """A file of a user's history is at fault; `location` is as in `history[3].actions["99"]`."""


class PostsFileError(FileError):
    """A file of posts is at fault; `location` is as in `line 3: labels[0]`."""
