from typing import Any

import jax
import numpy as np
import pytest

from phoenix_server.search.shard import Scan
from phoenix_server.search.sharded import DeviceCorpus, ShardedLayout, Update, pack
from server.search.cases import assert_best, find, mask, place, posts, unpack_masks
from server.search.sharded_cases import (
    FEW,
    MANY,
    QUERIES,
    SCANS,
    SHARDS_AND_K,
    WIDTH,
    K,
    all_scores,
    assert_exact,
    layout_of,
    search,
    small_integers,
    whole_scores,
)


# The last four ask for: all posts, of one shard and of more than hold so many each; more than there
# is memory for, in one shard and in two.
@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize(
    ("shards", "k"), [(1, 1), (8, 1), *SHARDS_AND_K, (1, FEW), (8, FEW), (1, 300), (2, 300)]
)
def test_the_answer_is_exact_for_every_top_k(scan: Scan, shards: int, k: int) -> None:
    assert_exact(layout_of(shards, FEW, scan), *small_integers(FEW, seed=k), k)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize(
    ("shards", "rows", "k"),
    [
        (1, MANY, 1),
        (1, MANY, K),
        (1, 4 * MANY, K),
        (4, MANY, K),
        (4, 4 * MANY, 1),
        (4, 4 * MANY, K),
    ],
)
def test_the_answer_is_exact_where_blocks_are_chosen(
    scan: Scan, shards: int, rows: int, k: int
) -> None:
    # Among few distinct scores hundreds of blocks tie, so that nothing can be proven from maxima.
    assert_exact(layout_of(shards, rows, scan), *small_integers(rows, seed=k), k)
    # Among many distinct scores it can.
    assert_exact(layout_of(shards, rows, scan), *whole_scores(rows, seed=k), k)


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_only_what_cannot_be_proven_is_scored_anew(at_once: int) -> None:
    layout = layout_of(1, MANY, at_once=at_once)
    vectors, queries = whole_scores(MANY, seed=0)
    queries[1] = 0
    queries[1, 3], vectors[:, 3] = 1, 7  # to this one all rows tie
    found = find(layout, place(layout, vectors), queries, K)
    assert int(found.widened) == 1
    np.testing.assert_array_equal(found.rows[1], range(K))
    assert_exact(layout, vectors, queries, K)


@pytest.mark.parametrize("rows", [MANY, 4 * MANY])
def test_queries_of_zeros_cost_no_second_look(rows: int) -> None:
    # They pad batches.
    layout = layout_of(1, rows)
    vectors, queries = whole_scores(rows, seed=0)
    vectors[::2] = -np.abs(vectors[::2])  # whose products with 0.0 are all -0.0
    eligible = np.arange(rows) % 7 == 3
    queries[2] = 0
    found = find(layout, mask(layout, place(layout, vectors), eligible), queries, K)
    assert int(found.widened) == 0
    assert_best(layout, found, vectors, queries[:2], K, eligible)


def test_a_near_tie_that_the_scan_may_misjudge_is_scored_anew() -> None:
    # All scores lie closer to one another than the scan's rounding can tell apart.
    rng = np.random.default_rng(0)
    vectors = np.zeros((MANY, WIDTH))
    vectors[:, 0], vectors[:, 1] = 1, rng.permutation(MANY)
    queries = np.tile(np.eye(WIDTH)[0] + 2.0**-36 * np.eye(WIDTH)[1], (QUERIES, 1))
    layout = layout_of(1, MANY)
    found = find(layout, place(layout, vectors), queries, K)
    assert int(found.widened) == QUERIES
    everything = all_scores(layout, vectors, queries)
    np.testing.assert_array_equal(found.rows, np.argsort(-everything, kind="stable")[:, :K])


@pytest.mark.parametrize("scan", SCANS)
def test_one_query_in_a_batch_has_the_answer_of_that_query_alone(scan: Scan) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(MANY, WIDTH)), rng.normal(size=(32, WIDTH))
    together = search(layout_of(1, MANY, scan), vectors, queries, K)
    for i in (0, 31):
        for k in (K, 29):
            alone = search(layout_of(1, MANY, scan), vectors, queries[i : i + 1], k)
            assert alone[0][0, :K].tobytes() == together[0][i].tobytes()
            np.testing.assert_array_equal(alone[1][0, :K], together[1][i])


