"""What can go wrong, as one tree.

    PhoenixServerError
    ├── ArtifactError            a bundle or a corpus cannot be used
    │   ├── BundleError
    │   └── CorpusError
    ├── StartupError             the machine does not allow what was asked for (a port in use, ...)
    ├── InvalidRequestError      the caller's mistake; names the fields
    ├── PostNotFoundError        the corpus does not hold a post
    ├── CorpusFullError          the corpus has no room for more posts, or more labels
    ├── StorageError             the disk refuses to keep a change
    ├── ReadOnlyError            the corpus is served without taking changes
    ├── OverloadedError          no room in the queue, or no time before the deadline
    ├── DeadlineExceededError    the deadline passed before the device was free
    ├── GenerationError          a generation cannot be loaded or served
    │   └── BusyError            another is being loaded or activated
    ├── NoGenerationError        there is no such generation
    ├── NoMemoryError            a generation does not fit
    ├── ForbiddenError           the server was not told to allow it
    └── NotReadyError            the server loads or drains

`interceptors.py` maps the last twelve to status codes; the command line prints the others.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple


class PhoenixServerError(Exception):
    """Base of everything this server raises on purpose."""


class ArtifactError(PhoenixServerError):
    """A bundle or a corpus that cannot be used.

    Attributes:
        path: The file or directory at fault; text if it is not on a disk of this machine.
        reason: What is wrong with it, in words.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type["ArtifactError"], tuple[Path | str, str]]:
        return type(self), (self.path, self.reason)  # or another process cannot be told


class BundleError(ArtifactError):
    """A bundle that cannot be used."""


class CorpusError(ArtifactError):
    """A corpus, or a file to make one from, that cannot be used."""


class StartupError(PhoenixServerError):
    """The machine does not allow what was asked for."""


class Violation(NamedTuple):
    """A field of a request, and what is wrong with it."""

    field: str
    description: str


class InvalidRequestError(PhoenixServerError):
    """The caller's mistake.

    Attributes:
        violations: Every field at fault.
    """

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = tuple(violations)

    def within(self, field: str) -> "InvalidRequestError":
        """Return the same of a message that is a field of another."""
        return InvalidRequestError(
            [Violation(f"{field}.{v.field}", v.description) for v in self.violations]
        )


class PostNotFoundError(PhoenixServerError):
    """The corpus does not hold some of the posts asked for.

    Attributes:
        post_ids: Those posts.
    """

    def __init__(self, post_ids: Sequence[int]) -> None:
        listed = ", ".join(map(str, post_ids[:5])) + (", ..." if len(post_ids) > 5 else "")
        super().__init__(f"{len(post_ids)} of the posts are not in the corpus: {listed}")
        self.post_ids = tuple(post_ids)


class CorpusFullError(PhoenixServerError):
    """The corpus has no room for more posts, or for more labels."""


class StorageError(PhoenixServerError):
    """The disk refuses to keep a change."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{Path(path).name}: {reason}")


class ReadOnlyError(PhoenixServerError):
    """The corpus is served without taking changes."""


class OverloadedError(PhoenixServerError):
    """There is no room in the queue, or not enough time before the deadline.

    Attributes:
        retry_after_s: When to try again, in seconds from now.
    """

    def __init__(self, reason: str, *, retry_after_s: float) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class DeadlineExceededError(PhoenixServerError):
    """The call's deadline passed before the device was free."""


class GenerationError(PhoenixServerError):
    """A generation cannot be loaded, or not be served now; what serves goes on."""


class BusyError(GenerationError):
    """Another generation is being loaded or activated."""


class NoGenerationError(PhoenixServerError):
    """There is no such generation."""


class NoMemoryError(PhoenixServerError):
    """There is not enough memory for a generation."""


class ForbiddenError(PhoenixServerError):
    """The server was not told to allow what was asked for."""


class NotReadyError(PhoenixServerError):
    """The server loads or drains."""
