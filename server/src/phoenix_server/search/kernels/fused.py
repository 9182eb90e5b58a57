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

from phoenix_server.search.kernels.block_maxima import block_maxima, of_blocks
from phoenix_server.search.kernels.block_scores import block_scores
from phoenix_server.search.kernels.threshold import choose


class Found(NamedTuple):
    """The best rows of the blocks looked into, and some others; see `selection.Candidates`.

    Attributes:
        scores: [B, M'] f32; -inf where there is none.
        rows: [B, M'] i32.
        left_out: [B] f32, the largest maximum, as the scan rounds it, of all other blocks.
        complete: [B] bool, whether the K best of the blocks looked into are here. To a query of
            zeros all rows are equal, and any will do.
    """

    scores: jax.Array
    rows: jax.Array
    left_out: jax.Array
    complete: jax.Array


def search_best_blocks(
    vectors: jax.Array,
    eligible: jax.Array,
    queries: jax.Array,
    *,
    k: int,
    chosen: int,
    block_rows: int,
    interpret: bool,
) -> Found:
    """Return rows among which are the K best of the blocks that promise most.

    Args:
        vectors: [P, D] bf16 or f32.
        eligible: [B or 1, P/32] u32; bit i of word j is for row 32 j + i.
        queries: [B, D] f32.
        k: K.
        chosen: C.
        block_rows: W.
        interpret: Run as ordinary JAX, on any device, instead of as kernels.
    """
    alive = of_blocks(eligible, block_rows)
    maxima = block_maxima(vectors, alive, queries, block_rows=block_rows, interpret=interpret)
    blocks, left_out = choose(maxima, chosen, _capacity(chosen), interpret=interpret)
    scores = block_scores(
        vectors, alive, queries, blocks, block_rows=block_rows, interpret=interpret
    )
    places, dropped = choose(scores, k, _capacity(k), interpret=interpret)
    kept = jnp.take_along_axis(scores, places, axis=1, mode="fill", fill_value=-jnp.inf)
    best_blocks = jnp.take_along_axis(blocks, places // block_rows, axis=1, mode="clip")
    rows = best_blocks * block_rows + places % block_rows
    kth = lax.top_k(kept, k)[0].min(axis=1)  # min: see `selection.search`
    # What was dropped may tie with the K-th, and come before it by its id.
    complete = (dropped < kth) | (dropped == -jnp.inf) | ~queries.any(axis=1)
    return Found(kept, rows, left_out, complete)


def score_all(
    vectors: jax.Array, eligible: jax.Array, query: jax.Array, *, block_rows: int, interpret: bool
) -> jax.Array:
    """Return the scores of all rows for a query [D], as `search_best_blocks` has them: [P] f32.

    `eligible` is [P/32] u32.
    """
    blocks = jnp.arange(len(vectors) // block_rows, dtype=jnp.int32)[None]
    alive = of_blocks(eligible[None], block_rows)
    return block_scores(
        vectors, alive, query[None], blocks, block_rows=block_rows, interpret=interpret
    )[0]


def _capacity(count: int) -> int:
    """Return places for `count` values, those that tie, and others of their groups."""
    return -(-(count + count // 4 + 64) // 8) * 8
