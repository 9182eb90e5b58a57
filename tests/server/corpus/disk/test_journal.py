import shutil
import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_server.corpus.changes import Change, History, Posts
from phoenix_server.corpus.disk.journal import Journal
from phoenix_server.errors import CorpusError, StorageError
from server.corpus.change_cases import NAMES, id_array, posts_of

_IDENTITY = {"corpus": "a"}
_SMALL: list[Change] = [posts_of([3, 2**64 - 1]), id_array(3), posts_of([4, 3], seed=1)]
_LARGE = posts_of(range(1, 40_001))  # larger than the page cache of an uncommitted transaction

_ids = st.lists(st.integers(1, 2**64 - 1), unique=True, min_size=1, max_size=20)
_names = st.lists(st.sampled_from(NAMES), unique=True)
_changes = st.builds(posts_of, _ids, st.integers(0, 2**32), _names) | _ids.map(
    lambda ids: id_array(*ids)
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@contextmanager
def _opened(
    path: Path, identity: dict[str, str] = _IDENTITY, *, read_only: bool = False
) -> Generator[Journal, None, None]:
    with closing(Journal(path, identity, read_only=read_only)) as journal:
        yield journal


def _written(path: Path, changes: list[Change], first: int = 1) -> None:
    with _opened(path) as journal:
        journal.append(first, changes)


def _read(path: Path, after: int = 0, *, read_only: bool = False) -> History:
    with _opened(path, read_only=read_only) as journal:
        return journal.read_history(after)


def _assert_holds(path: Path, changes: list[Change], first: int = 1) -> None:
    _assert_same(_read(path, first - 1), changes)


def _assert_same(history: History, changes: list[Change]) -> None:
    """Check that a history holds some changes, bit for bit and in order."""
    expected = History.of(changes)
    assert history.changes == expected.changes
    assert history.post_ids.dtype == np.uint64
    np.testing.assert_array_equal(history.post_ids, expected.post_ids)
    np.testing.assert_array_equal(history.is_write, expected.is_write)
    assert _one_by_one(history) == _one_by_one(expected)
    assert _label_names(history) == _label_names(expected)
    towers = [posts.tower for posts in history.writes]
    assert all(tower != following for tower, following in pairwise(towers))
    for posts in history.writes:
        assert len(set(posts.labels.names)) == len(posts.labels.names)
        assert posts.vectors.dtype == np.float32
        assert posts.created_at_unix_ms.dtype == np.int64


def _one_by_one(history: History) -> list[tuple[object, ...]]:
    """Return each written post with the towers of its vector."""
    return [
        (posts.tower, *columns, [posts.labels.names[index] for index in labels], vector.tobytes())
        for posts in history.writes
        for *columns, labels, vector in zip(
            posts.post_ids.tolist(),
            posts.author_ids.tolist(),
            posts.created_at_unix_ms.tolist(),
            np.split(posts.labels.indices, np.cumsum(posts.labels.counts)[:-1]),
            posts.vectors,
            strict=True,
        )
    ]


def _label_names(history: History) -> set[str]:
    return {name for posts in history.writes for name in posts.labels.names}


def _execute(path: Path, statement: str, *parameters: object) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        assert database.execute(statement, parameters).rowcount


def _refused(action: Callable[[], object], path: Path) -> str:
    with pytest.raises(CorpusError) as caught:
        action()
    assert caught.value.path == path
    return caught.value.reason


def _files(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}


@settings(deadline=None, max_examples=15)
@given(st.lists(st.lists(_changes, min_size=1, max_size=3), max_size=4), st.integers(0, 2**40))
def test_appended_changes_are_read_after_reopening(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[Change]], after: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.sqlite"
    made: list[Change] = []
    for group in groups:
        with _opened(path) as journal:
            assert journal.last() == (after + len(made) if made else None)
            journal.append(after + 1 + len(made), group)
            made += group
    _assert_holds(path, made, after + 1)
    for skipped in range(len(made)):
        _assert_holds(path, made[skipped:], after + 1 + skipped)
    with _opened(path) as journal:
        assert journal.posts(after) == sum(map(len, made))
        assert journal.posts(after + 1) == sum(map(len, made[1:]))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(_changes, st.sampled_from("ab")), max_size=10), st.integers(0, 3))
def test_consecutive_writes_of_one_tower_are_joined(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[Change, str]], after: int
) -> None:
    changes = [
        replace(change, tower=tower) if isinstance(change, Posts) else change
        for change, tower in made
    ]
    with _opened(tmp_path_factory.mktemp("journal") / "journal.sqlite") as journal:
        journal.append(1, changes)
        _assert_same(journal.read_history(after), changes[after:])


