"""A corpus directory that changes: its newest snapshot, and a journal of the changes since.

    CORPUS/manifest.json, posts.arrow     the corpus as built
    CORPUS/snapshots/NUMBER/              newer snapshots, by the number of their last change
    CORPUS/snapshots/NUMBER-TOWER/        snapshots with vectors of other towers
    CORPUS/journal.sqlite                 the changes since
    CORPUS/journal.seal                   which of them was acknowledged last
    CORPUS/lock                           held by the server that writes changes
    CORPUS/lost/EPOCH/                    what a repair has given up

One server writes changes; others may serve the same directory read-only.
"""

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

from phoenix_server.artifacts import MANIFEST, sha256
from phoenix_server.corpus.changes import Change, History
from phoenix_server.corpus.disk.acknowledged import (
    REPAIR,
    check_files,
    check_journal,
    check_sealed,
)
from phoenix_server.corpus.disk.journal import JOURNAL, Journal
from phoenix_server.corpus.disk.lock import lock, note_written, unlock
from phoenix_server.corpus.disk.seal import SEAL, Seal, SealFile, read_seal
from phoenix_server.corpus.disk.snapshot import (
    SNAPSHOTS,
    Snapshot,
    SnapshotName,
    list_snapshot_names,
    open_snapshot,
)
from phoenix_server.errors import CorpusError, StorageError

T = TypeVar("T")

MAX_ATTEMPTS = 5  # to read a corpus while a server writes snapshots of it


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
            StorageError: The disk refuses.
        """
        self.path = path
        self.read_only = read_only
        self.built = open_snapshot(path)
        self.identity = sha256(path / MANIFEST)
        self._lock = [] if read_only else lock(path)
        self._journal: Journal | None = None
        self._seal: SealFile | None = None
        self._failure: StorageError | None = None
        try:
            seal = check_files(path, lambda: self._read_journal(Journal.first, None) is not None)
            self.snapshot = self._choose_snapshot(tower)
            if not read_only:
                self.check(seal)  # before SQLite tidies up what it takes for whole
                self._journal = Journal(self.journal_path, self.names)
                self._seal = self._open_seal(self._journal, seal)
        except BaseException:
            self.close()
            raise

    def check(self, seal: Seal | None) -> None:
        """Check that the journal holds what a seal says, without writing to it.

        Raises:
            CorpusError: Changes that were acknowledged are missing, or others.
        """
        if seal is not None:
            start = self.snapshot.manifest.sequence
            self._read_journal(lambda found: check_journal(self.path, found, seal, start), None)

    def close(self) -> None:
        """Close the journal and release the lock."""
        if self._seal is not None:
            with suppress(StorageError):
                self._seal.write(self._seal.seal._replace(clean=True))
            self._seal.close()
            self._seal = None
        if self._journal is not None:
            self._journal.close()
        unlock(self._lock)

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
    def seal_path(self) -> Path:
        """The path of the journal's seal."""
        return self.path / SEAL

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

    def append(self, first: int, changes: Sequence[Change]) -> None:
        """Add changes to the journal, numbered from `first` on; then they are durable, and sealed.

        Raises:
            StorageError: Writing fails, or a file of the corpus was removed meanwhile; the changes
                must not be acknowledged. If they are in the journal all the same, all later ones
                are refused, too.
        """
        assert self._seal is not None
        self.check_working()
        if not self.snapshot.path.is_dir():
            raise StorageError(self.snapshot.path, "was removed while this server needs it")
        seal = self._seal.seal
        chain = self.journal.append(first, changes, seal.chain)
        try:
            self.journal.check_place()
            self._seal.write(seal._replace(last=first + len(changes) - 1, chain=chain))
        except StorageError as exc:
            what = f"{exc.reason}; a change may be kept that was not acknowledged"
            self._failure = StorageError(exc.path, f"{what}; restart the server")
            raise self._failure from exc

    def check_working(self) -> None:
        """Check that the journal holds what was acknowledged, and no more.

        Raises:
            StorageError: An earlier `append` could not tell.
        """
        if self._failure is not None:
            raise self._failure

    def read_history(self, after: int) -> History:
        """Return the changes after number `after`; from any thread, while others are written.

        All of them are held in memory, as a server does when it starts.

        Raises:
            CorpusError: A change is missing or damaged.
        """
        seal = read_seal(self.seal_path)
        history = self._read_journal(lambda journal: journal.read_history(after), History.of([]))
        self.check_last(after + history.changes)
        if seal is not None:
            last = max(after + history.changes, self.snapshot.manifest.sequence)
            check_sealed(self.path, seal, last)
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
        return list_snapshot_names(self.path)

    def snapshot_path(self, sequence: int, tower: str) -> Path:
        """Return the path of a snapshot through change `sequence` with vectors of `tower`."""
        own = tower == self.built.manifest.tower_fingerprint
        return self.path / SNAPSHOTS / (f"{sequence}" if own else f"{sequence}-{tower[:12]}")

    def _open_seal(self, journal: Journal, seal: Seal | None) -> SealFile:
        """Seal the journal as it is, for the changes of this server."""
        last = max(journal.last() or 0, self.snapshot.manifest.sequence)
        before, epoch = ("", 1) if seal is None else (seal.chain, seal.epoch)
        # A crash may have come between a change and its seal.
        chain = journal.chain(last) or before
        opened = SealFile(self.seal_path, Seal(journal.id, epoch, last, chain, clean=False))
        note_written(self.path)
        return opened

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
        if not usable:
            what = f"holds no snapshot through change {oldest}, after which the journal begins"
            raise CorpusError(folder, f"{what}; {REPAIR}")
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
        if not self.journal_path.exists() or not self.journal_path.stat().st_size:
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