def test_vectors_of_bfloat16_are_searched_exactly() -> None:
    vectors, queries = whole_scores(MANY, seed=0)
    queries = queries + 2.0**-10  # rounding to bfloat16 moves them
    layout = layout_of(2, MANY)
    shards, live = place(layout, vectors)
    halves = shards._replace(vectors=shards.vectors.astype(jax.numpy.bfloat16))
    found = find(layout, DeviceCorpus(halves, live), queries, K)
    kept = vectors.astype(jax.numpy.bfloat16).astype(np.float64)
    order = np.argsort(-(queries @ kept.T), axis=1, kind="stable")[:, :K]
    np.testing.assert_array_equal(posts(layout, found.rows), order)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("rows", [1, 5, 9])
@pytest.mark.parametrize("k", [1, 17])
def test_shards_without_rows_change_nothing(scan: Scan, rows: int, k: int) -> None:
    assert_exact(layout_of(8, rows, scan), *small_integers(rows, seed=rows), k)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("shards", [1, 4])
def test_shards_of_whole_tiles_are_exact(scan: Scan, shards: int) -> None:
    assert_exact(layout_of(shards, 256, scan), *small_integers(256, seed=shards), 3)


@pytest.mark.parametrize("scan", SCANS)
@pytest.mark.parametrize("shards", [1, 3])
def test_an_update_writes_rows_and_says_which_are_live(scan: Scan, shards: int) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(-9, 10, (203, WIDTH)).astype(np.float64)
    layout = layout_of(shards, 203, scan)
    corpus = place(layout, vectors)
    rows = layout.spread(203)[[5, 80, 202]]
    changed = rng.integers(-9, 10, (3, WIDTH)).astype(np.float32)
    live = unpack_masks(corpus.live)[0]
    live[layout.spread(203)[7]] = False
    words = np.array([layout.spread(203)[7] // 32], np.int32)
    beyond = layout.total_rows
    update = Update(
        rows=np.append(rows, beyond).astype(np.int32),
        vectors=np.pad(changed, ((0, 1), (0, 0))),
        ids=np.full((4, 2), 3, np.uint32),
        words=np.append(words, beyond).astype(np.int32),
        bits=np.append(pack(live)[words], 0).astype(np.uint32),
        longest=np.float32(100),
        tiles=np.full(shards, layout.padded_rows // layout.tile_rows, np.int32),
    )
    placed = jax.device_put(update, layout.replicated)
    shards_now, live_now = jax.jit(layout.update)(corpus, placed)
    expected = np.asarray(corpus.shards.vectors).copy()
    expected[rows] = changed
    np.testing.assert_array_equal(shards_now.vectors, expected)
    np.testing.assert_array_equal(
        np.flatnonzero((np.asarray(shards_now.ids) == 3).all(axis=1)), np.sort(rows)
    )
    np.testing.assert_array_equal(unpack_masks(live_now)[0], live)
    assert (np.asarray(shards_now.longest) == 100).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"devices": ()},
        {"rows": 0},
        {"rows": 2**31},
        {"width": 0},
        {"tile_rows": 20},
        {"tile_rows": 0},
        {"block_rows": 0},
        {"block_rows": 4},
        {"block_rows": 64, "tile_rows": 64},
        {"tile_rows": 40},
        {"queries_at_once": 0},
    ],
)
def test_a_layout_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    fields: dict[str, Any] = {
        "devices": tuple(jax.devices()[:1]),
        "rows": 5,
        "width": 2,
        "tile_rows": 32,
        "block_rows": 8,
    }
    ShardedLayout(**fields)
    with pytest.raises(
        ValueError, match=r"layout needs|31 bits|not a multiple of|multiples of|queries_at_once"
    ):
        ShardedLayout(**(fields | changes))
