"""A corpus directory that changes: its newest snapshot, and the journal of changes since.

    CORPUS/manifest.json, posts.arrow     as it was built
    CORPUS/snapshots/NUMBER/              newer ones, by the number of the last change they hold
    CORPUS/journal.sqlite                 the changes since
    CORPUS/lock                           held by the server that takes changes

One server takes changes; others may serve the same directory without.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from phoenix_server.artifacts import MANIFEST, sha256
from phoenix_server.corpus.changes import Change
from phoenix_server.corpus.journal import Journal
from phoenix_server.corpus.snapshot import Snapshot, open_snapshot
from phoenix_server.errors import CorpusError

JOURNAL = "journal.sqlite"
SNAPSHOTS = "snapshots"
_LOCK = "lock"


class Store:
    """What is kept of one corpus.

    Attributes:
        path: The directory.
        built: The corpus as it was built.
        identity: Names the corpus as it was built: the SHA-256 of its manifest.
        snapshot: The newest.
        read_only: Whether it takes no changes.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open a corpus.

        Args:
            path: The directory.
            read_only: Take no changes; other servers may.

        Raises:
            CorpusError: It is not a corpus, is damaged, or another server takes its changes.
        """
        self.path = path
        self.read_only = read_only
        self.built = built = open_snapshot(path)
        self.identity = sha256(path / MANIFEST)
        self._lock = None if read_only else _lock(path)
        try:
            self.snapshot = _newest(path) or built
            if self.snapshot is not built and self.snapshot.manifest.built_as != self.identity:
                raise CorpusError(self.snapshot.path, f"is not a later state of {path}")
            self._journal = self._open_journal()
        except BaseException:
            self.close()
            raise

    def changes(self) -> Iterator[tuple[int, Change]]:
        """Yield the changes since the snapshot, with their numbers.

        Raises:
            CorpusError: One is missing, or damaged.
        """
        if self._journal is not None:
            yield from self._journal.read(self.snapshot.manifest.sequence)

    def journal_posts(self) -> int:
        """Return how many posts the changes since the snapshot write and delete."""
        return self.journal.posts(self.snapshot.manifest.sequence)

    @property
    def journal_path(self) -> Path:
        """Where the journal is."""
        return self.path / JOURNAL

    @property
    def names(self) -> dict[str, str]:
        """What the journal must belong to."""
        return {"corpus": self.identity}

    @property
    def journal(self) -> Journal:
        """Takes changes; there is none if this is `read_only`."""
        assert self._journal is not None
        return self._journal

    def close(self) -> None:
        """Let another server have it."""
        with suppress(AttributeError):
            if self._journal is not None:
                self._journal.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _open_journal(self) -> Journal | None:
        if self.read_only and not self.journal_path.exists():
            return None
        return Journal(self.journal_path, self.names, read_only=self.read_only)


def _newest(path: Path) -> Snapshot | None:
    """Return the newest snapshot beside the corpus as it was built."""
    folder = path / SNAPSHOTS
    if not folder.is_dir():
        return None
    numbers = [int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()]
    return open_snapshot(folder / str(max(numbers))) if numbers else None


def _lock(path: Path) -> int:
    """Take the lock of a directory; it is free again when this process has ended.

    Raises:
        CorpusError: Another process has it, or the directory cannot be written.
    """
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        raise CorpusError(
            path,
            f"changes cannot be written there ({exc.strerror}); --read-only serves it without",
        ) from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(lock)
        raise CorpusError(
            path, "another server takes its changes; --read-only serves it without"
        ) from exc
    return lock
