"""Changes on the disk, in SQLite, before they are acknowledged.

A change is one row, and changes that come together are one transaction. The database is in WAL
mode with synchronous=FULL: a transaction that was committed survives the loss of power.

    changes(sequence, posts, post_ids, author_ids, created_at_unix_ms, labels, vectors, tower,
            checksum)

`posts` is how many there are. The columns of posts are blobs of little-endian numbers (u64, u64,
i64, f32), `labels` is JSON, null if there are none, `tower` is the fingerprint of the towers that
made the vectors. A deletion has post ids alone. `checksum` is the CRC-32 of all of it.
"""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from itertools import compress, groupby
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.changes import Change, History, Ids, Labels, Posts
from phoenix_server.errors import CorpusError, StorageError

T = TypeVar("T", bound=np.generic)

_Columns = Sequence[Any]  # a change as the database has it, without number and sum

_FORMAT = 2
_APPLICATION = 0x70686F78  # "phox", which `file` shows
_PAGE_BYTES = 16_384
_TRIMMED = 1 << 14  # posts, more or less
_TRIMMED_CHANGES = 1 << 12
_WAL_PAGES = 4_096  # 64 MiB before they are copied into the database

_IDENTITY = "CREATE TABLE identity (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT"
_CHANGES = """
CREATE TABLE changes (
    sequence INTEGER PRIMARY KEY,
    posts INTEGER NOT NULL,
    post_ids BLOB NOT NULL,
    author_ids BLOB,
    created_at_unix_ms BLOB,
    labels TEXT,
    vectors BLOB,
    tower TEXT,
    checksum INTEGER NOT NULL
) STRICT
"""


