import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_server.search.sharded import DeviceCorpus, ShardedLayout, Update, pack
from server.search.cases import (
    Bools,
    Floats,
    Ids,
    assert_best,
    find,
    mask,
    place,
    posts,
    unpack_masks,
)

WIDTH = 13
QUERIES = 3
FEW = 203  # rows; so few that all are scored
MANY = 2999  # rows; enough that blocks are chosen, and four times as many that groups are
SHARDS = (1, 2, 4, 8)
# Every program takes seconds to compile, so tests share their sizes: of FEW rows these, of MANY the
# best K. Of those, blocks are chosen on up to four shards; on eight all rows are scored.
SHARDS_AND_K = ((1, 3), (1, 17), (2, 17), (4, 3), (8, 17))
K = 15  # the most for which four times MANY on one shard are enough for groups


def _layout(
    shards: int, rows: int, *, width: int = WIDTH, tile: int = 128, at_once: int = 1
) -> ShardedLayout:
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


def _search(
    layout: ShardedLayout, vectors: Floats, queries: Floats, k: int
) -> tuple[Floats, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return scores, posts, and how many of these are eligible."""
    found = find(layout, place(layout, vectors), queries, k)
    return np.asarray(found.scores), posts(layout, found.rows), np.asarray(found.eligible)


def _all_scores(layout: ShardedLayout, vectors: Floats, queries: Floats) -> Floats:
    corpus = place(layout, vectors)
    score = _compiled_scores(layout)
    placed = [jax.device_put(query.astype(np.float32), layout.replicated) for query in queries]
    scores = np.stack([np.asarray(score(corpus, query)) for query in placed])
    rows = layout.spread(layout.rows)
    assert np.isneginf(np.delete(scores, rows, axis=1)).all()
    return scores[:, rows]


def _assert_exact(
    layout: ShardedLayout,
    vectors: Floats,
    queries: Floats,
    k: int,
    eligible: Bools | None = None,
    ids: Ids | None = None,
) -> None:
    corpus = place(layout, vectors, ids)
    if eligible is not None:
        corpus = mask(layout, corpus, eligible)
    found = find(layout, corpus, queries, k)
    assert_best(layout, found, vectors, queries, k, eligible, ids)


def _small_integers(rows: int, seed: int, distinct: int = 50) -> tuple[Floats, Floats]:
    """Draw vectors, many of them equal, and queries whose scores are whole numbers."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(-2, 3, (distinct, WIDTH)).astype(np.float64)
    queries = rng.integers(-2, 3, (QUERIES, WIDTH)).astype(np.float64)
    return kinds[rng.integers(0, distinct, rows)], queries


def _whole_scores(rows: int, seed: int) -> tuple[Floats, Floats]:
    """Draw vectors and queries whose scores are whole numbers, thousands of them distinct."""
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-200, 201, (rows, WIDTH)).astype(np.float64)
    vectors[rng.integers(0, rows, 20)] = vectors[5]
    return vectors, rng.integers(-200, 201, (QUERIES, WIDTH)).astype(np.float64)


# The last four ask for: all posts, of one shard and of more than hold so many each; more than there
# is memory for, in one shard and in two.
@pytest.mark.parametrize(
    ("shards", "k"), [(1, 1), (8, 1), *SHARDS_AND_K, (1, FEW), (8, FEW), (1, 300), (2, 300)]
)
def test_the_answer_is_exact_for_every_top_k(shards: int, k: int) -> None:
    _assert_exact(_layout(shards, FEW), *_small_integers(FEW, seed=k), k)


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
def test_the_answer_is_exact_where_blocks_are_chosen(shards: int, rows: int, k: int) -> None:
    # Among few distinct scores hundreds of blocks tie, so that nothing can be proven from maxima.
    _assert_exact(_layout(shards, rows), *_small_integers(rows, seed=k), k)
    # Among many distinct scores it can.
    _assert_exact(_layout(shards, rows), *_whole_scores(rows, seed=k), k)


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_only_what_cannot_be_proven_is_scored_anew(at_once: int) -> None:
    layout = _layout(1, MANY, at_once=at_once)
    vectors, queries = _whole_scores(MANY, seed=0)
    queries[1] = 0
    queries[1, 3], vectors[:, 3] = 1, 7  # to this one all rows tie
    found = find(layout, place(layout, vectors), queries, K)
    assert int(found.widened) == 1
    np.testing.assert_array_equal(found.rows[1], range(K))
    _assert_exact(layout, vectors, queries, K)


