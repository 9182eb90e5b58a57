"""The right answers, in float64, and how to tell a wrong one.

Shapes:
    N  rows of the corpus        D  width        Q  queries        K  results

Order: score descending, then row ascending. Float32 cannot tell scores apart that differ by less
than the tolerance, so their rows may swap; those of equal vectors may not.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from phoenix_bench.search.dataset import Dataset, Floats, Rows

TOLERANCE = 1e-6

_CHUNK_ROWS = 1 << 16

Doubles = npt.NDArray[np.float64]


class SearchResult(NamedTuple):
    """What a search found.

    Attributes:
        scores: [Q, K] f32, descending.
        rows: [Q, K], of any integer type.
    """

    scores: Floats
    rows: npt.NDArray[Any]


class Truth(NamedTuple):
    """The best rows of each query.

    Attributes:
        scores: [Q, K] f64, descending.
        rows: [Q, K] i64; those of equal scores in no order, and at the end any of them.
    """

    scores: Doubles
    rows: Rows

    def cut(self, k: int) -> "Truth":
        """Return the first k rows of each query."""
        return Truth(self.scores[:, :k], self.rows[:, :k])

    def first(self, queries: int) -> "Truth":
        """Return the answers of the first queries."""
        return Truth(self.scores[:queries], self.rows[:queries])


def find_truth(corpus: Floats, queries: Floats, k: int) -> Truth:
    """Return the K best of [N, D] rows for [Q, D] queries, by float64 dot products."""
    wide = queries.astype(np.float64)
    scores: list[Doubles] = []
    rows: list[Rows] = []
    for start in range(0, len(corpus), _CHUNK_ROWS):
        here = wide @ corpus[start : start + _CHUNK_ROWS].astype(np.float64).T
        chosen = _best(here, k)
        scores.append(np.take_along_axis(here, chosen, axis=1))
        rows.append(start + chosen)
    all_scores, all_rows = np.concatenate(scores, axis=1), np.concatenate(rows, axis=1)
    order = np.argsort(-all_scores, axis=1, kind="stable")[:, :k]
    return Truth(
        np.take_along_axis(all_scores, order, axis=1), np.take_along_axis(all_rows, order, axis=1)
    )


def count_missing(found: SearchResult, truth: Truth) -> int:
    """Return how many rows that belong to the answers, beyond rounding, are not in them."""
    return sum(
        len(np.setdiff1d(_certain(truth, i), found.rows[i])) for i in range(len(truth.scores))
    )


def find_mistakes(
    found: SearchResult, truth: Truth, dataset: Dataset, queries: Floats
) -> Iterator[str]:
    """Yield what is wrong with answers, in words.

    Args:
        found: The answers.
        truth: Of the same queries and K.
        dataset: What was searched.
        queries: [Q, D] f32.
    """
    if found.rows.shape != truth.rows.shape or found.scores.shape != truth.rows.shape:
        yield f"rows {found.rows.shape}, scores {found.scores.shape}; expected {truth.rows.shape}"
        return
    for i, query in enumerate(queries):
        rows = found.rows[i].astype(np.int64)
        if len(np.unique(rows)) < len(rows) or rows.min() < 0 or rows.max() >= len(dataset.corpus):
            yield f"query {i}: a row comes twice or does not exist"
            continue
        actual = dataset.corpus[rows].astype(np.float64) @ query.astype(np.float64)  # [K]
        if (worst := np.abs(found.scores[i] - actual).max()) > TOLERANCE:
            yield f"query {i}: a score is off by {worst:.2g}"
        if (actual > np.minimum.accumulate(actual) + TOLERANCE).any():
            yield f"query {i}: a better row comes after a worse one"
        if (actual < truth.scores[i, -1] - TOLERANCE).any():
            yield f"query {i}: a row does not belong to the answer"
        if missing := len(np.setdiff1d(_certain(truth, i), rows)):
            yield f"query {i}: {missing} rows are missing"
        for group in dataset.copies:
            members = rows[np.isin(rows, group)]
            if not np.array_equal(members, group[: len(members)]):
                yield f"query {i}: equal vectors are not the lowest rows, ascending"


def _best(scores: Doubles, k: int) -> Rows:
    """Return the columns of the k largest of each row, in no order."""
    columns = scores.shape[1]
    if k >= columns:
        return np.broadcast_to(np.arange(columns), scores.shape)
    return np.argpartition(scores, columns - k, axis=1)[:, columns - k :]


def _certain(truth: Truth, i: int) -> Rows:
    """Return the rows of query i that no rounding can push out of the answer."""
    return truth.rows[i][truth.scores[i] > truth.scores[i, -1] + TOLERANCE]