class Journal:
    """The changes of one corpus since a snapshot. One thread at a time."""

    def __init__(self, path: Path, identity: Mapping[str, str], *, read_only: bool = False) -> None:
        """Open a journal, or begin one.

        Args:
            path: The database.
            identity: What it belongs to; what an old one says must be the same.
            read_only: Begin none, and write nothing.

        Raises:
            CorpusError: It cannot be read or written, or belongs to another corpus.
        """
        self._path = path
        try:
            self._database = sqlite3.connect(
                f"{path.absolute().as_uri()}?{_mode(path, read_only)}",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self._open(identity, read_only)
            except BaseException:
                self._database.close()
                raise
        except sqlite3.Error as exc:
            raise CorpusError(path, f"cannot be used as a journal: {exc}") from exc

    def close(self) -> None:
        """Close it."""
        self._database.close()

    def first(self) -> int | None:
        """Return the number of the first change, if it holds any."""
        (found,) = self._database.execute("SELECT min(sequence) FROM changes").fetchone()
        return found

    def last(self) -> int | None:
        """Return the number of the last change, if it holds any."""
        (found,) = self._database.execute("SELECT max(sequence) FROM changes").fetchone()
        return found

    def posts(self, after: int, through: int = 2**63 - 1) -> int:
        """Return how many posts the changes after one, and up to another, write and delete."""
        query = "SELECT coalesce(sum(posts), 0) FROM changes WHERE sequence > ? AND sequence <= ?"
        (found,) = self._database.execute(query, (after, through)).fetchone()
        return found

    def append(self, first: int, changes: Sequence[Change]) -> None:
        """Add changes, numbered from `first` on; when this returns they are on the disk.

        Raises:
            StorageError: The disk refuses. None of them was added.
        """
        rows = [
            (sequence, *columns, _checksum(columns))
            for sequence, columns in enumerate(map(_columns, changes), start=first)
        ]
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("INSERT INTO changes VALUES (?,?,?,?,?,?,?,?,?)", rows)
            self._database.execute("COMMIT")
        except sqlite3.Error as exc:
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise StorageError(self._path, f"cannot be written: {exc}") from exc

    def read(self, after: int) -> Iterator[tuple[int, Change]]:
        """Yield the changes after one, with their numbers.

        Raises:
            CorpusError: One is missing, or damaged.
        """
        for sequence, columns in enumerate(self._read(after), start=after + 1):
            yield sequence, _posts([columns]) if _is_write(columns) else _ids([columns])

    def read_history(self, after: int) -> History:
        """Return the changes after one, together: what many small ones hold is joined.

        Raises:
            CorpusError: One is missing, or damaged.
        """
        changes = list(self._read(after))
        writes = np.array([_is_write(columns) for columns in changes], np.bool_)
        runs = groupby(compress(changes, writes), key=_tower)
        return History(
            changes=len(changes),
            post_ids=_ids(changes),
            is_write=np.repeat(writes, [columns[0] for columns in changes]),
            writes=[_posts(list(run)) for _, run in runs],
        )

    def trim(self, through: int) -> None:
        """Drop the changes up to one, a few at a time, so that others can write in between.

        Raises:
            StorageError: The disk refuses.
        """
        some = (
            "SELECT sequence, sum(posts) OVER (ORDER BY sequence) - posts AS before "
            "FROM changes WHERE sequence <= ? ORDER BY sequence LIMIT ?"
        )
        last = f"SELECT max(sequence) FROM ({some}) WHERE before < ?"
        try:
            while True:
                limits = through, _TRIMMED_CHANGES, _TRIMMED
                (dropped,) = self._database.execute(last, limits).fetchone()
                if dropped is None:
                    return
                self._database.execute("DELETE FROM changes WHERE sequence <= ?", (dropped,))
        except sqlite3.Error as exc:
            raise StorageError(self._path, f"cannot be written: {exc}") from exc

    def _read(self, after: int) -> Iterator[_Columns]:
        """Yield the changes after one, as the database has them."""
        query = "SELECT * FROM changes WHERE sequence > ? ORDER BY sequence"
        expected = after
        try:
            for sequence, *columns, checksum in self._database.execute(query, (after,)):
                expected += 1
                if sequence != expected:
                    raise CorpusError(self._path, f"lacks the changes {expected} to {sequence - 1}")
                if _checksum(columns) != checksum:
                    raise CorpusError(self._path, f"change {sequence} is damaged")
                yield columns
        except sqlite3.Error as exc:
            raise CorpusError(self._path, f"cannot be read: {exc}") from exc

    def _open(self, identity: Mapping[str, str], read_only: bool) -> None:
        run = self._database.execute
        (version,) = run("PRAGMA user_version").fetchone()
        if not version and not read_only:
            run(f"PRAGMA page_size = {_PAGE_BYTES}")
            run(f"PRAGMA application_id = {_APPLICATION}")
            run("PRAGMA journal_mode = WAL")
            run("PRAGMA synchronous = FULL")
            for statement in ("BEGIN", _IDENTITY, _CHANGES, f"PRAGMA user_version = {_FORMAT}"):
                run(statement)
            self._database.executemany("INSERT INTO identity VALUES (?, ?)", identity.items())
            run("COMMIT")
        elif version != _FORMAT:
            raise CorpusError(
                self._path, f"has format version {version}, this server reads {_FORMAT}"
            )
        if not read_only:
            run("PRAGMA synchronous = FULL")
            run(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        found = dict(run("SELECT key, value FROM identity"))
        for key, value in identity.items():
            if found.get(key) != value:
                raise CorpusError(
                    self._path,
                    f"belongs to another corpus: its {key} is {found.get(key)}, not {value}",
                )


def _mode(path: Path, read_only: bool) -> str:
    """Return how SQLite should open a database."""
    if not read_only:
        return "mode=rwc"
    # Without a log beside it nobody has it open, and SQLite would make one to read it.
    closed = not path.with_name(f"{path.name}-wal").exists()
    return "mode=ro&immutable=1" if closed else "mode=ro"


def _columns(change: Change) -> _Columns:
    """Return a change as the database has it."""
    if not isinstance(change, Posts):
        return len(change), change.astype("<u8").tobytes(), None, None, None, None, None
    labels = change.labels
    return (
        len(change),
        change.post_ids.astype("<u8").tobytes(),
        change.author_ids.astype("<u8").tobytes(),
        change.created_at_unix_ms.astype("<i8").tobytes(),
        json.dumps([labels.names, labels.counts.tolist(), labels.indices.tolist()])
        if labels.names
        else None,
        change.vectors.astype("<f4").tobytes(),
        change.tower,
    )


def _is_write(columns: _Columns) -> bool:
    return columns[2] is not None


def _tower(columns: _Columns) -> str:
    return columns[6]


def _ids(changes: Sequence[_Columns]) -> Ids:
    """Return the post ids of changes, one after the other."""
    return _joined((columns[1] for columns in changes), np.dtype(np.uint64))


def _posts(changes: Sequence[_Columns]) -> Posts:
    """Return what changes of one tower write, one after the other."""
    posts, post_ids, author_ids, created_at, labels, vectors, towers = zip(*changes, strict=True)
    return Posts(
        post_ids=_joined(post_ids, np.dtype(np.uint64)),
        author_ids=_joined(author_ids, np.dtype(np.uint64)),
        created_at_unix_ms=_joined(created_at, np.dtype(np.int64)),
        labels=_labels(labels, posts),
        vectors=_joined(vectors, np.dtype(np.float32)).reshape(sum(posts), -1),
        tower=towers[0],
    )


def _joined(blobs: Iterable[bytes], dtype: np.dtype[T]) -> npt.NDArray[T]:
    """Return the numbers of blobs, one after the other."""
    return np.frombuffer(b"".join(blobs), dtype.newbyteorder("<")).astype(dtype, copy=False)


def _labels(texts: Sequence[str | None], posts: Sequence[int]) -> Labels:
    """Return the labels of changes, one after the other.

    Args:
        texts: Their labels, as JSON; null if there are none.
        posts: How many posts each has.
    """
    codes: dict[str, int] = {}
    counts: list[npt.NDArray[np.int32]] = []
    indices: list[npt.NDArray[np.int32]] = []

    @cache
    def read(text: str) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        names, own_counts, own = json.loads(text)
        mine = np.array([codes.setdefault(name, len(codes)) for name in names], np.int32)
        return np.array(own_counts, np.int32), mine[own]

    for text, own_posts in zip(texts, posts, strict=True):
        if text is None:
            counts.append(np.zeros(own_posts, np.int32))
        else:
            own_counts, own = read(text)
            counts.append(own_counts)
            indices.append(own)
    nothing = np.zeros(0, np.int32)
    return Labels(
        tuple(codes), np.concatenate([nothing, *counts]), np.concatenate([nothing, *indices])
    )


def _checksum(columns: Sequence[object]) -> int:
    total = 0
    for column in columns:
        data = column if isinstance(column, bytes) else repr(column).encode()
        total = zlib.crc32(data, total)
    return total
