"""Journals that are damaged, of others, or none are refused."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from phoenix_server.corpus.disk.journal import Journal
from server.corpus.change_cases import id_array
from server.corpus.disk.journal_cases import (
    IDENTITY,
    SMALL,
    append,
    assert_holds,
    files,
    opened,
    read,
    refused,
)


def _execute(path: Path, statement: str, *parameters: object) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        assert database.execute(statement, parameters).rowcount


def test_missing_changes_are_reported(path: Path) -> None:
    append(path, [id_array(n) for n in range(1, 8)])
    _execute(path, "DELETE FROM changes WHERE sequence IN (3, 4)")
    assert refused(lambda: read(path), path) == "lacks the changes 3 to 4"
    assert read(path, after=4).changes == 3
    with opened(path) as journal:
        journal.trim(5)
    assert refused(lambda: read(path), path) == "lacks the changes 1 to 5"


@pytest.mark.parametrize(
    "column", ["post_ids", "author_ids", "created_at_unix_ms", "labels", "vectors"]
)
def test_a_flipped_bit_is_detected(path: Path, column: str) -> None:
    append(path, SMALL)
    with closing(sqlite3.connect(path)) as database:
        query = f"SELECT {column} FROM changes WHERE sequence = 3"
        (good,) = database.execute(query).fetchone()
    bad = bytearray(good if isinstance(good, bytes) else good.encode())
    bad[len(bad) // 2] ^= 1
    statement = f"UPDATE changes SET {column} = ? WHERE sequence = 3"
    _execute(path, statement, bytes(bad) if isinstance(good, bytes) else bad.decode())
    assert refused(lambda: read(path), path) == "change 3 is damaged"
    if column != "post_ids":
        _execute(path, f"UPDATE changes SET {column} = NULL WHERE sequence = 3")
        assert refused(lambda: read(path), path) == "change 3 is damaged"
    _execute(path, statement, good)
    assert_holds(path, SMALL)


@pytest.mark.parametrize("column", ["posts", "checksum"])
def test_a_wrong_count_or_checksum_is_detected(path: Path, column: str) -> None:
    append(path, SMALL)
    _execute(path, f"UPDATE changes SET {column} = {column} + 1 WHERE sequence = 2")
    assert refused(lambda: read(path), path) == "change 2 is damaged"


@pytest.mark.parametrize("read_only", [False, True])
def test_a_journal_of_another_corpus_is_refused(path: Path, read_only: bool) -> None:
    append(path, SMALL)
    before = files(path)
    reason = refused(lambda: Journal(path, {"corpus": "b"}, read_only=read_only), path)
    assert reason == "belongs to another corpus: its corpus is a, not b"
    reason = refused(lambda: Journal(path, {"towers": "b"}, read_only=read_only), path)
    assert reason == "belongs to another corpus: its towers is None, not b"
    assert files(path) == before


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("contents", [b"no database", b"SQLite format 3\0" + bytes(5000)])
def test_a_file_that_is_not_a_database_is_refused(
    path: Path, contents: bytes, read_only: bool
) -> None:
    path.write_bytes(contents)
    reason = refused(lambda: Journal(path, IDENTITY, read_only=read_only), path)
    assert reason.startswith("cannot be used as a journal: ")
    assert path.read_bytes() == contents


@pytest.mark.parametrize("read_only", [False, True])
def test_another_format_version_is_refused(path: Path, read_only: bool) -> None:
    append(path, SMALL)
    _execute(path, "PRAGMA user_version = 4")
    reason = refused(lambda: Journal(path, IDENTITY, read_only=read_only), path)
    assert reason == "has format version 4, this server reads 3"


def test_a_database_without_a_journal_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE other (x)")
        database.execute("PRAGMA user_version = 3")
    reason = refused(lambda: Journal(path, IDENTITY), path)
    assert reason.startswith("cannot be used as a journal: no such table")


def test_a_journal_in_a_missing_directory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "journal.sqlite"
    reason = refused(lambda: Journal(path, IDENTITY), path)
    assert reason == "cannot be used as a journal: No such file or directory"


@pytest.mark.parametrize(
    "ask",
    [Journal.first, Journal.last, lambda journal: journal.posts(0)],
    ids=["first", "last", "posts"],
)
def test_an_error_of_the_database_names_the_journal(
    path: Path, ask: Callable[[Journal], int | None]
) -> None:
    append(path, SMALL)
    with opened(path) as journal:
        _execute(path, "DROP TABLE changes")
        reason = refused(lambda: ask(journal), path)
    assert reason == "cannot be read: no such table: changes"
