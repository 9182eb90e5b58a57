"""Cases for tests of the journal."""

from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from phoenix_server.corpus.changes import Change, History
from phoenix_server.corpus.disk.journal import Journal
from phoenix_server.errors import CorpusError
from server.corpus.change_cases import id_array, posts_of

IDENTITY = {"corpus": "a"}
SMALL: list[Change] = [posts_of([3, 2**64 - 1]), id_array(3), posts_of([4, 3], seed=1)]
LARGE = posts_of(range(1, 40_001))  # larger than the page cache of an uncommitted transaction


@contextmanager
def opened(
    path: Path, identity: dict[str, str] = IDENTITY, *, read_only: bool = False
) -> Generator[Journal, None, None]:
    """Open a journal until the block ends."""
    with closing(Journal(path, identity, read_only=read_only)) as journal:
        yield journal


def append(path: Path, changes: list[Change], first: int = 1) -> None:
    """Write changes, numbered from `first` on."""
    with opened(path) as journal:
        journal.append(first, changes)


def read(path: Path, after: int = 0, *, read_only: bool = False) -> History:
    """Return the changes after number `after`."""
    with opened(path, read_only=read_only) as journal:
        return journal.read_history(after)


def assert_holds(path: Path, changes: list[Change], first: int = 1) -> None:
    """Check that a journal holds some changes from number `first` on."""
    assert_same(read(path, first - 1), changes)


def assert_same(history: History, changes: list[Change]) -> None:
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


def refused(action: Callable[[], object], path: Path) -> str:
    """Check that a journal is refused; return why."""
    with pytest.raises(CorpusError) as caught:
        action()
    assert caught.value.path == path
    return caught.value.reason


def files(path: Path) -> dict[str, bytes]:
    """Return the contents of the files of a journal, by name."""
    return {file.name: file.read_bytes() for file in path.parent.iterdir()}
