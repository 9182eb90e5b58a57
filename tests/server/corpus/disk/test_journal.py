from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_server.corpus.changes import Change, Posts
from phoenix_server.corpus.disk.journal import Journal
from phoenix_server.errors import StorageError
from server.corpus.change_cases import NAMES, id_array, posts_of
from server.corpus.disk.journal_cases import (
    IDENTITY,
    SMALL,
    append,
    assert_holds,
    assert_same,
    files,
    opened,
    read,
    refused,
)

_ids = st.lists(st.integers(1, 2**64 - 1), unique=True, min_size=1, max_size=20)

_names = st.lists(st.sampled_from(NAMES), unique=True)

_changes = st.builds(posts_of, _ids, st.integers(0, 2**32), _names) | _ids.map(
    lambda ids: id_array(*ids)
)


@settings(max_examples=15)
@given(st.lists(st.lists(_changes, min_size=1, max_size=3), max_size=4), st.integers(0, 2**40))
def test_appended_changes_are_read_after_reopening(
    tmp_path_factory: pytest.TempPathFactory, groups: list[list[Change]], after: int
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.sqlite"
    made: list[Change] = []
    for group in groups:
        with opened(path) as journal:
            assert journal.last() == (after + len(made) if made else None)
            journal.append(after + 1 + len(made), group)
            made += group
    assert_holds(path, made, after + 1)
    for skipped in range(len(made)):
        assert_holds(path, made[skipped:], after + 1 + skipped)
    with opened(path) as journal:
        assert journal.posts(after) == sum(map(len, made))
        assert journal.posts(after + 1) == sum(map(len, made[1:]))


@settings(max_examples=50)
@given(st.lists(st.tuples(_changes, st.sampled_from("ab")), max_size=10), st.integers(0, 3))
def test_consecutive_writes_of_one_tower_are_joined(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[Change, str]], after: int
) -> None:
    changes = [
        replace(change, tower=tower) if isinstance(change, Posts) else change
        for change, tower in made
    ]
    with opened(tmp_path_factory.mktemp("journal") / "journal.sqlite") as journal:
        journal.append(1, changes)
        assert_same(journal.read_history(after), changes[after:])


def test_vectors_are_stored_bit_for_bit(path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, (50, 8), np.uint32)  # including NaNs
    bits[0, :4] = [0x80000000, 0x7FC12345, 1, 0x7F800001]
    posts = posts_of(range(1, 51))
    posts.vectors[:] = bits.view(np.float32)
    append(path, [posts])
    (stored,) = read(path).writes
    np.testing.assert_array_equal(stored.vectors.view(np.uint32), bits)


def test_a_number_is_not_used_twice(path: Path) -> None:
    with opened(path) as journal:
        journal.append(1, SMALL)
        with pytest.raises(StorageError, match="UNIQUE"):
            journal.append(3, [id_array(8), id_array(9)])
        journal.append(4, [id_array(9)])
    assert_holds(path, [*SMALL, id_array(9)])


def test_paths_may_contain_special_characters_of_uris(tmp_path: Path) -> None:
    path = tmp_path / "a?mode=memory#b%20c" / "journal.sqlite"
    path.parent.mkdir()
    append(path, SMALL)
    assert_holds(path, SMALL)
    assert path.is_file()


def test_trim_removes_the_changes_up_to_a_number(path: Path) -> None:
    with opened(path) as journal:
        journal.append(6, SMALL)
        journal.trim(5)
        assert (journal.last(), journal.posts(0)) == (8, 5)
        journal.trim(7)
        assert (journal.last(), journal.posts(0)) == (8, 2)
    assert_holds(path, SMALL[2:], 8)
    many: list[Change] = [id_array(n) for n in range(9, 309)]
    with opened(path) as journal:
        journal.trim(8)
        assert (journal.last(), journal.posts(0)) == (None, 0)
        journal.append(9, many)
        journal.trim(209)
    assert_holds(path, many[201:], 210)


def test_a_read_only_journal_writes_nothing(path: Path) -> None:
    append(path, SMALL)
    before = files(path)
    path.parent.chmod(0o555)
    try:
        with opened(path, read_only=True) as journal:
            assert journal.read_history(0).changes == 3
            assert journal.last() == 3
            assert files(path) == before  # nothing is written even with permission, as root has
            with pytest.raises(StorageError):
                journal.append(4, [id_array(1)])
            with pytest.raises(StorageError):
                journal.trim(2)
        assert files(path) == before
    finally:
        path.parent.chmod(0o755)


def test_a_read_only_journal_is_not_created(path: Path) -> None:
    assert "unable to open" in refused(lambda: Journal(path, IDENTITY, read_only=True), path)
    assert not list(path.parent.iterdir())


def test_a_read_only_journal_has_all_committed_changes(path: Path) -> None:
    with opened(path) as journal:
        for number, change in enumerate(SMALL, start=1):
            journal.append(number, [change])
            with opened(path, read_only=True) as reader:
                assert reader.last() == number
                assert reader.read_history(0).changes == number
    assert_holds(path, SMALL)