def test_vectors_are_stored_bit_for_bit(path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, (50, 8), np.uint32)  # including NaNs
    bits[0, :4] = [0x80000000, 0x7FC12345, 1, 0x7F800001]
    posts = posts_of(range(1, 51))
    posts.vectors[:] = bits.view(np.float32)
    _written(path, [posts])
    (read,) = _read(path).writes
    np.testing.assert_array_equal(read.vectors.view(np.uint32), bits)


def test_a_full_disk_fails_all_changes_of_a_group_and_none_of_the_next(
    path: Path, connections: list[sqlite3.Connection]
) -> None:
    with _opened(path) as journal:
        journal.append(1, _SMALL)
        (pages,) = connections[0].execute("PRAGMA page_count").fetchone()
        connections[0].execute(f"PRAGMA max_page_count = {pages + 2}")
        for _ in range(2):
            with pytest.raises(StorageError, match=r"^journal.sqlite: .* disk is full"):
                journal.append(4, [_SMALL[0], _LARGE, _SMALL[1]])
            assert journal.last() == 3
        journal.append(4, [_SMALL[0]])
        connections[0].execute("PRAGMA max_page_count = 1000000")
        journal.append(5, [_LARGE, _SMALL[1]])
    _assert_holds(path, [*_SMALL, _SMALL[0], _LARGE, _SMALL[1]])


def test_a_number_is_not_used_twice(path: Path) -> None:
    with _opened(path) as journal:
        journal.append(1, _SMALL)
        with pytest.raises(StorageError, match="UNIQUE"):
            journal.append(3, [id_array(8), id_array(9)])
        journal.append(4, [id_array(9)])
    _assert_holds(path, [*_SMALL, id_array(9)])


def test_missing_changes_are_reported(path: Path) -> None:
    _written(path, [id_array(n) for n in range(1, 8)])
    _execute(path, "DELETE FROM changes WHERE sequence IN (3, 4)")
    assert _refused(lambda: _read(path), path) == "lacks the changes 3 to 4"
    assert _read(path, after=4).changes == 3
    with _opened(path) as journal:
        journal.trim(5)
    assert _refused(lambda: _read(path), path) == "lacks the changes 1 to 5"


