"""Cases for tests of the search over shards: layouts, and corpora with and without ties."""

import functools
from collections.abc import Callable

import jax
import numpy as np
import numpy.typing as npt

from phoenix_server.search.choice import choose_layout
from phoenix_server.search.shard import Scan
from phoenix_server.search.sharded import DeviceCorpus, ShardedLayout
from server.search.cases import Bools, Floats, Ids, assert_best, find, mask, place, posts

WIDTH = 13
QUERIES = 3
FEW = 203  # rows; so few that all are scored
MANY = 2999  # rows; enough that blocks are chosen, and four times as many that groups are
# Every program takes seconds to compile, so tests share their sizes: of FEW rows these, of MANY the
# best K. Of those, blocks are chosen on up to four shards; on eight all rows are scored.
SHARDS_AND_K = ((1, 3), (1, 17), (2, 17), (4, 3), (8, 17))
K = 15  # the most for which four times MANY on one shard are enough for groups


SCANS: tuple[Scan, ...] = ("tiles", "native")


def layout_of(
    shards: int,
    rows: int,
    scan: Scan = "tiles",
    *,
    width: int = WIDTH,
    tile: int = 128,
    at_once: int = 1,
) -> ShardedLayout:
    """Return a layout over the first devices."""
    if scan == "native":
        return choose_layout(tuple(jax.devices()[:shards]), rows=rows, width=width, scan="native")
    return ShardedLayout(
        devices=tuple(jax.devices()[:shards]),
        rows=rows,
        width=width,
        tile_rows=tile,
        block_rows=8,
        queries_at_once=at_once,
    )


@functools.cache
def _compiled_scores(layout: ShardedLayout) -> Callable[[DeviceCorpus, jax.Array], jax.Array]:
    return jax.jit(layout.scores)


def search(
    layout: ShardedLayout, vectors: Floats, queries: Floats, k: int
) -> tuple[Floats, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return scores, posts, and how many of these are eligible."""
    found = find(layout, place(layout, vectors), queries, k)
    return np.asarray(found.scores), posts(layout, found.rows), np.asarray(found.eligible)


def all_scores(layout: ShardedLayout, vectors: Floats, queries: Floats) -> Floats:
    """Return the score of every post for every query."""
    corpus = place(layout, vectors)
    score = _compiled_scores(layout)
    placed = [jax.device_put(query.astype(np.float32), layout.replicated) for query in queries]
    scores = np.stack([np.asarray(score(corpus, query)) for query in placed])
    rows = layout.spread(layout.rows)
    assert np.isneginf(np.delete(scores, rows, axis=1)).all()
    return scores[:, rows]


def assert_exact(
    layout: ShardedLayout,
    vectors: Floats,
    queries: Floats,
    k: int,
    eligible: Bools | None = None,
    ids: Ids | None = None,
) -> None:
    """Check the best K of every query against all scores."""
    corpus = place(layout, vectors, ids)
    if eligible is not None:
        corpus = mask(layout, corpus, eligible)
    found = find(layout, corpus, queries, k)
    assert_best(layout, found, vectors, queries, k, eligible, ids)


def small_integers(rows: int, seed: int, distinct: int = 50) -> tuple[Floats, Floats]:
    """Draw vectors, many of them equal, and queries whose scores are whole numbers."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(-2, 3, (distinct, WIDTH)).astype(np.float64)
    queries = rng.integers(-2, 3, (QUERIES, WIDTH)).astype(np.float64)
    return kinds[rng.integers(0, distinct, rows)], queries


def whole_scores(rows: int, seed: int) -> tuple[Floats, Floats]:
    """Draw vectors and queries whose scores are whole numbers, thousands of them distinct."""
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-200, 201, (rows, WIDTH)).astype(np.float64)
    vectors[rng.integers(0, rows, 20)] = vectors[5]
    return vectors, rng.integers(-200, 201, (QUERIES, WIDTH)).astype(np.float64)
