"""A corpus directory that changes: its newest snapshot, and a journal of the changes since.

    CORPUS/manifest.json, posts.arrow     the corpus as built
    CORPUS/snapshots/NUMBER/              newer snapshots, by the number of their last change
    CORPUS/snapshots/NUMBER-TOWER/        snapshots with vectors of other towers
    CORPUS/journal.sqlite                 the changes since
    CORPUS/lock                           held by the server that writes changes

One server writes changes; others may serve the same directory read-only.
"""

import fcntl
import os
import re
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from phoenix_server.artifacts import MANIFEST, sha256
from phoenix_server.corpus.changes import History
from phoenix_server.corpus.disk.journal import Journal
from phoenix_server.corpus.disk.snapshot import Snapshot, open_snapshot
from phoenix_server.errors import CorpusError

T = TypeVar("T")

JOURNAL = "journal.sqlite"
SNAPSHOTS = "snapshots"
MAX_ATTEMPTS = 5  # to read a corpus while a server writes snapshots of it
_LOCK = "lock"
_SNAPSHOT = re.compile(r"(\d+)(-\w+)?")


class SnapshotName(NamedTuple):
    """The name of a snapshot's directory, and the number of its last change, to sort by."""

    sequence: int
    name: str


class Store:
    """The files of one corpus.

    Attributes:
        path: The directory.
        built: The corpus as built.
        identity: Identifies the corpus as built: the SHA-256 of its manifest.
        snapshot: The snapshot to load; the changes in the journal follow it.
        towers: The towers of all snapshots from which the journal is complete.
        read_only: Whether this process writes no changes.
    """

    def __init__(self, path: Path, *, read_only: bool = False, tower: str = "") -> None:
        """Open a corpus.

        Args:
            path: The directory.
            read_only: Write no changes; another server may.
            tower: Prefer a snapshot of these towers, if the journal holds all changes since it.

        Raises:
            CorpusError: It is not a corpus, is damaged, or another server writes its changes.
        """
        self.path = path
        self.read_only = read_only
        self.built = open_snapshot(path)
        self.identity = sha256(path / MANIFEST)
        self._lock = None if read_only else _lock(path)
        self._journal: Journal | None = None
        try:
            if not read_only:
                self._journal = Journal(self.journal_path, self.names)
            self.snapshot = self._choose_snapshot(tower)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the journal and release the lock."""
        if self._journal is not None:
            self._journal.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def journal(self) -> Journal:
        """The journal, to append to; not for a read-only store."""
        assert self._journal is not None
        return self._journal

    @property
    def journal_path(self) -> Path:
        """The path of the journal."""
        return self.path / JOURNAL

    @property
    def names(self) -> dict[str, str]:
        """The identity that the journal must have."""
        return {"corpus": self.identity}

    @property
    def is_overtaken(self) -> bool:
        """Whether this store is read-only and a server has written a newer snapshot since.

        The server may have removed the changes and snapshots that a reader of this one needs. A
        reader that misses some opens the corpus again, up to `MAX_ATTEMPTS` times.
        """
        return self.read_only and self._newest(self.named_snapshots()) > self._newest(self._named)

    def read_history(self, after: int) -> History:
        """Return the changes after number `after`; from any thread, while others are written.

        All of them are held in memory, as a server does when it starts.

        Raises:
            CorpusError: A change is missing or damaged.
        """
        history = self._read_journal(lambda journal: journal.read_history(after), History.of([]))
        self.check_last(after + history.changes)
        return history

    def check_last(self, last: int) -> None:
        """Check that no snapshot of a read-only store includes changes after number `last`.

        Raises:
            CorpusError: One does; the server that wrote it may have removed the changes.
        """
        newest = self._newest(self.named_snapshots())
        if self.read_only and newest > last:
            raise CorpusError(self.journal_path, f"lacks the changes {last + 1} to {newest}")

    def journal_posts(self) -> int:
        """Return how many posts the changes since the snapshot write and delete."""
        return self.journal.posts(self.snapshot.manifest.sequence)

    def adopt(self, snapshot: Snapshot) -> None:
        """Replace `snapshot` by another one of this corpus, unless that is older or removed."""
        folder = self.path / SNAPSHOTS
        newer = snapshot.manifest.sequence >= self.snapshot.manifest.sequence
        if newer and snapshot.path.parent == folder and snapshot.path.is_dir():
            self.snapshot = snapshot

    def list_snapshots(self) -> list[Snapshot]:
        """Return all snapshots, oldest first; the corpus as built is the first of them."""
        snapshots = [open_snapshot(self.path)]
        for _, name in self.named_snapshots():
            with suppress(CorpusError):  # removed meanwhile, or incomplete
                snapshots.append(open_snapshot(self.path / SNAPSHOTS / name))
        return snapshots

    def named_snapshots(self) -> list[SnapshotName]:
        """Return the names of all snapshots but the corpus as built, oldest first."""
        folder = self.path / SNAPSHOTS
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        matches = map(_SNAPSHOT.fullmatch, names)
        return sorted(SnapshotName(int(match[1]), match[0]) for match in matches if match)

    def snapshot_path(self, sequence: int, tower: str) -> Path:
        """Return the path of a snapshot through change `sequence` with vectors of `tower`."""
        own = tower == self.built.manifest.tower_fingerprint
        return self.path / SNAPSHOTS / (f"{sequence}" if own else f"{sequence}-{tower[:12]}")

    def _choose_snapshot(self, tower: str) -> Snapshot:
        """Return the newest snapshot of `tower` from which the journal is complete, or of any."""
        for _ in range(MAX_ATTEMPTS):
            self._named = self.named_snapshots()
            try:
                return self._choose_among(self._named, tower)
            except CorpusError:
                if not self.is_overtaken:
                    raise
        return self._choose_among(self._named, tower)

    def _choose_among(self, named: Sequence[SnapshotName], tower: str) -> Snapshot:
        folder, newest = self.path / SNAPSHOTS, self._newest(named)
        first = self._read_journal(Journal.first, None)
        oldest = newest if first is None else min(newest, first - 1)
        usable = [open_snapshot(folder / name) for sequence, name in named if sequence >= oldest]
        for snapshot in usable:
            if snapshot.manifest.built_as != self.identity:
                raise CorpusError(snapshot.path, f"is not a later state of {self.path}")
        if self.built.manifest.sequence >= oldest:
            usable.insert(0, self.built)
        self.towers = {each.manifest.tower_fingerprint for each in usable}
        preferred = [each for each in usable if each.manifest.tower_fingerprint == tower]
        return (preferred or usable)[-1]

    def _newest(self, named: Sequence[SnapshotName]) -> int:
        return named[-1].sequence if named else self.built.manifest.sequence

    def _read_journal(self, read: Callable[[Journal], T], default: T) -> T:
        """Read from the journal through a connection of its own.

        Returns:
            What `read` returns; `default` if no server has ever written changes of the corpus.
        """
        if not self.journal_path.exists():
            return default
        with closing(Journal(self.journal_path, self.names, read_only=True)) as journal:
            return read(journal)


def read_with_retries(path: Path, read: Callable[[Store], T], *, tower: str = "") -> T:
    """Read from a corpus, read-only, while a server may change it.

    Args:
        path: The directory.
        read: Reads from the store. It is called again, with the corpus reopened, if a server has
            removed something that it needs.
        tower: See `Store`.

    Raises:
        CorpusError: It is not a corpus, or is damaged.
    """
    for left in reversed(range(MAX_ATTEMPTS)):
        with closing(Store(path, read_only=True, tower=tower)) as store:
            try:
                return read(store)
            except (CorpusError, OSError):
                if not left or not store.is_overtaken:
                    raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def _lock(path: Path) -> int:
    """Lock a directory until the descriptor is closed or this process ends.

    Raises:
        CorpusError: Another process holds the lock, or the directory is not writable.
    """
    try:
        lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as exc:
        what = f"changes cannot be written ({exc.strerror}); --read-only serves it without"
        raise CorpusError(path, what) from exc
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(lock)
        what = "another server writes its changes; --read-only serves it without"
        raise CorpusError(path, what) from exc
    return lock
