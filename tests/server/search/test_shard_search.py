"""The search of one shard: what is proven, what is widened, and the order of ties."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phoenix_server.search.shard import ScanConfig, Shard
from phoenix_server.search.shard_search import in_order, search_shard
from phoenix_server.search.sharded import split_ids
from server.search.cases import Floats, pack_masks

WIDTH = 13
ROWS = 1024
BATCH = 3
K = 5


_search = jax.jit(
    partial(search_shard, wanted=jnp.full(BATCH, K), k=K, config=ScanConfig(tile_rows=128))
)


def _shard(vectors: Floats) -> Shard:
    return Shard(
        jnp.asarray(vectors, jnp.float32),
        ids=jnp.asarray(split_ids(np.arange(len(vectors), 0, -1, dtype=np.uint64))),
        longest=jnp.full(1, 1.001 * np.linalg.norm(vectors, axis=1).max(), jnp.float32),
        tiles=jnp.full(1, len(vectors) // 128, jnp.int32),
    )


def _draw() -> tuple[Floats, Floats]:
    rng = np.random.default_rng(0)
    vectors = rng.integers(-200, 201, (ROWS, WIDTH)).astype(np.float32)
    return vectors, rng.integers(-200, 201, (BATCH, WIDTH)).astype(np.float32)


def _best(vectors: Floats, query: Floats) -> list[float]:
    return np.sort(vectors.astype(np.float64) @ query)[: -K - 1 : -1].tolist()


def test_distinct_scores_are_proven_from_the_candidates() -> None:
    vectors, queries = _draw()
    everything = pack_masks(np.ones(ROWS, np.bool_))
    found = _search(_shard(vectors), everything, queries)
    assert int(found.widened) == 0
    for i, query in enumerate(queries):
        assert sorted(found.scores[i].tolist(), reverse=True) == _best(vectors, query)
        np.testing.assert_array_equal(found.scores[i], vectors[found.rows[i]] @ query)


def test_only_queries_whose_rows_tie_are_widened_and_take_the_smallest_ids() -> None:
    vectors, queries = _draw()
    vectors[:, 3] = 7
    queries[1] = 0
    queries[1, 3] = 1  # to this query all rows are equal
    found = _search(_shard(vectors), pack_masks(np.ones(ROWS, np.bool_)), queries)
    assert int(found.widened) == 1
    assert sorted(found.rows[1].tolist()) == list(range(ROWS - K, ROWS))
    for i in (0, 2):
        assert sorted(found.scores[i].tolist(), reverse=True) == _best(vectors, queries[i])


@pytest.mark.parametrize("count", [0, 3])
def test_fewer_eligible_rows_than_asked_for_are_all_found(count: int) -> None:
    vectors, queries = _draw()
    eligible = np.zeros(ROWS, np.bool_)
    eligible[[5, 500, 1000][:count]] = True
    found = _search(_shard(vectors), pack_masks(eligible), queries)
    assert int(found.widened) == 0
    for scores, rows in zip(np.asarray(found.scores), np.asarray(found.rows), strict=True):
        assert np.isfinite(scores).sum() == count
        assert sorted(rows[np.isfinite(scores)]) == [5, 500, 1000][:count]


def test_padding_queries_of_zeros_are_not_widened() -> None:
    vectors, queries = _draw()
    queries[2] = 0
    found = _search(_shard(vectors), pack_masks(np.ones(ROWS, np.bool_)), queries)
    assert int(found.widened) == 0


@pytest.mark.parametrize("scores", [[1, 3, 2, 5], [1, 3, 3, 3], [2, 2, -np.inf, -np.inf]])
def test_rows_are_sorted_by_score_and_then_by_id(scores: list[float]) -> None:
    values = np.array([scores], np.float32)
    ids = np.array([2**40 + 1, 2**63, 9, 2**40], np.uint64)
    rows = np.array([[10, 11, 12, 13]], np.int32)
    best, ordered = jax.jit(in_order)(values, rows, split_ids(ids)[None], np.ones((1, 2)))
    order = np.lexsort((ids, -values[0]))
    np.testing.assert_array_equal(best[0], values[0][order])
    finite = np.isfinite(values[0][order])
    np.testing.assert_array_equal(ordered[0][finite], rows[0][order][finite])
