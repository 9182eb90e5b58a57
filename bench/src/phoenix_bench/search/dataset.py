"""Corpora and queries to search, drawn at random.

Shapes:
    N  rows of the corpus        D  width        Q  queries        G, M  groups of M equal rows
"""

from collections.abc import Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


class Dataset(NamedTuple):
    """A corpus, and queries of two kinds.

    Attributes:
        corpus: [N, D] f32 unit vectors.
        queries: [Q, D] f32 unit vectors that know nothing of the corpus; these are timed.
        probes: [Q, D] f32 unit vectors; the i-th is near the copies of group i, if there is one.
        copies: The rows of each group of equal vectors, ascending.
    """

    corpus: Floats
    queries: Floats
    probes: Floats
    copies: Sequence[Rows]


def draw_dataset(
    *, rows: int, width: int, queries: int, group_sizes: Sequence[int], dtype: str, seed: int = 0
) -> Dataset:
    """Draw a dataset.

    Args:
        rows: N.
        width: D.
        queries: Q, at least one a group.
        group_sizes: M of each group. A group larger than k is cut by the k-th place: only its
            lowest rows belong to the answer.
        dtype: float32, or bfloat16 for values that bfloat16 holds too.
        seed: Of all that is drawn.

    Raises:
        ValueError: The groups do not fit.
    """
    if sum(group_sizes) > rows or len(group_sizes) > queries:
        raise ValueError(f"{len(group_sizes)} groups of {group_sizes} do not fit in {rows} rows")
    rng = np.random.default_rng(seed)

    def draw(count: int) -> Floats:
        return _unit(rng.standard_normal((count, width), np.float32), dtype)

    corpus, drawn, probes = draw(rows), draw(queries), draw(queries)
    places = rng.permutation(rows)[: sum(group_sizes)]
    copies = [np.sort(part) for part in np.split(places, np.cumsum(group_sizes)[:-1])]
    for probe, group in zip(probes, copies, strict=False):
        noise = rng.standard_normal(width, np.float32) * np.float32(0.3 / np.sqrt(width))
        corpus[group] = _unit((probe + noise)[None], dtype)
    return Dataset(corpus, drawn, probes, copies)


def _unit(vectors: Floats, dtype: str) -> Floats:
    """Scale to unit length in place, then round to `dtype`."""
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    if dtype == "float32":
        return vectors
    return vectors.astype(ml_dtypes.bfloat16).astype(np.float32)
