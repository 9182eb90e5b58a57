"""The journal: changes in SQLite, stored before they are acknowledged.

Each change is one row; changes that are appended together are one transaction. The database is in
WAL mode with synchronous=FULL, so a committed transaction survives a power failure. `journal_row`
has the columns.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import groupby, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import apsw
import numpy as np

from phoenix_server.corpus.changes import Change, History
from phoenix_server.corpus.disk.journal_files import (
    Identities,
    copy_to_read,
    identities,
    needs_copy,
    uri_to_open,
)
from phoenix_server.corpus.disk.journal_row import (
    Row,
    checksum_of,
    decode,
    encode,
    join,
    link,
)
from phoenix_server.corpus.disk.journal_schema import check_database, create_database
from phoenix_server.errors import CorpusError, PhoenixServerError, StorageError

JOURNAL = "journal.sqlite"
_MAX_TRIMMED_POSTS = 1 << 14  # per transaction, approximately
_MAX_TRIMMED_CHANGES = 1 << 12
_WAL_PAGES = 4_096  # 64 MiB, then SQLite copies them into the database
_MIN_SQLITE = 3_051_003  # before, two connections could lose commits when a WAL was reset
_BUSY_MS = 5_000


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
        if not read_only and not (path.exists() and path.stat().st_size):
            with self._errors(CorpusError, "used as a journal"):
                create_database(path, identity)
        opened = path
        if read_only and needs_copy(path):
            self._copy, opened = copy_to_read(path)
        flags = apsw.SQLITE_OPEN_URI
        flags |= apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE
        with self._errors(CorpusError, "used as a journal"):
            self._database = apsw.Connection(uri_to_open(opened, read_only), flags)
            try:
                self._database.set_busy_timeout(_BUSY_MS)
                self.id = check_database(path, self._database, identity)
                if not read_only:
                    self._database.execute("PRAGMA synchronous = FULL")
                    self._database.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
            except BaseException:
                self._database.close()
                raise
        self._files: Identities = {} if read_only else identities(path)

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
            StorageError: Writing fails, and none of them was added.
        """
        with self._errors(StorageError, "written"), self._transaction():
            chain = self._chain(first - 1) or chain
            for sequence, row in enumerate(map(encode, changes), start=first):
                chain = self._insert(sequence, row, chain)
        return chain

    def check_place(self) -> None:
        """Check that the files that are open are still those of the directory.

        Raises:
            StorageError: One was removed or replaced: what is written to it is lost.
        """
        found = identities(self._path)
        for name, identity in self._files.items():
            if found[name] != identity and identity is not None:
                what = "was removed or replaced while this server had it open"
                raise StorageError(self._path.with_name(name), what)
        self._files = found

    def chain(self, sequence: int) -> str | None:
        """Return the chain of a change; None if the journal does not hold it.

        Raises:
            CorpusError: The journal cannot be read.
        """
        with self._errors(CorpusError, "read"):
            return self._chain(sequence)

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
            post_ids=join(rows, "post_ids"),
            is_write=np.repeat(is_write, [row.posts for row in rows]),
            writes=[decode(list(run)) for _, run in writes],
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
            StorageError: Writing fails.
        """
        if after == through:
            return ""
        last, chain = after, ""
        with (
            closing(Journal(path, identity, read_only=True)) as other,
            self._errors(StorageError, "written"),
            self._transaction(),
        ):
            for row in islice(other._read(after), through - after):
                last += 1
                chain = self._insert(last, row, chain)
            if last < through:
                raise CorpusError(path, f"lacks the changes {last + 1} to {through}")
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

    def _insert(self, sequence: int, row: Row, chain: str) -> str:
        """Add a change after one with a chain, and return its own."""
        checksum = checksum_of(row)
        chain = link(chain, checksum)
        values = (sequence, *row, checksum, chain)
        self._database.execute("INSERT INTO changes VALUES (?,?,?,?,?,?,?,?,?,?)", values)
        return chain

    def _chain(self, sequence: int) -> str | None:
        query = "SELECT chain FROM changes WHERE sequence = ?"
        found = self._database.execute(query, (sequence,)).fetchone()
        return found[0] if found else None

    def _value(self, query: str, *parameters: int) -> int | None:
        with self._errors(CorpusError, "read"):
            (value,) = _row(self._database.execute(query, parameters))
        return value

    def _read(self, after: int) -> Iterator[Row]:
        """Yield the changes after number `after`."""
        query = "SELECT * FROM changes WHERE sequence > ? ORDER BY sequence"
        before: str | None = None
        with self._errors(CorpusError, "read"):
            stored = self._database.execute(query, (after,))
            for expected, (sequence, *columns, checksum, chain) in enumerate(stored, after + 1):
                if sequence != expected:
                    raise CorpusError(self._path, f"lacks the changes {expected} to {sequence - 1}")
                linked = chain if before is None else link(before, checksum)
                if checksum_of(columns) != checksum or chain != linked:
                    raise CorpusError(self._path, f"change {sequence} is damaged")
                before = chain
                yield Row._make(columns)


def _row(cursor: apsw.Cursor) -> tuple[Any, ...]:
    row = cursor.fetchone()
    assert row is not None
    return row
