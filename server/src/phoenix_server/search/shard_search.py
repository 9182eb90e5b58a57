"""The exact top k of one shard: a scan for candidates, and a proof that they suffice.

Shapes:
    P  rows of the shard in memory   D  width of a vector     B  queries
    W  rows of a block               K  results               C  chosen blocks
    m  candidate rows

A scan (`search.tiles`, or `search.kernels.fused` on a GPU) computes the maximum of each block of
rows with scores that may be off by `score_error`. The rows of the C > K blocks with the best maxima
are scored exactly. If the K-th best of those scores is above the best maximum of all other blocks
by more than the error, no other row can be among the K best: the answer is exact, and all rows
that tie with the K-th are at hand. Otherwise, as when thousands of rows are equal, the query is
widened: it is answered from the exact scores of all rows.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from phoenix_server.search import tiles
from phoenix_server.search.native import scan as native
from phoenix_server.search.shard import ScanConfig, ScanMethod, Shard, pick
from phoenix_server.search.threshold import choose_best


class ShardTopK(NamedTuple):
    """The best rows of a shard, K' = min(K, P).

    Attributes:
        scores: [B, K'] f32; -inf where fewer rows are eligible. The native search returns only the
            rows that a query needs.
        rows: [B, K'] i32, rows of the shard.
        ids: [B, K', 2] u32, as in `Shard.ids`.
        widened: [] i32, the number of queries that needed the scores of all rows.
        in_order: Whether rows are in the order of an answer; else they are in any order.
    """

    scores: jax.Array
    rows: jax.Array
    ids: jax.Array
    widened: jax.Array
    in_order: bool = False


def search_shard(
    shard: Shard,
    eligible: jax.Array,
    queries: jax.Array,
    wanted: jax.Array,
    k: int,
    config: ScanConfig,
) -> ShardTopK:
    """Return the K best rows for each query.

    Args:
        shard: The rows.
        eligible: [B, P/32] u32, or [1, P/32] for all queries: bit i of word j says whether a query
            may find row 32 j + i.
        queries: [B, D] f32; a query of zeros is padding, and its result has no meaning.
        wanted: [B] i32, the number of results that each query needs; K at most.
        k: K.
        config: How to scan.
    """
    batch, rows = len(queries), len(shard.vectors)
    if config.scan == "native":
        scores, found_rows = native.top_k(shard, eligible, queries, wanted, min(k, rows), config)
        none = jnp.zeros((), jnp.int32)
        return ShardTopK(scores, found_rows, _ids(shard, found_rows), none, in_order=True)
    blocks = rows // config.block_rows
    chosen = k + 32 + k // 16  # C: a margin between the K-th score and the blocks left out
    if 2 * chosen >= blocks:  # the chosen blocks would be most of the shard
        numbers = jnp.arange(batch, dtype=jnp.int32)
        scores, found_rows = _search_all(shard, eligible, queries, numbers, min(k, rows), config)
        return ShardTopK(scores, found_rows, _ids(shard, found_rows), jnp.zeros((), jnp.int32))
    scan = _scan_method(config)
    candidates = scan.find_candidates(shard, eligible, queries, k, chosen, config)
    scores, found_rows = _best(shard, candidates.scores, candidates.rows, k)
    threshold = scores.min(axis=1)  # [B]
    left_out = candidates.left_out
    proven = candidates.complete & (
        (left_out == -jnp.inf)
        | (left_out + scan.score_error(shard, queries) < threshold)
        | ~queries.any(axis=1)
    )

    def widen() -> tuple[jax.Array, ...]:
        def widen_one(query: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            number, done, *found = query

            def search_all() -> tuple[jax.Array, ...]:
                wider = _search_all(shard, eligible, queries, number[None], k, config)
                return tuple(part[0] for part in wider)

            return lax.cond(done, lambda: tuple(found), search_all)

        numbers = jnp.arange(batch, dtype=jnp.int32)
        return lax.map(widen_one, (numbers, proven, scores, found_rows))

    scores, found_rows = lax.cond(proven.all(), lambda: (scores, found_rows), widen)
    ids = _ids(shard, found_rows)
    return ShardTopK(scores, found_rows, ids, jnp.sum(~proven, dtype=jnp.int32))


def all_scores(
    shard: Shard, eligible: jax.Array, query: jax.Array, config: ScanConfig
) -> jax.Array:
    """Return the scores of all rows for a query [D]: [P] f32, -inf where not eligible [P/32]."""
    if config.scan == "native":
        return native.all_scores(shard, eligible, query, config)
    return _scan_method(config).score_all(shard, eligible, query, config)


def in_order(
    scores: jax.Array, rows: jax.Array, ids: jax.Array, queries: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sort scores, descending, and rows with them; equal scores by ascending id.

    Args:
        scores: [B, m] f32, without -0.0.
        rows: [B, m] i32.
        ids: [B, m, 2] u32.
        queries: [B, D] f32; for a query of zeros all rows are equal, and their order is arbitrary.
    """
    best, order = lax.top_k(scores, scores.shape[1])
    equal = (best[:, 1:] == best[:, :-1]) & (best[:, 1:] > -jnp.inf)

    def by_ids() -> jax.Array:
        keys = (-scores, ids[..., 0], ids[..., 1], rows)
        return lax.sort(keys, dimension=1, num_keys=3)[3]

    ties = (equal.any(axis=1) & queries.any(axis=1)).any()
    return best, lax.cond(ties, by_ids, lambda: pick(rows, order, 0))


def _scan_method(config: ScanConfig) -> ScanMethod:
    if config.scan == "kernel":
        # Imported only on demand: Pallas's Triton backend takes 0.4 s to load, and may be removed
        # from JAX one day.
        from phoenix_server.search.kernels import fused

        return fused
    return tiles


def _best(shard: Shard, scores: jax.Array, rows: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Return the K best of candidates [B, m]: scores and rows."""
    place = choose_best(scores, lambda: _ids(shard, rows), k)
    return pick(scores, place, -jnp.inf), pick(rows, place, 0)


def _ids(shard: Shard, rows: jax.Array) -> jax.Array:
    return shard.ids.at[rows].get(mode="clip")


def _search_all(
    shard: Shard,
    eligible: jax.Array,
    queries: jax.Array,
    numbers: jax.Array,
    k: int,
    config: ScanConfig,
) -> tuple[jax.Array, jax.Array]:
    """Return the K best scores and rows among all rows, for the queries with these numbers [n]."""

    def score(number: jax.Array) -> jax.Array:
        mask = eligible[number if len(eligible) > 1 else 0]
        return all_scores(shard, mask, queries[number], config)

    scores = lax.map(score, numbers)  # [n, P]
    rows = jnp.broadcast_to(jnp.arange(len(shard.ids), dtype=jnp.int32), scores.shape)
    return _best(shard, scores, rows, k)
