"""The scan in tiles: maxima within the bound of their error, and the choice of blocks."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phoenix_server.search.shard import ScanConfig, Shard
from phoenix_server.search.tiles import best_blocks, block_maxima, find_candidates, score_error
from server.search.cases import Bools, Floats, pack_masks

WIDTH = 13
ROWS = 1024
BLOCK = 8
BATCH = 3
CONFIG = ScanConfig(tile_rows=128, block_rows=BLOCK)


def _shard(vectors: Floats, dtype: Any, tiles: int = ROWS // 128) -> Shard:
    kept = jnp.asarray(vectors, dtype)
    longest = np.linalg.norm(np.asarray(kept, np.float64), axis=1).max() * 1.0001
    return Shard(
        kept,
        ids=jnp.zeros((len(vectors), 2), jnp.uint32),
        longest=jnp.full(1, longest, jnp.float32),
        tiles=jnp.full(1, tiles, jnp.int32),
    )


def _maxima(shard: Shard, eligible: Bools, queries: Floats) -> Floats:
    """Return the maxima of blocks in float64, [B, P/W]."""
    scores = queries.astype(np.float64) @ np.asarray(shard.vectors, np.float64).T
    return np.where(eligible, scores, -np.inf).reshape(len(queries), -1, BLOCK).max(axis=-1)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("masks", [1, BATCH])
def test_maxima_are_within_the_bound_of_those_of_exact_scores(dtype: Any, masks: int) -> None:
    rng = np.random.default_rng(0)
    shard = _shard(rng.normal(size=(ROWS, WIDTH)), dtype)
    queries = rng.normal(size=(BATCH, WIDTH)).astype(np.float32)
    eligible = rng.random((masks, ROWS)) < 0.3
    eligible[:, :BLOCK] = False
    found = np.asarray(
        jax.jit(partial(block_maxima, config=CONFIG))(shard, pack_masks(eligible), queries),
        np.float64,
    )
    exact = _maxima(shard, eligible, queries)
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(exact))
    some = np.isfinite(exact)
    error = np.abs(np.where(some, found, 0) - np.where(some, exact, 0)).max(axis=1)
    bound = np.asarray(jax.jit(score_error)(shard, queries))
    assert (error <= bound).all()
    assert (bound < (3e-4 if dtype == jnp.float32 else 0.3)).all()


def test_tiles_without_rows_are_not_scanned() -> None:
    shard = _shard(np.ones((ROWS, WIDTH)), jnp.float32, tiles=3)
    everything = pack_masks(np.ones(ROWS, np.bool_))
    found = block_maxima(shard, jnp.asarray(everything), jnp.ones((1, WIDTH)), CONFIG)
    assert np.isfinite(found[0, : 3 * 128 // BLOCK]).all()
    assert np.isneginf(found[0, 3 * 128 // BLOCK :]).all()


@pytest.mark.parametrize("blocks", [100, 1600])  # 1600 are enough for groups
def test_the_blocks_of_largest_maxima_are_chosen(blocks: int) -> None:
    maxima = np.random.default_rng(0).normal(size=(BATCH, blocks)).astype(np.float32)
    chosen, left_out = jax.jit(partial(best_blocks, least=20, most=40))(maxima)
    for row, places, rest in zip(maxima, np.asarray(chosen), left_out, strict=True):
        kept = places[places < blocks]
        assert 20 <= len(kept) <= 40
        assert (np.diff(kept) > 0).all()
        assert set(np.argsort(-row)[:20]) <= set(kept)
        assert rest >= np.delete(row, kept).max()


def test_candidates_are_the_eligible_rows_of_the_chosen_blocks() -> None:
    rng = np.random.default_rng(0)
    shard = _shard(rng.normal(size=(ROWS, WIDTH)), jnp.float32)
    queries = rng.normal(size=(BATCH, WIDTH)).astype(np.float32)
    eligible = rng.random((BATCH, ROWS)) < 0.5
    found = jax.jit(partial(find_candidates, k=5, chosen=30, config=CONFIG))(
        shard, pack_masks(eligible), queries
    )
    exact = queries.astype(np.float64) @ np.asarray(shard.vectors, np.float64).T
    assert np.asarray(found.complete).all()
    for i in range(BATCH):
        there = np.isfinite(np.asarray(found.scores[i]))
        rows = np.asarray(found.rows[i])[there]
        assert eligible[i, rows].all()
        assert len(set(rows.tolist())) == len(rows)
        np.testing.assert_allclose(found.scores[i][there], exact[i, rows], rtol=0, atol=1e-5)
        others = np.setdiff1d(np.flatnonzero(eligible[i]), rows)
        assert exact[i, others].max() <= found.left_out[i] + 1e-5
