"""Random corpora and queries to search.

Shapes:
    N  posts of the corpus        D  width        B  queries        G  equal posts of a group
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


Kind: TypeAlias = Literal["random", "clustered"]
"""Unit vectors at random, or around the centres of topics, with queries near posts."""

_TOPICS = 12
_SPREAD = 0.35  # length of the noise that is added to the centre of a topic
_NEAR = 0.2  # length of the noise that is added to a post


class Dataset(NamedTuple):
    """A corpus, and queries of two kinds.

    Attributes:
        corpus: [N, D] f32 unit vectors.
        queries: [B, D] f32 unit vectors, independent of the corpus or near its posts; these are
            timed.
        probes: [B, D] f32 unit vectors; the i-th is close to the copies of group i, if any.
        copies: The rows of each group of equal vectors, ascending.
    """

    corpus: Floats
    queries: Floats
    probes: Floats
    copies: Sequence[Rows]


def draw_dataset(
    *,
    rows: int,
    width: int,
    queries: int,
    group_sizes: Sequence[int],
    dtype: str,
    kind: Kind = "random",
    seed: int = 0,
) -> Dataset:
    """Draw a dataset.

    Args:
        rows: N.
        width: D.
        queries: B, at least the number of groups.
        group_sizes: G of each group. Of a group larger than K only the lowest rows belong to the
            answer.
        dtype: float32, or bfloat16 for values that bfloat16 represents exactly.
        kind: How vectors are distributed.
        seed: Seed of the random numbers.

    Raises:
        ValueError: The groups do not fit.
    """
    if sum(group_sizes) > rows or len(group_sizes) > queries:
        raise ValueError(f"{len(group_sizes)} groups of {group_sizes} do not fit in {rows} rows")
    rng = np.random.default_rng(seed)

    def draw(count: int) -> Floats:
        return _unit(rng.standard_normal((count, width), np.float32), dtype)

    corpus, drawn, probes = draw(rows), draw(queries), draw(queries)
    if kind == "clustered":
        corpus *= _SPREAD
        corpus += draw(_TOPICS)[rng.integers(0, _TOPICS, rows)]
        corpus = _unit(corpus, dtype)
        drawn *= _NEAR
        drawn += corpus[rng.integers(0, rows, queries)]
        drawn = _unit(drawn, dtype)
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