@pytest.mark.parametrize(
    "column", ["post_ids", "author_ids", "created_at_unix_ms", "labels", "vectors"]
)
def test_a_flipped_bit_is_detected(path: Path, column: str) -> None:
    _written(path, _SMALL)
    with closing(sqlite3.connect(path)) as database:
        query = f"SELECT {column} FROM changes WHERE sequence = 3"
        (good,) = database.execute(query).fetchone()
    bad = bytearray(good if isinstance(good, bytes) else good.encode())
    bad[len(bad) // 2] ^= 1
    statement = f"UPDATE changes SET {column} = ? WHERE sequence = 3"
    _execute(path, statement, bytes(bad) if isinstance(good, bytes) else bad.decode())
    assert _refused(lambda: _read(path), path) == "change 3 is damaged"
    if column != "post_ids":
        _execute(path, f"UPDATE changes SET {column} = NULL WHERE sequence = 3")
        assert _refused(lambda: _read(path), path) == "change 3 is damaged"
    _execute(path, statement, good)
    _assert_holds(path, _SMALL)


@pytest.mark.parametrize("column", ["posts", "checksum"])
def test_a_wrong_count_or_checksum_is_detected(path: Path, column: str) -> None:
    _written(path, _SMALL)
    _execute(path, f"UPDATE changes SET {column} = {column} + 1 WHERE sequence = 2")
    assert _refused(lambda: _read(path), path) == "change 2 is damaged"


@pytest.mark.parametrize("read_only", [False, True])
def test_a_journal_of_another_corpus_is_refused(path: Path, read_only: bool) -> None:
    _written(path, _SMALL)
    before = _files(path)
    reason = _refused(lambda: Journal(path, {"corpus": "b"}, read_only=read_only), path)
    assert reason == "belongs to another corpus: its corpus is a, not b"
    reason = _refused(lambda: Journal(path, {"towers": "b"}, read_only=read_only), path)
    assert reason == "belongs to another corpus: its towers is None, not b"
    assert _files(path) == before


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("contents", [b"no database", b"SQLite format 3\0" + bytes(5000)])
def test_a_file_that_is_not_a_database_is_refused(
    path: Path, contents: bytes, read_only: bool
) -> None:
    path.write_bytes(contents)
    reason = _refused(lambda: Journal(path, _IDENTITY, read_only=read_only), path)
    assert reason.startswith("cannot be used as a journal: ")
    assert path.read_bytes() == contents


@pytest.mark.parametrize("read_only", [False, True])
def test_another_format_version_is_refused(path: Path, read_only: bool) -> None:
    _written(path, _SMALL)
    _execute(path, "PRAGMA user_version = 3")
    reason = _refused(lambda: Journal(path, _IDENTITY, read_only=read_only), path)
    assert reason == "has format version 3, this server reads 2"


def test_a_database_without_a_journal_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE other (x)")
        database.execute("PRAGMA user_version = 2")
    reason = _refused(lambda: Journal(path, _IDENTITY), path)
    assert reason.startswith("cannot be used as a journal: no such table")


def test_a_journal_in_a_missing_directory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "journal.sqlite"
    assert "unable to open" in _refused(lambda: Journal(path, _IDENTITY), path)


def test_paths_may_contain_special_characters_of_uris(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=memory#b%20c" / "journal.sqlite"
    path.parent.mkdir()
    _written(path, _SMALL)
    _assert_holds(path, _SMALL)
    assert path.is_file()


def test_trim_removes_the_changes_up_to_a_number(path: Path) -> None:
    with _opened(path) as journal:
        journal.append(6, _SMALL)
        journal.trim(5)
        assert (journal.last(), journal.posts(0)) == (8, 5)
        journal.trim(7)
        assert (journal.last(), journal.posts(0)) == (8, 2)
    _assert_holds(path, _SMALL[2:], 8)
    many: list[Change] = [id_array(n) for n in range(9, 309)]
    with _opened(path) as journal:
        journal.trim(8)
        assert (journal.last(), journal.posts(0)) == (None, 0)
        journal.append(9, many)
        journal.trim(209)
    _assert_holds(path, many[201:], 210)


def test_a_read_only_journal_writes_nothing(path: Path) -> None:
    _written(path, _SMALL)
    before = _files(path)
    path.parent.chmod(0o555)
    try:
        with _opened(path, read_only=True) as journal:
            assert journal.read_history(0).changes == 3
            assert journal.last() == 3
            assert _files(path) == before  # nothing is written even with permission, as root has
            with pytest.raises(StorageError):
                journal.append(4, [id_array(1)])
            with pytest.raises(StorageError):
                journal.trim(2)
        assert _files(path) == before
    finally:
        path.parent.chmod(0o755)


def test_a_read_only_journal_is_not_created(path: Path) -> None:
    assert "unable to open" in _refused(lambda: Journal(path, _IDENTITY, read_only=True), path)
    assert not list(path.parent.iterdir())


def test_a_read_only_journal_has_all_committed_changes(path: Path) -> None:
    with _opened(path) as journal:
        for number, change in enumerate(_SMALL, start=1):
            journal.append(number, [change])
            with _opened(path, read_only=True) as reader:
                assert reader.last() == number
                assert reader.read_history(0).changes == number
    _assert_holds(path, _SMALL)


@pytest.mark.parametrize("read_only", [False, True])
def test_a_crash_loses_only_uncommitted_changes(
    path: Path, connections: list[sqlite3.Connection], read_only: bool
) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(path.parent, path.parent.parent / f"{path.parent.name} {name}"))

    copies: list[Path] = []

    def crash(statement: str) -> None:
        if statement == "COMMIT":
            copies.append(copy("crashed"))

    with _opened(path) as journal:
        journal.append(1, _SMALL)
        log = path.with_name(f"{path.name}-wal")
        committed = log.stat().st_size
        connections[0].set_trace_callback(crash)
        journal.append(4, [_SMALL[0], _LARGE])
        connections[0].set_trace_callback(None)
        whole = copy("whole")
    (crashed,) = copies
    # Most of the transaction was in the WAL already.
    assert (crashed / log.name).stat().st_size > committed + _LARGE.vectors.nbytes / 2
    assert _read(crashed / path.name, read_only=read_only).changes == 3
    assert _read(whole / path.name, read_only=read_only).changes == 5
    _written(crashed / path.name, [id_array(7)], first=4)
    _assert_holds(crashed / path.name, [*_SMALL, id_array(7)])
    _assert_holds(whole / path.name, [*_SMALL, _SMALL[0], _LARGE])


def test_a_truncated_wal_holds_complete_groups(
    path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    groups: list[list[Change]] = [_SMALL, [posts_of(range(1, 900))], [id_array(1)] * 7, _SMALL]
    ends = np.cumsum([0, *map(len, groups)]).tolist()
    with _opened(path) as journal:
        for start, group in zip(ends, groups, strict=False):
            journal.append(start + 1, group)
        database, log = path.read_bytes(), path.with_name(f"{path.name}-wal").read_bytes()
    lasts: list[int] = []
    for size in np.linspace(0, len(log), 40, dtype=int):
        torn = tmp_path_factory.mktemp("torn") / path.name
        torn.write_bytes(database)
        torn.with_name(f"{path.name}-wal").write_bytes(log[:size])
        with _opened(torn) as journal:
            lasts.append(journal.last() or 0)
            assert journal.read_history(0).changes == lasts[-1]
    assert lasts == sorted(lasts)
    assert sorted(set(lasts)) == ends
