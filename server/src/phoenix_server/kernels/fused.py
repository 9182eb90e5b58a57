"""The search of one shard in kernels: scan, choose blocks, score them, choose rows.

Shapes:
    P  rows of the shard in memory   D  width of a vector          B  queries
    W  rows of a block               n  blocks, P / W              K  results
    C  blocks wanted                 M  blocks looked into, some more than C

What is written, besides the answer: maxima [B, n], and scores [B, M * W] of the blocks looked into.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from phoenix_server.kernels.block_maxima import block_maxima, pack_valid
from phoenix_server.kernels.block_scores import block_scores
from phoenix_server.kernels.choosing import choose


class Found(NamedTuple):
    """The best rows of the blocks looked into.

    Attributes:
        scores: [B, K] f32, descending; -inf where fewer rows are valid.
        rows: [B, K] i32; among equal scores ascending.
        left_out: [B] f32, the largest maximum, as the scan rounds it, of all other blocks.
        complete: [B] bool, whether these are the best of the blocks looked into.
    """

    scores: jax.Array
    rows: jax.Array
    left_out: jax.Array
    complete: jax.Array


def search_best_blocks(
    vectors: jax.Array,
    valid: jax.Array,
    queries: jax.Array,
    *,
    k: int,
    chosen: int,
    block_rows: int,
    interpret: bool,
) -> Found:
    """Return the K best rows of the blocks that promise most.

    Args:
        vectors: [P, D] bf16 or f32.
        valid: [P] bool.
        queries: [B, D] f32.
        k: K.
        chosen: C.
        block_rows: W.
        interpret: Run as ordinary JAX, on any device, instead of as kernels.
    """
    alive = pack_valid(valid, block_rows)
    maxima = block_maxima(vectors, alive, queries, block_rows=block_rows, interpret=interpret)
    blocks, left_out = choose(maxima, chosen, _capacity(chosen), interpret=interpret)
    scores = block_scores(
        vectors, alive, queries, blocks, block_rows=block_rows, interpret=interpret
    )
    places, dropped = choose(scores, k, _capacity(k), interpret=interpret)
    kept = jnp.take_along_axis(scores, places, axis=1, mode="fill", fill_value=-jnp.inf)
    best, order = lax.top_k(kept, k)  # places ascend, so among equal scores the lower row is first
    places = jnp.take_along_axis(places, order, axis=1)
    best_blocks = jnp.take_along_axis(blocks, places // block_rows, axis=1, mode="clip")
    rows = best_blocks * block_rows + places % block_rows
    # What was dropped for lack of room lies behind what was kept, so it may be equal.
    return Found(best, rows, left_out, complete=dropped <= best.min(axis=1))


def score_all(
    vectors: jax.Array, valid: jax.Array, query: jax.Array, *, block_rows: int, interpret: bool
) -> jax.Array:
    """Return the scores of all rows for a query [D], as `search_best_blocks` has them: [P] f32."""
    blocks = jnp.arange(len(vectors) // block_rows, dtype=jnp.int32)[None]
    alive = pack_valid(valid, block_rows)
    return block_scores(
        vectors, alive, query[None], blocks, block_rows=block_rows, interpret=interpret
    )[0]


def _capacity(count: int) -> int:
    """Return places for `count` values, those that tie, and others of their groups."""
    return -(-(count + count // 4 + 64) // 8) * 8
