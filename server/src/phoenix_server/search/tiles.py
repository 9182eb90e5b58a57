"""The scan of a shard with plain XLA, a tile of rows at a time, on any device.

Shapes:
    P  rows of the shard in memory   D  width of a vector     B  queries
    T  rows of a tile                W  rows of a block       K  results
    C  chosen blocks                 G  blocks of a group

The scan multiplies all queries with a tile of rows at once, as fast as the device can, and keeps
only the maximum of each block. Its scores are rounded in another way than `row_scores`, by at most
`score_error`. The rows of the C blocks with the best maxima are then scored by `row_scores`.
"""

import jax
import jax.numpy as jnp
from jax import lax

from phoenix_server.search.shard import (
    WORD,
    Candidates,
    ScanConfig,
    Shard,
    pick,
    row_scores,
    unpack,
)
from phoenix_server.search.threshold import choose

_GROUP = 16  # G; choosing among groups first saves most of the choice among blocks
_UNIT_ROUNDOFF = 2.0**-24


def find_candidates(
    shard: Shard, eligible: jax.Array, queries: jax.Array, k: int, chosen: int, config: ScanConfig
) -> Candidates:
    """Return the rows of the chosen blocks; see `ScanMethod`."""
    maxima = block_maxima(shard, eligible, queries, config)  # [B, P/W]
    blocks, left_out = best_blocks(maxima, k + 8, chosen)  # [B, C], [B]
    masks = _of_blocks(eligible, blocks, config.block_rows)  # [B, C*W]
    rows = blocks[..., None] * config.block_rows + jnp.arange(config.block_rows, dtype=jnp.int32)
    scores = lax.map(
        lambda each: _score_blocks(shard, each[0], each[1], config),
        (queries, blocks),
        batch_size=config.queries_at_once if config.queries_at_once > 1 else None,
    )  # [B, C*W]
    scores = jnp.where(masks, scores, -jnp.inf)
    complete = jnp.ones(len(queries), jnp.bool_)
    return Candidates(scores, rows.reshape(scores.shape), left_out, complete)


def score_all(shard: Shard, eligible: jax.Array, query: jax.Array, config: ScanConfig) -> jax.Array:
    """Return the scores of all rows for a query [D]: [P] f32, -inf where not eligible [P/32]."""
    tiles = shard.vectors.reshape(-1, config.tile_rows, shard.vectors.shape[1])
    scores = lax.map(lambda tile: row_scores(tile, query), tiles)
    return jnp.where(unpack(eligible), scores.reshape(-1), -jnp.inf)


def score_error(shard: Shard, queries: jax.Array) -> jax.Array:
    """Return a bound of |score of the scan - `row_scores`| for each query: [B] f32.

    Each of the two sums D products, in any order, with an error of at most D * u * |q| * |x|
    (N. J. Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). Twice that covers
    the rounding of this bound itself. Queries that the scan rounds to bfloat16 add that rounding.
    """
    width = queries.shape[1]
    lengths = jnp.linalg.norm(queries, axis=1)
    rounded = queries
    if shard.vectors.dtype == jnp.bfloat16:  # not astype and back: XLA may drop such a pair
        rounded = lax.reduce_precision(queries, exponent_bits=8, mantissa_bits=7)
    moved = jnp.linalg.norm(queries - rounded, axis=1)
    return (4 * (width + 2) * _UNIT_ROUNDOFF * lengths + 1.01 * moved) * shard.longest[0]


def block_maxima(
    shard: Shard, eligible: jax.Array, queries: jax.Array, config: ScanConfig
) -> jax.Array:
    """Return each block's best score as the scan rounds it: [B, P/W] f32, -inf if none is eligible.

    The scores of a tile stay in cache; they are never written to memory.
    """
    batch = len(queries)
    tile, block = config.tile_rows, config.block_rows
    left = queries.astype(shard.vectors.dtype)
    tiles = len(shard.vectors) // tile

    def scan(index: jax.Array, maxima: jax.Array) -> jax.Array:
        vectors = lax.dynamic_slice_in_dim(shard.vectors, index * tile, tile)  # [T, D]
        words = lax.dynamic_slice_in_dim(eligible, index * (tile // 32), tile // 32, axis=1)
        scores = jnp.dot(
            left, vectors.T, precision=lax.Precision.HIGHEST, preferred_element_type=jnp.float32
        )  # [B, T]
        best = jnp.where(unpack(words), scores, -jnp.inf).reshape(batch, -1, block).max(-1)
        return lax.dynamic_update_index_in_dim(maxima, best, index, axis=0)

    nothing = jnp.full((tiles, batch, tile // block), -jnp.inf, jnp.float32)
    maxima = lax.fori_loop(0, shard.tiles[0], scan, nothing)
    maxima = maxima.transpose(1, 0, 2).reshape(batch, -1)
    return jnp.where(maxima == 0, 0.0, maxima)  # no -0.0; see `row_scores`


def best_blocks(maxima: jax.Array, least: int, most: int) -> tuple[jax.Array, jax.Array]:
    """Choose the blocks with the largest maxima: at least `least`, unless too many are equal.

    Args:
        maxima: [B, n] f32.
        least: At least 1.
        most: C, at most n.

    Returns:
        [B, C] i32, the blocks, ascending, then padding beyond the last block; [B] f32, an upper
        bound of the maxima of all other blocks.
    """
    n = maxima.shape[1]
    groups = n // _GROUP
    if n % _GROUP or groups < 2 * most:
        blocks, rest, _ = choose(maxima, least, most)
        return blocks, rest
    grouped = maxima.reshape(-1, groups, _GROUP)
    group, other_groups, _ = choose(grouped.max(-1), least, most)
    inside = pick(grouped, group, -jnp.inf).reshape(-1, most * _GROUP)  # [B, C*G]
    place, rest, _ = choose(inside, least, most)
    group = pick(group, place // _GROUP, groups)
    return group * _GROUP + place % _GROUP, jnp.maximum(rest, other_groups)


def _score_blocks(
    shard: Shard, query: jax.Array, blocks: jax.Array, config: ScanConfig
) -> jax.Array:
    """Return the scores of the rows of blocks [C] for a query [D]: [C*W]."""
    block, width = config.block_rows, shard.vectors.shape[1]
    vectors = shard.vectors.reshape(-1, block * width).at[blocks].get(mode="clip")
    return row_scores(vectors.reshape(-1, width), query)


def _of_blocks(eligible: jax.Array, blocks: jax.Array, block_rows: int) -> jax.Array:
    """Return the bits of [B or 1, P/32] u32 for the rows of blocks [B, C]: [B, C*W] bool."""
    eligible = jnp.broadcast_to(eligible, (len(blocks), eligible.shape[1]))
    first = blocks * block_rows
    words = pick(eligible, first // WORD, 0)  # a word covers whole blocks
    bits = (first % WORD)[..., None] + jnp.arange(block_rows, dtype=jnp.int32)
    masks = (words[..., None] >> bits.astype(jnp.uint32)) & 1 != 0
    return masks.reshape(len(blocks), -1)
