"""The kernel of the exact scores: rows of chosen blocks, read from where they lie.

Shapes:
    P  rows of the shard in memory   D  width of a vector          B  queries
    W  rows of a block               n  blocks, P / W              C  chosen blocks
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from phoenix_server.search.kernels.constraints import PROGRAM_ROWS


def block_scores(
    vectors: jax.Array,
    alive: jax.Array,
    queries: jax.Array,
    blocks: jax.Array,
    *,
    block_rows: int,
    interpret: bool,
) -> jax.Array:
    """Return the scores of the rows of chosen blocks: [B, C * W] f32, -inf where not eligible.

    Products and sums are float32. A row is summed in the same order by all programs, so its score
    has the same bits wherever the row lies and whatever else is in the batch.

    Args:
        vectors: [P, D] bf16 or f32; D is a power of two.
        alive: [B or 1, n] i32, see `of_blocks`.
        queries: [B, D] f32.
        blocks: [B, C] i32; n is padding. C * W is a multiple of 64.
        block_rows: W, a power of two.
        interpret: Run as ordinary JAX, on any device, instead of as a kernel.

    Raises:
        ValueError: C * W is not a multiple of 64.
    """
    batch, chosen = blocks.shape
    rows = chosen * block_rows
    if rows % PROGRAM_ROWS:
        raise ValueError(
            f"{chosen} blocks of {block_rows} rows: not a multiple of {PROGRAM_ROWS} rows"
        )
    return pl.pallas_call(
        partial(_score, block_rows=block_rows),
        out_shape=jax.ShapeDtypeStruct((batch, rows), jnp.float32),
        grid=(rows // PROGRAM_ROWS, batch),  # CUDA's limit of the second is 65,535
        compiler_params=triton.CompilerParams(num_warps=4),
        interpret=interpret,
        name="block_scores",
    )(queries, vectors, alive, blocks)


def _score(
    queries_ref: jax.Ref,
    vectors_ref: jax.Ref,
    alive_ref: jax.Ref,
    blocks_ref: jax.Ref,
    scores_ref: jax.Ref,
    *,
    block_rows: int,
) -> None:
    """Write the scores of 64 rows for one query; refs as the arrays of `block_scores`."""
    first, query = pl.program_id(0) * PROGRAM_ROWS, pl.program_id(1)
    places = first + jnp.arange(PROGRAM_ROWS, dtype=jnp.int32)
    within = places & (block_rows - 1)
    shift = jnp.full_like(places, block_rows.bit_length() - 1)
    blocks = blocks_ref[query, lax.shift_right_logical(places, shift)]
    masks, size = alive_ref.shape
    in_range = blocks < size
    blocks = jnp.where(in_range, blocks, 0)
    alive = alive_ref[query if masks > 1 else 0, blocks]
    eligible = in_range & ((lax.shift_right_logical(alive, within) & 1) == 1)
    vectors = vectors_ref[blocks * block_rows + within, :].astype(jnp.float32)  # [64, D]
    scores = jnp.sum(vectors * queries_ref[query, :][None, :], axis=1)
    scores = jnp.where(scores == 0, 0.0, scores)  # no -0.0, as in `block_maxima`
    scores_ref[query, pl.ds(first, PROGRAM_ROWS)] = jnp.where(eligible, scores, -jnp.inf)
