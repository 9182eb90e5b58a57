"""The journal: changes in SQLite, stored before they are acknowledged.

Each change is one row; changes that are appended together are one transaction. The database is in
WAL mode with synchronous=FULL, so a committed transaction survives a power failure.

    changes(sequence, posts, post_ids, author_ids, created_at_unix_ms, labels, vectors, tower,
            checksum)

`posts` is the number of posts. Columns of posts are blobs of little-endian numbers (see
`_BLOBS`), `labels` is JSON (null without labels), and `tower` is the fingerprint of the towers that
made the vectors. A deletion has `post_ids` only. `checksum` is the CRC-32 of the other columns.
"""

import json
import sqlite3
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.changes import Change, History, Labels, Posts
from phoenix_server.errors import CorpusError, PhoenixServerError, StorageError
from phoenix_server.runtime.arrays import I32

_FORMAT = 2
_APPLICATION = 0x70686F78  # "phox", which the command `file` shows
_PAGE_BYTES = 16_384
_MAX_TRIMMED_POSTS = 1 << 14  # per transaction, approximately
_MAX_TRIMMED_CHANGES = 1 << 12
_WAL_PAGES = 4_096  # 64 MiB, then SQLite copies them into the database

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


_BLOBS = {"post_ids": "<u8", "author_ids": "<u8", "created_at_unix_ms": "<i8", "vectors": "<f4"}


class _Row(NamedTuple):
    """A change as the database stores it, without sequence and checksum.

    The columns of posts are bytes, `labels` and `tower` are text; all but the first two are None in
    a deletion.
    """

    posts: int
    post_ids: Any
    author_ids: Any = None
    created_at_unix_ms: Any = None
    labels: Any = None
    vectors: Any = None
    tower: Any = None


