import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from phoenix_server.search.shard import Shard
from phoenix_server.search.sharded import DeviceCorpus, ShardedLayout
from server.search.cases import Floats, Ids, assert_best, find, mask, place, posts

WIDTH = 16
QUERIES = 3
MANY = 1999  # rows; enough that blocks are chosen on two shards
K = 9


def _layout(shards: int) -> ShardedLayout:
    return ShardedLayout(
        devices=tuple(jax.devices()[:shards]),
        rows=MANY,
        width=WIDTH,
        tile_rows=64,
        block_rows=8,
        scan="kernel",
        interpret=True,
    )


def _whole_scores() -> tuple[Floats, Floats]:
    """Draw vectors and queries whose scores are whole numbers, thousands of them distinct."""
    rng = np.random.default_rng(0)
    vectors = rng.integers(-120, 121, (MANY, WIDTH)).astype(np.float64)  # exact in bfloat16 too
    vectors[rng.integers(0, MANY, 20)] = vectors[5]
    return vectors, rng.integers(-120, 121, (QUERIES, WIDTH)).astype(np.float64)


def _shuffled_ids() -> Ids:
    """Draw ids that do not ascend with the rows."""
    rng = np.random.default_rng(1)
    return rng.permutation(MANY).astype(np.uint64) * np.uint64(2**31) + np.uint64(1)


@pytest.mark.parametrize(
    ("shards", "dtype"), [(1, jnp.float32), (1, jnp.bfloat16), (2, jnp.float32)]
)
def test_the_answer_is_exact_and_proven(shards: int, dtype: Any) -> None:
    layout = _layout(shards)
    vectors, queries = _whole_scores()
    placed, live = place(layout, vectors)
    corpus = DeviceCorpus(placed._replace(vectors=placed.vectors.astype(dtype)), live)
    found = find(layout, corpus, queries, K)
    assert_best(layout, found, vectors, queries, K)
    assert int(found.widened) == 0


def test_only_what_cannot_be_proven_is_scored_anew() -> None:
    layout = _layout(1)
    vectors, queries = _whole_scores()
    queries[1] = 0
    queries[1, 3], vectors[:, 3] = 1, 7  # to this one all rows tie
    ids = _shuffled_ids()
    found = find(layout, place(layout, vectors, ids), queries, K)
    assert_best(layout, found, vectors, queries, K, ids=ids)
    assert int(found.widened) == 1


@pytest.mark.parametrize("shards", [1, 2])
def test_a_few_duplicates_at_the_last_place_need_no_second_look(shards: int) -> None:
    layout = _layout(shards)
    vectors, queries = _whole_scores()
    queries[0] = vectors[5] = vectors[::100] = 120  # twenty rows are the best of one query
    ids = _shuffled_ids()
    found = find(layout, place(layout, vectors, ids), queries, K)
    assert_best(layout, found, vectors, queries, K, ids=ids)
    assert int(found.widened) == 0


@pytest.mark.parametrize("masks", [1, QUERIES])
def test_candidates_that_leave_out_a_tie_with_the_last_place_are_widened(masks: int) -> None:
    layout = _layout(1)
    vectors, queries = _whole_scores()
    queries[1] = 120
    vectors[100:105], vectors[800:920] = 120, 100  # five rows are the best, then many tie
    eligible = np.random.default_rng(2).random((masks, MANY)) < 0.9
    ids = np.arange(MANY, 0, -1, dtype=np.uint64)  # of those that tie, the last come first
    found = find(layout, mask(layout, place(layout, vectors, ids), eligible), queries, K)
    assert_best(layout, found, vectors, queries, K, eligible, ids)
    assert int(found.widened) == 1


def test_queries_of_zeros_cost_no_second_look() -> None:
    layout = _layout(1)
    vectors, queries = _whole_scores()
    eligible = np.arange(MANY) % 7 == 3
    queries[2] = 0
    found = find(layout, mask(layout, place(layout, vectors), eligible), queries, K)
    assert_best(layout, found, vectors, queries[:2], K, eligible)
    assert int(found.widened) == 0


