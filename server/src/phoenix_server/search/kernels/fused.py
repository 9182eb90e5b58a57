"""The scan of a shard in GPU kernels: maxima, choice of blocks, exact scores, choice of rows.

Shapes:
    P  rows of the shard in memory   D  width of a vector          B  queries
    W  rows of a block               n  blocks, P / W              K  results
    C  chosen blocks, wanted         m  blocks scored, some more than C

Written to memory besides the candidates: maxima [B, n], and scores [B, m * W] of the scored blocks.
"""

import jax
import jax.numpy as jnp
from jax import lax

from phoenix_server.search.kernels.block_maxima import block_maxima, of_blocks, rounding_error
from phoenix_server.search.kernels.block_scores import block_scores
from phoenix_server.search.kernels.threshold import choose
from phoenix_server.search.shard import Candidates, ScanConfig, Shard


def find_candidates(
    shard: Shard, eligible: jax.Array, queries: jax.Array, k: int, chosen: int, config: ScanConfig
) -> Candidates:
    """Return rows among which are the K best of the C blocks with the best maxima.

    See `ScanMethod`. `Candidates.complete` is computed: the choice of rows may leave out one that
    ties with the K-th.
    """
    vectors, block_rows, interpret = shard.vectors, config.block_rows, config.interpret
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
    kth = lax.top_k(kept, k)[0].min(axis=1)  # min: the threshold of `search_shard`
    # A dropped row may tie with the K-th and come before it by its id.
    complete = (dropped < kth) | (dropped == -jnp.inf) | ~queries.any(axis=1)
    return Candidates(kept, rows, left_out, complete)


def score_all(shard: Shard, eligible: jax.Array, query: jax.Array, config: ScanConfig) -> jax.Array:
    """Return the scores of all rows for a query [D]: [P] f32, -inf where not eligible [P/32]."""
    block_rows = config.block_rows
    blocks = jnp.arange(len(shard.vectors) // block_rows, dtype=jnp.int32)[None]
    alive = of_blocks(eligible[None], block_rows)
    return block_scores(
        shard.vectors, alive, query[None], blocks, block_rows=block_rows, interpret=config.interpret
    )[0]


def score_error(shard: Shard, queries: jax.Array) -> jax.Array:
    """Return a bound of |score of the scan - exact score| for each query: [B] f32."""
    return rounding_error(queries, shard.vectors.dtype) * shard.longest[0]


def _capacity(count: int) -> int:
    """Return the number of places for `count` values, ties, and others of their groups."""
    return -(-(count + count // 4 + 64) // 8) * 8