class Journal:
    """The changes of one corpus since a snapshot. Not thread-safe."""

    def __init__(self, path: Path, identity: Mapping[str, str], *, read_only: bool = False) -> None:
        """Open a journal, or create one.

        Args:
            path: The database.
            identity: The corpus to which the journal belongs; an existing one must have the same.
            read_only: Create nothing and write nothing.

        Raises:
            CorpusError: It cannot be read or written, or belongs to another corpus.
        """
        self._path = path
        uri = f"{path.absolute().as_uri()}?{_mode(path, read_only)}"
        with self._errors(CorpusError, "used as a journal"):
            self._database = sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False
            )
            try:
                self._open(identity, read_only)
            except BaseException:
                self._database.close()
                raise

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def first(self) -> int | None:
        """Return the number of the first change, None if there is none; errors as for `posts`."""
        return self._value("SELECT min(sequence) FROM changes")

    def last(self) -> int | None:
        """Return the number of the last change, None if there is none; errors as for `posts`."""
        return self._value("SELECT max(sequence) FROM changes")

    def posts(self, after: int, through: int = 2**63 - 1) -> int:
        """Return how many posts the changes from `after` + 1 through `through` write and delete.

        Raises:
            CorpusError: The journal cannot be read.
        """
        query = "SELECT sum(posts) FROM changes WHERE sequence > ? AND sequence <= ?"
        return self._value(query, after, through) or 0

    def append(self, first: int, changes: Sequence[Change]) -> None:
        """Add changes, numbered from `first` on; when this returns they are durable.

        Raises:
            StorageError: Writing fails; none of them was added.
        """
        rows = [
            (sequence, *row, _checksum(row))
            for sequence, row in enumerate(map(_encode, changes), start=first)
        ]
        with self._errors(StorageError, "written"), self._database:  # commits, or rolls back
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("INSERT INTO changes VALUES (?,?,?,?,?,?,?,?,?)", rows)

    def read_history(self, after: int) -> History:
        """Return the changes after number `after`; consecutive writes of one tower are joined.

        Raises:
            CorpusError: A change is missing or damaged.
        """
        rows = list(self._read(after))
        is_write = np.array([row.tower is not None for row in rows], np.bool_)
        writes = groupby((row for row in rows if row.tower is not None), lambda row: row.tower)
        return History(
            changes=len(rows),
            post_ids=_join(rows, "post_ids"),
            is_write=np.repeat(is_write, [row.posts for row in rows]),
            writes=[_decode(list(run)) for _, run in writes],
        )

    def trim(self, through: int) -> None:
        """Remove the changes up to number `through`, in short transactions between other writes.

        Raises:
            StorageError: Writing fails.
        """
        some = (
            "SELECT sequence, sum(posts) OVER (ORDER BY sequence) - posts AS before "
            "FROM changes WHERE sequence <= ? ORDER BY sequence LIMIT ?"
        )
        last = f"SELECT max(sequence) FROM ({some}) WHERE before < ?"
        limits = through, _MAX_TRIMMED_CHANGES, _MAX_TRIMMED_POSTS
        with self._errors(StorageError, "written"):
            while (removed := self._value(last, *limits)) is not None:
                self._database.execute("DELETE FROM changes WHERE sequence <= ?", (removed,))

    @contextmanager
    def _errors(
        self, error: Callable[[Path, str], PhoenixServerError], what: str
    ) -> Generator[None, None, None]:
        """Turn errors of SQLite in the block into errors that name the journal."""
        try:
            yield
        except sqlite3.Error as exc:
            raise error(self._path, f"cannot be {what}: {exc}") from exc

    def _value(self, query: str, *parameters: int) -> int | None:
        with self._errors(CorpusError, "read"):
            (value,) = self._database.execute(query, parameters).fetchone()
        return value

    def _read(self, after: int) -> Iterator[_Row]:
        """Yield the changes after number `after`."""
        query = "SELECT * FROM changes WHERE sequence > ? ORDER BY sequence"
        with self._errors(CorpusError, "read"):
            stored = self._database.execute(query, (after,))
            for expected, (sequence, *columns, checksum) in enumerate(stored, start=after + 1):
                if sequence != expected:
                    raise CorpusError(self._path, f"lacks the changes {expected} to {sequence - 1}")
                if _checksum(columns) != checksum:
                    raise CorpusError(self._path, f"change {sequence} is damaged")
                yield _Row._make(columns)

    def _open(self, identity: Mapping[str, str], read_only: bool) -> None:
        run = self._database.execute
        (version,) = run("PRAGMA user_version").fetchone()
        if not version and not read_only:
            run(f"PRAGMA page_size = {_PAGE_BYTES}")
            run(f"PRAGMA application_id = {_APPLICATION}")
            run("PRAGMA journal_mode = WAL")
            run("PRAGMA synchronous = FULL")
            with self._database:
                for statement in ("BEGIN", _IDENTITY, _CHANGES, f"PRAGMA user_version = {_FORMAT}"):
                    run(statement)
                self._database.executemany("INSERT INTO identity VALUES (?, ?)", identity.items())
        elif version != _FORMAT:
            what = f"has format version {version}, this server reads {_FORMAT}"
            raise CorpusError(self._path, what)
        if not read_only:
            run("PRAGMA synchronous = FULL")
            run(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        found = dict(run("SELECT key, value FROM identity"))
        for key, value in identity.items():
            if found.get(key) != value:
                what = f"belongs to another corpus: its {key} is {found.get(key)}, not {value}"
                raise CorpusError(self._path, what)


def _mode(path: Path, read_only: bool) -> str:
    """Return the URI parameters with which SQLite opens a database."""
    if not read_only:
        return "mode=rwc"
    # Without a WAL file no process has the database open, and SQLite would create one to read it.
    closed = not path.with_name(f"{path.name}-wal").exists()
    return "mode=ro&immutable=1" if closed else "mode=ro"


def _encode(change: Change) -> _Row:
    """Return a change as the database stores it."""
    if not isinstance(change, Posts):
        return _Row(len(change), change.astype("<u8").tobytes())
    blobs = {name: getattr(change, name).astype(dtype).tobytes() for name, dtype in _BLOBS.items()}
    names, counts, indices = change.labels
    labels = json.dumps([names, counts.tolist(), indices.tolist()]) if names else None
    return _Row(len(change), labels=labels, tower=change.tower, **blobs)


def _decode(rows: Sequence[_Row]) -> Posts:
    """Return the posts that changes of one tower write."""
    columns = {name: _join(rows, name) for name in _BLOBS}
    columns["vectors"] = columns["vectors"].reshape(len(columns["post_ids"]), -1)
    return Posts(labels=_decode_labels(rows), tower=rows[0].tower, **columns)


def _join(rows: Iterable[_Row], name: str) -> npt.NDArray[Any]:
    """Return a column of the posts of several changes."""
    little_endian = np.dtype(_BLOBS[name])
    numbers = np.frombuffer(b"".join(getattr(row, name) for row in rows), little_endian)
    return numbers.astype(little_endian.newbyteorder("="), copy=False)


def _decode_labels(rows: Sequence[_Row]) -> Labels:
    """Return the labels of the posts that changes write."""
    codes: dict[str, int] = {}
    no_labels = np.zeros(0, np.int32)

    @cache  # many changes have the same labels
    def decode(text: str) -> tuple[I32, I32]:
        names, counts, indices = json.loads(text)
        own = np.array([codes.setdefault(name, len(codes)) for name in names], np.int32)
        return np.array(counts, np.int32), own[indices]

    parts = [
        decode(row.labels) if row.labels else (np.zeros(row.posts, np.int32), no_labels)
        for row in rows
    ]
    counts, indices = (np.concatenate([no_labels, *column]) for column in zip(*parts, strict=True))
    return Labels(tuple(codes), counts, indices)


def _checksum(columns: Sequence[object]) -> int:
    total = 0
    for column in columns:
        data = column if isinstance(column, bytes) else repr(column).encode()
        total = zlib.crc32(data, total)
    return total
