"""The correct answers in float64, and checks of answers against them.

Shapes:
    N  posts of the corpus        D  width        B  queries        K  results

Order: score descending, then row ascending. Rows whose scores differ by less than the tolerance may
swap, because float32 cannot distinguish them; rows of equal vectors may not.
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
    """The results of a search.

    Attributes:
        scores: [B, K] f32, descending.
        rows: [B, K], of any integer type.
    """

    scores: Floats
    rows: npt.NDArray[Any]


class Truth(NamedTuple):
    """The best rows of each query.

    Attributes:
        scores: [B, K] f64, descending.
        rows: [B, K] i64; rows that tie in any order, and any of those that tie with the last.
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
    """Return the K best of [N, D] rows for [B, D] queries, by float64 dot products."""
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
    """Return the number of rows missing from answers, not counting those that rounding allows."""
    return sum(
        len(np.setdiff1d(_certain(truth, i), found.rows[i])) for i in range(len(truth.scores))
    )


def find_mistakes(
    found: SearchResult, truth: Truth, dataset: Dataset, queries: Floats
) -> Iterator[str]:
    """Yield a description of each mistake in answers.

    Args:
        found: The answers.
        truth: The correct answers for the same queries and K.
        dataset: The corpus that was searched.
        queries: [B, D] f32.
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
    """Return the columns of the k largest values of each row, in any order."""
    columns = scores.shape[1]
    if k >= columns:
        return np.broadcast_to(np.arange(columns), scores.shape)
    return np.argpartition(scores, columns - k, axis=1)[:, columns - k :]


def _certain(truth: Truth, i: int) -> Rows:
    """Return the rows that belong to the answer of query i under any rounding."""
    return truth.rows[i][truth.scores[i] > truth.scores[i, -1] + TOLERANCE]