@pytest.mark.parametrize("rows", [MANY, 4 * MANY])
def test_queries_of_zeros_cost_no_second_look(rows: int) -> None:
    # They pad batches.
    layout = _layout(1, rows)
    vectors, queries = _whole_scores(rows, seed=0)
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
    layout = _layout(1, MANY)
    found = find(layout, place(layout, vectors), queries, K)
    assert int(found.widened) == QUERIES
    everything = _all_scores(layout, vectors, queries)
    np.testing.assert_array_equal(found.rows, np.argsort(-everything, kind="stable")[:, :K])


def test_one_query_in_a_batch_has_the_answer_of_that_query_alone() -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(MANY, WIDTH)), rng.normal(size=(32, WIDTH))
    together = _search(_layout(1, MANY), vectors, queries, K)
    for i in (0, 31):
        for k in (K, 29):
            alone = _search(_layout(1, MANY), vectors, queries[i : i + 1], k)
            assert alone[0][0, :K].tobytes() == together[0][i].tobytes()
            np.testing.assert_array_equal(alone[1][0, :K], together[1][i])


def test_vectors_of_bfloat16_are_searched_exactly() -> None:
    vectors, queries = _whole_scores(MANY, seed=0)
    queries = queries + 2.0**-10  # rounding to bfloat16 moves them
    layout = _layout(2, MANY)
    shards, live = place(layout, vectors)
    halves = shards._replace(vectors=shards.vectors.astype(jax.numpy.bfloat16))
    found = find(layout, DeviceCorpus(halves, live), queries, K)
    kept = vectors.astype(jax.numpy.bfloat16).astype(np.float64)
    order = np.argsort(-(queries @ kept.T), axis=1, kind="stable")[:, :K]
    np.testing.assert_array_equal(posts(layout, found.rows), order)


@pytest.mark.parametrize("rows", [1, 5, 9])
@pytest.mark.parametrize("k", [1, 17])
def test_shards_without_rows_change_nothing(rows: int, k: int) -> None:
    _assert_exact(_layout(8, rows), *_small_integers(rows, seed=rows), k)


@pytest.mark.parametrize("shards", [1, 4])
def test_shards_of_whole_tiles_are_exact(shards: int) -> None:
    _assert_exact(_layout(shards, 256), *_small_integers(256, seed=shards), 3)


@settings(deadline=None, max_examples=40)
@given(
    shards_and_k=st.sampled_from(SHARDS_AND_K),
    seed=st.integers(0, 2**32 - 1),
    distinct=st.integers(1, 60),
    share=st.sampled_from([0.0, 0.01, 0.5, 1.0]),
)
def test_ties_and_masks_are_exact(
    shards_and_k: tuple[int, int], seed: int, distinct: int, share: float
) -> None:
    shards, k = shards_and_k
    vectors, queries = _small_integers(FEW, seed, distinct)
    rng = np.random.default_rng(seed)
    eligible = rng.random((QUERIES, FEW) if seed % 2 else FEW) < share
    ids = rng.permutation(np.arange(FEW, dtype=np.uint64) * np.uint64(2**28) + np.uint64(5))
    _assert_exact(_layout(shards, FEW), vectors, queries, k, eligible, ids)


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("distinct", [1, 2, 400])
def test_ties_are_ordered_by_id_where_blocks_are_chosen(shards: int, distinct: int) -> None:
    vectors, queries = _small_integers(4 * MANY, seed=0, distinct=distinct)
    ids = np.random.default_rng(0).permutation(4 * MANY).astype(np.uint64) << np.uint64(31)
    _assert_exact(_layout(shards, 4 * MANY), vectors, queries, K, ids=ids + np.uint64(1))


