"""The exceptions that the server raises on purpose, as one tree.

    PhoenixServerError
    ├── ArtifactError            a bundle or a corpus cannot be used
    │   ├── BundleError
    │   └── CorpusError
    ├── StartupError             the server cannot start on this machine (a port in use, ...)
    ├── FatalError               a part of the server has ended, and the server ends with it
    ├── InvalidRequestError      the request is invalid; names the fields
    ├── PostNotFoundError        a post is not in the corpus
    ├── CorpusFullError          the corpus has no room for more posts or labels
    ├── StorageError             a change cannot be written to the disk
    ├── ReadOnlyError            the corpus is served read-only
    ├── OverloadedError          no room in the queue, or no time before the deadline
    ├── DeadlineExceededError    the deadline passed before the device was free
    ├── GenerationError          a generation cannot be loaded or activated
    │   └── BusyError            another one is being loaded or activated
    ├── NoGenerationError        the generation does not exist
    ├── NoMemoryError            a generation does not fit into memory
    ├── ForbiddenError           the server's configuration does not allow the request
    ├── UnimplementedError       a method of health or reflection that does not exist here
    └── NotReadyError            the server is loading or shutting down

`service/status.py` maps all from InvalidRequestError on to status codes; the command line
prints the others.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")


def escape_controls(text: str) -> str:
    """Escape what ends a line or controls a terminal: part of the text may come from a caller."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


class PhoenixServerError(Exception):
    """Base of all exceptions below."""


class ArtifactError(PhoenixServerError):
    """A bundle or a corpus cannot be used.

    Attributes:
        path: The file or directory at fault; a string if it is a URI.
        reason: What is wrong with it.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["ArtifactError"], tuple[Path | str, str]]:
        return type(self), (self.path, self.reason)  # pickling passes it to other processes


class BundleError(ArtifactError):
    """A bundle cannot be used."""


class CorpusError(ArtifactError):
    """A corpus, or a file to build one from, cannot be used."""


class StartupError(PhoenixServerError):
    """The server cannot start on this machine as it is configured."""


class FatalError(PhoenixServerError):
    """A part of the server has ended that nothing replaces."""


class Violation(NamedTuple):
    """One field of a request and what is wrong with it."""

    field: str
    description: str


class InvalidRequestError(PhoenixServerError):
    """The request is invalid.

    Attributes:
        violations: One for each invalid field.
    """

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)

    def within(self, field: str) -> "InvalidRequestError":
        """Return the error for a message in which this one is the given field."""
        inner = self.violations
        return InvalidRequestError([Violation(f"{field}.{v.field}", v.description) for v in inner])


class PostNotFoundError(PhoenixServerError):
    """Some posts of the request are not in the corpus.

    Attributes:
        post_ids: The missing posts.
    """

    def __init__(self, post_ids: Sequence[int]) -> None:
        listed = ", ".join(map(str, post_ids[:5])) + (", ..." if len(post_ids) > 5 else "")
        super().__init__(f"{len(post_ids)} of the posts are not in the corpus: {listed}")
        self.post_ids = tuple(post_ids)


class CorpusFullError(PhoenixServerError):
    """The corpus has no room for more posts or labels."""


class StorageError(PhoenixServerError):
    """A change cannot be written to the disk.

    Attributes:
        path: The file or directory at fault; the message has its name only.
        reason: What is wrong with it.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{Path(path).name}: {reason}")
        self.path = path
        self.reason = reason


class ReadOnlyError(PhoenixServerError):
    """The corpus is served read-only."""


class OverloadedError(PhoenixServerError):
    """The queue has no room, or the deadline is too close.

    Attributes:
        retry_after_s: Seconds after which a retry may succeed. None: only a later deadline helps.
    """

    def __init__(self, reason: str, *, retry_after_s: float | None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class DeadlineExceededError(PhoenixServerError):
    """The call's deadline passed before the device was free."""


class GenerationError(PhoenixServerError):
    """A generation cannot be loaded or activated; the active one keeps serving."""


class BusyError(GenerationError):
    """Another generation is being loaded or activated."""


class NoGenerationError(PhoenixServerError):
    """The generation does not exist."""


class NoMemoryError(PhoenixServerError):
    """A generation does not fit into memory."""


class ForbiddenError(PhoenixServerError):
    """The server's configuration does not allow the request."""


class UnimplementedError(PhoenixServerError):
    """A method of health or reflection that this server does not have."""


class NotReadyError(PhoenixServerError):
    """The server is loading or shutting down."""
