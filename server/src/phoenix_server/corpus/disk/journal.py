"""The journal: changes in SQLite, stored before they are acknowledged.

Each change is one row; changes that are appended together are one transaction. The database is in
WAL mode with synchronous=FULL, so a committed transaction survives a power failure.

    changes(sequence, posts, post_ids, author_ids, created_at_unix_ms, labels, vectors, tower,
            checksum, chain)

`posts` is the number of posts. Columns of posts are blobs of little-endian numbers (see
`_BLOBS`), `labels` is JSON (null without labels), and `tower` is the fingerprint of the towers that
made the vectors. A deletion has `post_ids` only. `checksum` is the CRC-32 of the other columns, and
`chain` a hash of the checksums of this change and all before it.
"""

import hashlib
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cache
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import apsw
import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.changes import Change, History, Labels, Posts
from phoenix_server.errors import CorpusError, PhoenixServerError, StorageError
from phoenix_server.runtime.arrays import I32

_FORMAT = 3
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
    checksum INTEGER NOT NULL,
    chain TEXT NOT NULL
) STRICT
"""
_MIN_SQLITE = 3_051_003  # before, two connections could lose commits when a WAL was reset
_BUSY_MS = 5_000
_CHAIN_BYTES = 8


_BLOBS = {"post_ids": "<u8", "author_ids": "<u8", "created_at_unix_ms": "<i8", "vectors": "<f4"}


class _Row(NamedTuple):
    """A change as the database stores it, without sequence, checksum and chain.

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
    """The changes of one corpus since a snapshot. Not thread-safe.

    Attributes:
        id: Identifies the journal: another one of the same corpus has another.
    """

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
        if apsw.SQLITE_VERSION_NUMBER < _MIN_SQLITE:
            raise CorpusError(path, f"SQLite {apsw.sqlite_lib_version()} may lose changes")
        self._copy: TemporaryDirectory[str] | None = None
        if not read_only and not path.exists():
            _create(path)
        opened = path
        if read_only and _needs_copy(path):
            self._copy, opened = _copy(path)
        flags = apsw.SQLITE_OPEN_URI
        flags |= apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
        with self._errors(CorpusError, "used as a journal"):
            uri = f"{opened.absolute().as_uri()}{_mode(opened, read_only)}"
            self._database = apsw.Connection(uri, flags)
            try:
                self._database.set_busy_timeout(_BUSY_MS)
                self.id = self._open(identity, read_only)
            except BaseException:
                self._database.close()
                raise
        self._files = {} if read_only else _identities(path)

    def close(self) -> None:
        """Close the database."""
        self._database.close()
        if self._copy is not None:
            self._copy.cleanup()

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

    def append(self, first: int, changes: Sequence[Change], chain: str = "") -> str:
        """Add changes, numbered from `first` on; when this returns they are durable.

        Args:
            first: The number of the first change.
            changes: The changes.
            chain: The chain of the change before them, if the journal does not hold that any more.

        Returns:
            The chain of the last change.

        Raises:
            StorageError: Writing fails, and none of them was added; or the files are no longer in
                their directory, and whether they were added is of no use.
        """
        with self._errors(StorageError, "written"), self._transaction():
            chain = self.chain(first - 1) or chain
            for sequence, row in enumerate(map(_encode, changes), start=first):
                chain = self._insert(sequence, row, chain)
        self._check_place()
        return chain

    def chain(self, sequence: int) -> str | None:
        """Return the chain of a change; None if the journal does not hold it.

        Raises:
            CorpusError: The journal cannot be read.
        """
        with self._errors(CorpusError, "read"):
            query = "SELECT chain FROM changes WHERE sequence = ?"
            found = self._database.execute(query, (sequence,)).fetchone()
        return found[0] if found else None

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

    def whole_through(self, after: int) -> tuple[int, str]:
        """Return the last change up to which all after number `after` are whole, and what is not.

        The text is empty if nothing follows.
        """
        last = after
        try:
            for _ in self._read(after):
                last += 1
        except CorpusError as exc:
            return last, str(exc)
        return last, ""

    def copy_from(self, path: Path, identity: Mapping[str, str], after: int, through: int) -> str:
        """Add the changes from `after` + 1 through `through` of another journal.

        Returns:
            The chain of the last one; empty if there is none.

        Raises:
            CorpusError: One is missing or damaged.
        """
        if after == through:
            return ""
        chain = ""
        with closing(Journal(path, identity, read_only=True)) as other, self._transaction():
            for sequence, row in zip(
                range(after + 1, through + 1), other._read(after), strict=False
            ):
                chain = self._insert(sequence, row, chain)
        return chain

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
        except apsw.Error as exc:
            raise error(self._path, f"cannot be {what}: {exc}") from exc

    @contextmanager
    def _transaction(self) -> Generator[None, None, None]:
        """Commit what the block writes, or undo it."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def _insert(self, sequence: int, row: _Row, chain: str) -> str:
        """Add a change after one with a chain, and return its own."""
        checksum = _checksum(row)
        chain = _link(chain, checksum)
        values = (sequence, *row, checksum, chain)
        self._database.execute("INSERT INTO changes VALUES (?,?,?,?,?,?,?,?,?,?)", values)
        return chain

    def _check_place(self) -> None:
        """Check that the files that are open are still those of the directory.

        Raises:
            StorageError: One was removed or replaced: what is written to it is lost.
        """
        found = _identities(self._path)
        for name, identity in self._files.items():
            if found[name] != identity and identity is not None:
                what = "was removed or replaced while this server had it open; restart the server"
                raise StorageError(self._path.with_name(name), what)
        self._files = found

    def _value(self, query: str, *parameters: int) -> int | None:
        with self._errors(CorpusError, "read"):
            (value,) = _row(self._database.execute(query, parameters))
        return value

    def _read(self, after: int) -> Iterator[_Row]:
        """Yield the changes after number `after`."""
        query = "SELECT * FROM changes WHERE sequence > ? ORDER BY sequence"
        before: str | None = None
        with self._errors(CorpusError, "read"):
            stored = self._database.execute(query, (after,))
            for expected, (sequence, *columns, checksum, chain) in enumerate(stored, after + 1):
                if sequence != expected:
                    raise CorpusError(self._path, f"lacks the changes {expected} to {sequence - 1}")
                linked = chain if before is None else _link(before, checksum)
                if _checksum(columns) != checksum or chain != linked:
                    raise CorpusError(self._path, f"change {sequence} is damaged")
                before = chain
                yield _Row._make(columns)

    def _open(self, identity: Mapping[str, str], read_only: bool) -> str:
        """Check the database, or fill a new one, and return its id."""
        run = self._database.execute
        (version,) = _row(run("PRAGMA user_version"))
        if not version and not read_only:
            run(f"PRAGMA page_size = {_PAGE_BYTES}")
            run(f"PRAGMA application_id = {_APPLICATION}")
            run("PRAGMA journal_mode = WAL")
            run("PRAGMA synchronous = FULL")
            with self._transaction():
                for statement in (_IDENTITY, _CHANGES, f"PRAGMA user_version = {_FORMAT}"):
                    run(statement)
                rows = [*identity.items(), ("id", uuid.uuid4().hex)]
                self._database.executemany("INSERT INTO identity VALUES (?, ?)", rows)
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
        return found.get("id", "")


def _create(path: Path) -> None:
    """Create an empty file for the database, which others cannot read."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640))
    except OSError as exc:
        raise CorpusError(path, f"cannot be used as a journal: {exc.strerror}") from exc


