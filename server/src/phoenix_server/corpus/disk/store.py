"""A corpus directory that changes: its newest snapshot, and the journal of changes since.

    CORPUS/manifest.json, posts.arrow     as it was built
    CORPUS/snapshots/NUMBER/              newer ones, by the number of the last change they hold
    CORPUS/snapshots/NUMBER-TOWER/        those with vectors of other towers
    CORPUS/journal.sqlite                 the changes since
    CORPUS/lock                           held by the server that takes changes

One server takes changes; others may serve the same directory without.
"""

import fcntl
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from phoenix_server.artifacts import MANIFEST, sha256
from phoenix_server.corpus.changes import Change, History
from phoenix_server.corpus.disk.journal import Journal
from phoenix_server.corpus.disk.snapshot import Snapshot, open_snapshot
from phoenix_server.errors import CorpusError

T = TypeVar("T")

JOURNAL = "journal.sqlite"
SNAPSHOTS = "snapshots"
MAX_ATTEMPTS = 5  # of a corpus that is only read, while a server writes snapshots of it
_LOCK = "lock"
_SNAPSHOT = re.compile(r"(\d+)(-\w+)?")


class Named(NamedTuple):
    """A directory of a snapshot: the last change that it holds comes first, to sort them."""

    sequence: int
    name: str


class Store:
    """What is kept of one corpus.

    Attributes:
        path: The directory.
        built: The corpus as it was built.
        identity: Names the corpus as it was built: the SHA-256 of its manifest.
        snapshot: The one to begin with; `changes` come after it.
        towers: Those of all snapshots that could be begun with.
        read_only: Whether it takes no changes.
    """

    def __init__(self, path: Path, *, read_only: bool = False, tower: str = "") -> None:
        """Open a corpus.

        Args:
            path: The directory.
            read_only: Take no changes; other servers may.
            tower: Begin with a snapshot of these towers, if all changes since it are there.

        Raises:
            CorpusError: It is not a corpus, is damaged, or another server takes its changes.
        """
        self.path = path
        self.read_only = read_only
        self.built = open_snapshot(path)
        self.identity = sha256(path / MANIFEST)
        self._lock = None if read_only else _lock(path)
        try:
            self._journal = self._open_journal()
            self.snapshot = self._choose_snapshot(tower)
            if self._journal is not None and read_only:  # or SQLite keeps what it has read
                self._journal.close()
                self._journal = self._open_journal()
        except BaseException:
            self.close()
            raise

    @property
    def is_overtaken(self) -> bool:
        """Whether a server has written a newer snapshot since this was opened.

        It may have dropped changes and snapshots that are needed to begin with this one. Whoever
        only reads and finds something missing opens the corpus again, `MAX_ATTEMPTS` times at
        most.
        """
        return self.read_only and self._newest(self.named_snapshots()) > self._newest(self._named)

    def changes(self) -> Iterator[tuple[int, Change]]:
        """Yield the changes since the snapshot, with their numbers.

        Raises:
            CorpusError: One is missing, or damaged.
        """
        last = self.snapshot.manifest.sequence
        if self._journal is not None:
            for number, change in self._journal.read(last):
                last = number
                yield number, change
        self.check_last(last)

    def history(self) -> History:
        """Return the changes since the snapshot, together.

        Raises:
            CorpusError: One is missing, or damaged.
        """
        began = self.snapshot.manifest.sequence
        nothing = History.of([])
        history = nothing if self._journal is None else self._journal.read_history(began)
        self.check_last(began + history.changes)
        return history

    def check_last(self, last: int) -> None:
        """Check that a change is the last, for one who only reads.

        Raises:
            CorpusError: A server has written a snapshot of later ones, and may have dropped them.
        """
        newest = self._newest(self.named_snapshots())
        if self.read_only and newest > last:
            raise CorpusError(self.journal_path, f"lacks the changes {last + 1} to {newest}")

    def journal_posts(self) -> int:
        """Return how many posts the changes since the snapshot write and delete."""
        return self.journal.posts(self.snapshot.manifest.sequence)

    def adopt(self, snapshot: Snapshot) -> None:
        """Begin with another snapshot from now on, if it is one of this corpus and as new."""
        folder = self.path / SNAPSHOTS
        newer = snapshot.manifest.sequence >= self.snapshot.manifest.sequence
        if newer and snapshot.path.parent == folder and snapshot.path.is_dir():
            self.snapshot = snapshot

    def named_snapshots(self) -> list[Named]:
        """Return the snapshots besides the corpus as it was built, the oldest first."""
        folder = self.path / SNAPSHOTS
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        matches = map(_SNAPSHOT.fullmatch, names)
        return sorted(Named(int(match[1]), match[0]) for match in matches if match)

    def snapshot_path(self, sequence: int, tower: str) -> Path:
        """Return where a snapshot belongs."""
        own = tower == self.built.manifest.tower_fingerprint
        return self.path / SNAPSHOTS / (f"{sequence}" if own else f"{sequence}-{tower[:12]}")

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

    def _choose_snapshot(self, tower: str) -> Snapshot:
        """Return the newest snapshot of some towers that can be brought up to date, or of any."""
        for _ in range(MAX_ATTEMPTS):
            self._named = self.named_snapshots()
            try:
                return self._choose_among(self._named, tower)
            except CorpusError:
                if not self.is_overtaken:
                    raise
        return self._choose_among(self._named, tower)

    def _newest(self, named: Sequence[Named]) -> int:
        return named[-1].sequence if named else self.built.manifest.sequence

    def _choose_among(self, named: Sequence[Named], tower: str) -> Snapshot:
        folder, newest = self.path / SNAPSHOTS, self._newest(named)
        first = None if self._journal is None else self._journal.first()
        enough = newest if first is None else min(newest, first - 1)
        found = [open_snapshot(folder / name) for sequence, name in named if sequence >= enough]
        if self.built.manifest.sequence >= enough:
            found.insert(0, self.built)
        for snapshot in found:
            if snapshot is not self.built and snapshot.manifest.built_as != self.identity:
                raise CorpusError(snapshot.path, f"is not a later state of {self.path}")
        self.towers = {each.manifest.tower_fingerprint for each in found}
        fitting = [each for each in found if each.manifest.tower_fingerprint == tower]
        return (fitting or found)[-1]

    def _open_journal(self) -> Journal | None:
        if self.read_only and not self.journal_path.exists():
            return None
        return Journal(self.journal_path, self.names, read_only=self.read_only)


def read_with_retries(path: Path, read: Callable[[Store], T], *, tower: str = "") -> T:
    """Read from a corpus, read-only, while a server may change it.

    Args:
        path: The directory.
        read: What to read. It is called again, with the corpus opened anew, if a server has dropped
            meanwhile what it needed.
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
    raise AssertionError("it is opened at least once")


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