@pytest.mark.parametrize("eligible", [0, 5, 600])
@pytest.mark.parametrize("shards", [1, 2])
def test_a_masked_row_never_leaks(shards: int, eligible: int) -> None:
    layout = _layout(shards)
    vectors, queries = _whole_scores()
    some = np.zeros(MANY, np.bool_)
    some[400 : 400 + eligible] = True  # neighbours: few blocks, each with many eligible rows
    found = find(layout, mask(layout, place(layout, vectors), some), queries, K)
    assert_best(layout, found, vectors, queries, K, some)


@pytest.mark.parametrize("shares", [(0.5, 0.05, 0.003), (0.0, 1.0, 0.5)])
@pytest.mark.parametrize("shards", [1, 2])
def test_each_query_has_its_own_mask(shards: int, shares: tuple[float, ...]) -> None:
    layout = _layout(shards)
    vectors, queries = _whole_scores()
    eligible = np.random.default_rng(2).random((QUERIES, MANY)) < np.array(shares)[:, None]
    ids = _shuffled_ids()
    found = find(layout, mask(layout, place(layout, vectors, ids), eligible), queries, K)
    assert_best(layout, found, vectors, queries, K, eligible, ids)
    assert int(found.widened) == 0


def test_a_query_that_is_scored_anew_keeps_to_its_own_mask() -> None:
    layout = _layout(1)
    vectors, queries = _whole_scores()
    vectors[:] = vectors[5]  # to all queries all rows tie
    eligible = np.arange(MANY) % QUERIES == np.arange(QUERIES)[:, None]
    ids = _shuffled_ids()
    found = find(layout, mask(layout, place(layout, vectors, ids), eligible), queries, K)
    assert_best(layout, found, vectors, queries, K, eligible, ids)
    assert int(found.widened) == QUERIES


def test_scores_are_bit_for_bit_those_of_all_rows_on_any_number_of_shards() -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(MANY, WIDTH)), rng.normal(size=(QUERIES, WIDTH))
    exact = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :K]
    answers: list[Floats] = []
    for shards in (1, 2):
        layout = _layout(shards)
        corpus = place(layout, vectors)
        found = find(layout, corpus, queries, K)
        np.testing.assert_array_equal(posts(layout, found.rows), exact)
        query = jax.device_put(queries[0].astype(np.float32), layout.replicated)
        scores = np.asarray(jax.jit(layout.scores)(corpus, query))
        assert scores[found.rows[0]].tobytes() == np.asarray(found.scores[0]).tobytes()
        answers.append(np.asarray(found.scores))
    assert answers[0].tobytes() == answers[1].tobytes()


@pytest.mark.parametrize("own_masks", [False, True])
@pytest.mark.parametrize("batch", [1, 33, 256, 300])
@pytest.mark.parametrize(
    ("dtype", "rows"),
    [(jnp.bfloat16, 10_000_000), (jnp.bfloat16, 40_000_000), (jnp.float32, 10**6)],
)
def test_the_search_lowers_to_kernels_for_cuda_at_real_sizes(
    batch: int, dtype: Any, rows: int, own_masks: bool
) -> None:
    layout = ShardedLayout(
        devices=(jax.devices()[0],),
        rows=rows,
        width=128,
        tile_rows=1 << 13,
        block_rows=32,
        scan="kernel",
    )
    spec: Any = functools.partial(jax.ShapeDtypeStruct, sharding=layout.by_rows)
    shards = Shard(
        spec((layout.padded_rows, 128), dtype),
        spec((layout.padded_rows, 2), np.uint32),
        spec((1,), np.float32),
        spec((1,), np.int32),
    )
    words = (batch if own_masks else 1, layout.padded_rows // 32)
    eligible = jax.ShapeDtypeStruct(words, np.uint32, sharding=layout.words)
    queries = jax.ShapeDtypeStruct((batch, 128), np.float32, sharding=layout.replicated)
    wanted = jax.ShapeDtypeStruct((batch,), np.int32, sharding=layout.replicated)
    kernel = export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")
    lowered = export.export(
        jax.jit(functools.partial(layout.top_k, k=1000)),
        platforms=["cuda"],
        disabled_checks=[kernel],
    )(shards, eligible, queries, wanted).mlir_module()
    names = ("block_maxima", "kth_largest", "keep_largest", "block_scores")
    assert all(f'name = "{name}"' in lowered for name in names)
