import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phoenix_server.search.kernels.block_maxima import (
    Tile,
    block_maxima,
    of_blocks,
    query_slice,
    rounding_error,
    split,
    tile_for,
)
from phoenix_server.search.shard import ScanConfig, Shard
from phoenix_server.search.tiles import block_maxima as maxima_in_tiles
from phoenix_server.search.tiles import score_error
from server.search.cases import Bools, Floats, pack_masks

WIDTH = 32
BLOCK = 8
TILE = Tile(blocks=16, warps=4, stages=2)
DTYPES = (jnp.bfloat16, jnp.float32)


def _draw(
    blocks: int, batch: int, dtype: Any, seed: int = 0, masks: int = 1
) -> tuple[jax.Array, Bools, jax.Array]:
    """Draw vectors, masks [E, P] and queries."""
    rng = np.random.default_rng(seed)
    vectors = jnp.asarray(rng.normal(size=(blocks * BLOCK, WIDTH)), dtype)
    queries = jnp.asarray(rng.normal(size=(batch, WIDTH)), jnp.float32)
    return vectors, rng.random((masks, blocks * BLOCK)) < 0.4, queries


def _scan(vectors: jax.Array, eligible: Bools, queries: jax.Array, parts: int = 2) -> jax.Array:
    return _scan_words(vectors, jnp.asarray(pack_masks(eligible)), queries, parts)


@functools.partial(jax.jit, static_argnames="parts")
def _scan_words(
    vectors: jax.Array, eligible: jax.Array, queries: jax.Array, parts: int
) -> jax.Array:
    return block_maxima(
        vectors,
        of_blocks(eligible, BLOCK),
        queries,
        block_rows=BLOCK,
        interpret=True,
        parts=parts,
        tile=TILE,
    )


def _exact(vectors: jax.Array, eligible: Bools, queries: jax.Array) -> Floats:
    scores = np.asarray(queries, np.float64) @ np.asarray(vectors, np.float64).T
    return np.where(eligible, scores, -np.inf).reshape(len(queries), -1, BLOCK).max(axis=-1)


def _longest(vectors: jax.Array) -> float:
    return float(np.linalg.norm(np.asarray(vectors, np.float64), axis=1).max())


def _assert_within_bound(
    vectors: jax.Array, eligible: Bools, queries: jax.Array, parts: int = 2
) -> None:
    found = np.asarray(_scan(vectors, eligible, queries, parts))
    exact = _exact(vectors, eligible, queries)
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(exact))
    some = ~np.isneginf(exact)
    bound = np.asarray(rounding_error(queries, vectors.dtype, parts), np.float64)[:, None]
    error = np.abs(np.where(some, found, 0) - np.where(some, exact, 0))
    assert (error <= bound * _longest(vectors)).all()
    assert some.any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("blocks", "batch"), [(16, 1), (36, 8), (20, 33)])
def test_maxima_are_those_of_the_scores_within_the_bound(
    dtype: Any, blocks: int, batch: int
) -> None:
    _assert_within_bound(*_draw(blocks, batch, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("blocks", "batch"), [(36, 2), (20, 33), (16, 300)])
def test_each_query_sees_only_the_rows_of_its_own_mask(dtype: Any, blocks: int, batch: int) -> None:
    assert query_slice(300, WIDTH, jnp.dtype(dtype)) < 300  # so they take several programs
    _assert_within_bound(*_draw(blocks, batch, dtype, masks=batch))


def test_queries_in_one_part_are_off_by_what_the_bound_says() -> None:
    vectors, _, queries = _draw(36, 8, jnp.bfloat16)
    eligible = np.ones((1, len(vectors)), np.bool_)
    _assert_within_bound(vectors, eligible, queries, parts=1)
    # The second part is worth its product: without it the error is larger than with it allowed.
    error = np.abs(
        np.asarray(_scan(vectors, eligible, queries, 1)) - _exact(vectors, eligible, queries)
    )
    assert error.max() > float(rounding_error(queries, vectors.dtype).max()) * _longest(vectors)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["halfway", "cancelling", "tiny", "one sign"])