def _needs_copy(path: Path) -> bool:
    """Return whether SQLite would have to create a file to read a WAL, and may not.

    So it is after a crash, on a filesystem that is mounted read-only.
    """
    log, shared = (path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-shm"))
    return log.exists() and not shared.exists() and not os.access(path.parent, os.W_OK)


def _copy(path: Path) -> tuple[TemporaryDirectory[str], Path]:
    """Copy a database and its WAL to a place where SQLite can read them."""
    folder = TemporaryDirectory(prefix="phoenix-journal-")
    for file in (path, path.with_name(f"{path.name}-wal")):
        shutil.copy(file, folder.name)
    return folder, Path(folder.name) / path.name


def _identities(path: Path) -> dict[str, tuple[int, int] | None]:
    """Return device and inode of the database and its WAL by name; None for a missing file."""
    found: dict[str, tuple[int, int] | None] = {}
    for name in (path.name, f"{path.name}-wal"):
        try:
            status = os.stat(path.with_name(name))
            found[name] = (status.st_dev, status.st_ino)
        except OSError:
            found[name] = None
    return found


def _row(cursor: apsw.Cursor) -> tuple[Any, ...]:
    row = cursor.fetchone()
    assert row is not None
    return row


def _mode(path: Path, read_only: bool) -> str:
    """Return the URI parameters with which SQLite opens a database."""
    if not read_only:
        return "?mode=rw"
    # Without a WAL file no process has the database open, and SQLite would create one to read it.
    closed = not path.with_name(f"{path.name}-wal").exists()
    return "?mode=ro&immutable=1" if closed else "?mode=ro"


def _link(chain: str, checksum: int) -> str:
    """Return the chain of a change with a checksum that follows a change with a chain."""
    content = f"{chain} {checksum}".encode()
    return hashlib.blake2b(content, digest_size=_CHAIN_BYTES).hexdigest()


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