@pytest.mark.parametrize("shards", [1, 4])
def test_each_query_has_its_own_mask_where_blocks_are_chosen(shards: int) -> None:
    vectors, queries = _whole_scores(4 * MANY, seed=0)
    eligible = np.random.default_rng(0).random((QUERIES, 4 * MANY)) < [[0.5], [0.01], [0.001]]
    _assert_exact(_layout(shards, 4 * MANY), vectors, queries, K, eligible)


@pytest.mark.parametrize(("shards", "k"), SHARDS_AND_K)
def test_a_masked_row_never_leaks(shards: int, k: int) -> None:
    vectors, queries = _small_integers(FEW, seed=1)
    best = np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]
    eligible = np.ones(FEW, np.bool_)
    eligible[best] = False
    eligible[150:] = False
    _assert_exact(_layout(shards, FEW), vectors, queries, k, eligible)
    _assert_exact(_layout(shards, FEW), vectors, queries, k, np.zeros(FEW, np.bool_))


def test_scores_and_order_are_bit_for_bit_the_same_in_any_shards_and_tiles() -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(MANY, WIDTH)), rng.normal(size=(QUERIES, WIDTH))
    vectors[rng.integers(0, MANY, 400)] = vectors[5]
    layouts = [_layout(shards, MANY) for shards in SHARDS]
    layouts += [_layout(shards, MANY, tile=512) for shards in (1, 8)]
    answers = [_search(layout, vectors, queries, K) for layout in layouts]
    for scores, rows, eligible in answers:
        assert scores.tobytes() == answers[0][0].tobytes()
        np.testing.assert_array_equal(rows, answers[0][1])
        assert eligible.tolist() == [MANY]
    exact = np.sort(queries @ vectors.T, axis=1)[:, ::-1][:, :K]
    np.testing.assert_allclose(answers[0][0], exact, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("tile", [128, 8192])
def test_a_score_does_not_depend_on_where_the_row_lies(shards: int, tile: int) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(MANY, WIDTH)), rng.normal(size=(QUERIES, WIDTH))
    moved = rng.permutation(MANY)
    layout = _layout(shards, MANY, tile=tile)
    here, there = (_all_scores(layout, v, queries) for v in (vectors, vectors[moved]))
    assert here[:, moved].tobytes() == there.tobytes()
    everywhere = _all_scores(layout, np.tile(vectors[3], (MANY, 1)), queries)
    assert (everywhere == here[:, 3:4]).all()


@pytest.mark.parametrize("shards", [1, 4])
def test_top_k_gives_the_scores_that_scores_gives(shards: int) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(MANY, WIDTH)), rng.normal(size=(QUERIES, WIDTH))
    layout = _layout(shards, MANY)
    scores, rows, _ = _search(layout, vectors, queries, K)
    everything = _all_scores(layout, vectors, queries)
    assert np.take_along_axis(everything, rows, axis=1).tobytes() == scores.tobytes()


# Within a shard, and among shards that each give less than is asked for, or more.
@pytest.mark.parametrize(("shards", "k"), [(1, 40), (8, 3), (8, 40)])
def test_minus_zero_ties_with_zero(shards: int, k: int) -> None:
    # Products that underflow keep their sign: -0.0 for the even rows, 0.0 for the odd ones.
    tiny = np.where(np.arange(FEW)[:, None] % 2, 1e-30, -1e-30)
    layout = _layout(shards, FEW, width=1)
    scores, rows, _ = _search(layout, tiny, np.full((1, 1), 1e-30), k)
    np.testing.assert_array_equal(rows, [range(k)])
    assert not np.signbit(scores).any()


@pytest.mark.parametrize("shards", [1, 3])
def test_an_update_writes_rows_and_says_which_are_live(shards: int) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.integers(-9, 10, (203, WIDTH)).astype(np.float64)
    layout = _layout(shards, 203)
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
