import numpy as np
import numpy.typing as npt
import pytest

from phoenix_server.corpus.memory.author_index import AuthorIndex


@pytest.mark.parametrize("seed", range(3))
def test_the_rows_of_authors_are_found_while_posts_come_and_go(seed: int) -> None:
    rng = np.random.default_rng(seed)
    authors = rng.integers(1, 50, 3000).astype(np.uint64)  # of every row
    rows = np.arange(2000, dtype=np.int32)
    index = AuthorIndex(rows, authors[rows])
    known = set(rows.tolist())
    for count in (1, 500, 2000, 1500, 700):  # more than 4,096 rows in all: they are sorted
        written = rng.choice(3000, count, replace=False).astype(np.int32)
        authors[written] = rng.integers(1, 50, count)
        index.add(written, authors)
        known.update(written.tolist())
        asked = rng.choice(np.arange(1, 60, dtype=np.uint64), 5, replace=False)
        assert index.find(asked, authors).tolist() == _rows_of(asked, authors, known)


def _rows_of(
    asked: npt.NDArray[np.uint64], authors: npt.NDArray[np.uint64], known: set[int]
) -> list[int]:
    return [row for row in sorted(known) if authors[row] in asked]


def test_unknown_authors_have_no_rows() -> None:
    index = AuthorIndex(np.zeros(0, np.int32), np.zeros(0, np.uint64))
    assert index.find(np.array([7], np.uint64), np.zeros(32, np.uint64)).tolist() == []