def test_the_bound_holds_for_numbers_that_round_badly(dtype: Any, case: str) -> None:
    vectors, eligible, queries = _draw(36, 8, jnp.float32, seed=1)
    if case == "halfway":  # between two bfloat16 numbers, and again between two of what is left
        queries = jnp.sign(queries) * (1 + 2.0**-8 + 2.0**-17)
        vectors = jnp.sign(vectors) * (1 + 2.0**-8 + 2.0**-17)
    elif case == "cancelling":  # large products whose sum is small
        signs = jnp.where(jnp.arange(WIDTH) % 2, 1.0, -1.0)
        vectors = jnp.abs(vectors[:, :1]) * 1000 + vectors * 1e-3
        queries = signs * (1 + queries * 1e-3)
    elif case == "tiny":
        queries, vectors = queries * 1e-12, vectors * 1e-6
    else:  # every partial sum is as long as the vectors
        queries, vectors = jnp.abs(queries), jnp.abs(vectors)
    _assert_within_bound(vectors.astype(dtype), eligible, queries)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bound_separates_scores_that_differ_by_a_ten_thousandth(dtype: Any) -> None:
    queries = jnp.asarray(np.random.default_rng(0).normal(size=(8, 128)), jnp.float32)
    queries /= jnp.linalg.norm(queries, axis=1, keepdims=True)
    assert float(rounding_error(queries, jnp.dtype(dtype)).max()) < 2e-4


@pytest.mark.parametrize("masks", [1, 8])
def test_the_scan_agrees_with_the_scan_in_tiles_within_both_bounds(masks: int) -> None:
    vectors, eligible, queries = _draw(48, 8, jnp.float32, masks=masks)
    longest = jnp.full(1, _longest(vectors) * 1.0001, jnp.float32)
    ids = jnp.zeros((len(vectors), 2), jnp.uint32)
    shard = Shard(vectors, ids, longest, tiles=jnp.full(1, 3, jnp.int32))
    tiles = ScanConfig(tile_rows=128, block_rows=BLOCK)
    here = np.asarray(_scan(vectors, eligible, queries), np.float64)
    there = np.asarray(
        maxima_in_tiles(shard, jnp.asarray(pack_masks(eligible)), queries, tiles), np.float64
    )
    np.testing.assert_array_equal(np.isneginf(here), np.isneginf(there))
    bound = rounding_error(queries, vectors.dtype) * longest + score_error(shard, queries)
    some = np.isfinite(here)
    difference = np.abs(np.where(some, here, 0) - np.where(some, there, 0))
    assert (difference <= np.asarray(bound)[:, None]).all()


def test_no_row_of_a_block_without_eligible_rows_is_seen() -> None:
    vectors, _, queries = _draw(16, 3, jnp.bfloat16)
    found = np.asarray(_scan(vectors, np.arange(16 * BLOCK) == 5 * BLOCK + 7, queries))
    assert np.isneginf(np.delete(found, 5, axis=1)).all()
    assert np.isfinite(found[:, 5]).all()


def test_minus_zero_is_zero() -> None:
    vectors = -jnp.ones((16 * BLOCK, WIDTH), jnp.bfloat16)
    found = _scan(vectors, np.ones(16 * BLOCK, np.bool_), jnp.zeros((2, WIDTH)))
    assert not np.signbit(np.asarray(found)).any()


@pytest.mark.parametrize("block_rows", [8, 16, 32])
def test_a_word_has_a_bit_for_each_eligible_row(block_rows: int) -> None:
    eligible = np.random.default_rng(0).random((2, 4, block_rows)) < 0.5
    eligible[:, 0], eligible[:, 1] = True, False
    words = of_blocks(jnp.asarray(pack_masks(eligible.reshape(2, -1))), block_rows)
    expected = [[sum(1 << j for j in np.flatnonzero(row)) for row in mask] for mask in eligible]
    np.testing.assert_array_equal(np.asarray(words).view(np.uint32), expected)


def test_parts_and_rest_add_up_exactly() -> None:
    queries = jnp.asarray(np.random.default_rng(0).normal(size=(50, WIDTH)), jnp.float32)
    parts, rest = jax.jit(split, static_argnums=1)(queries, 2)
    total = np.asarray(parts, np.float64).sum(axis=0) + np.asarray(rest, np.float64)
    np.testing.assert_array_equal(total, np.asarray(queries, np.float64))
    assert (np.abs(np.asarray(rest)) <= 2.0**-16 * np.abs(np.asarray(queries))).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [16, 128, 256])
@pytest.mark.parametrize("batch", [1, 33, 256, 1000])
def test_a_tile_and_its_queries_fit_in_shared_memory(dtype: Any, width: int, batch: int) -> None:
    dtype = jnp.dtype(dtype)
    side = query_slice(batch, width, dtype)
    tile = tile_for(side, width, dtype)
    underway = tile.stages * tile.blocks * width * dtype.itemsize
    assert underway + 2 * side * width * 2 <= 227 << 10
    assert side >= min(batch, 64)


def test_what_the_kernel_cannot_do_is_refused() -> None:
    vectors, eligible, queries = _draw(12, 1, jnp.float32)
    with pytest.raises(ValueError, match="12 blocks are fewer than the 16"):
        _scan(vectors, eligible, queries)
    vectors, eligible, queries = _draw(16, 1, jnp.float32)
    with pytest.raises(ValueError, match="2 parts"):
        _scan(vectors, eligible, queries, 1)
