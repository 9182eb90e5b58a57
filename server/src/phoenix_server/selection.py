"""The exact top k within one shard: a quick scan, a choice of blocks, and a proof.

Shapes:
    P  rows of the shard in memory   D  width of a vector          B  queries
    T  rows of a tile                W  rows of a block            K  results
    C  blocks that are looked into   G  blocks of a group

A score has one definition, `row_scores`, which gives a row the same bits wherever it lies and
whoever asks beside. The scan multiplies all queries with a tile of rows at once, as fast as the
device can, and keeps only the maximum of each block: it rounds in its own way, by at most
`scan_error`. The blocks with the C > K best maxima are scored anew, as defined. If the K-th of
those scores is better than the best maximum of all other blocks by more than the error, no other
row can be among the K best, and the answer is exact; ties are then among the rows at hand. If not,
as when thousands of rows are equal, the query is answered from the scores of all rows.

On a GPU all of this is done in kernels (see `kernels.fused`), to the same proof. Only who asks for
them imports them: they need Pallas's Triton backend, which takes 0.4 s to load and may one day go.
"""

from typing import Literal, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from phoenix_server.choosing import choose

# XLA's product of a matrix and a vector gives a row the same bits in any matrix of whole eights of
# rows; rows beyond the last eight are summed in another order.
ROW_GRANULE = 8

_GROUP = 16  # G; a first choice among groups saves most of the second one among blocks
_UNIT_ROUNDOFF = 2.0**-24

Scan: TypeAlias = Literal["tiles", "kernel"]
"""Tiles are XLA's, for any device; the kernels are for GPUs."""


class Shard(NamedTuple):
    """The part of a corpus on one device.

    Attributes:
        vectors: [P, D] f32 or bf16.
        valid: [P] bool; False for padding.
        longest: [1] f32, at least the length of the longest vector.
    """

    vectors: jax.Array
    valid: jax.Array
    longest: jax.Array


class Best(NamedTuple):
    """The best rows of a shard, K' = min(K, P).

    Attributes:
        scores: [B, K'] f32, descending; -inf where fewer rows are valid.
        rows: [B, K'] i32, in the shard; among equal scores ascending.
        widened: [] i32, how many queries needed the scores of all rows.
    """

    scores: jax.Array
    rows: jax.Array
    widened: jax.Array


class Sizes(Protocol):
    """How a shard is scanned; see `ShardedLayout`."""

    @property
    def tile_rows(self) -> int:
        """T."""
        ...

    @property
    def block_rows(self) -> int:
        """W."""
        ...

    @property
    def queries_at_once(self) -> int:
        """Queries whose blocks are looked into together, in tiles."""
        ...

    @property
    def scan(self) -> Scan:
        """What the shard is searched with."""
        ...

    @property
    def interpret(self) -> bool:
        """Whether kernels run as ordinary JAX."""
        ...


def row_scores(rows: jax.Array, query: jax.Array) -> jax.Array:
    """Return the scores of rows [n, D] for a query [D]: [n] f32, n a multiple of 8."""
    scores = jnp.dot(rows.astype(jnp.float32), query, precision=lax.Precision.HIGHEST)
    return jnp.where(scores == 0, 0.0, scores)  # lax.top_k puts -0.0 below 0.0


def all_scores(shard: Shard, query: jax.Array, sizes: Sizes) -> jax.Array:
    """Return the scores of all rows for a query [D]: [P] f32, -inf where not valid."""
    if sizes.scan == "kernel":
        from phoenix_server.kernels import fused

        return fused.score_all(
            shard.vectors,
            shard.valid,
            query,
            block_rows=sizes.block_rows,
            interpret=sizes.interpret,
        )
    tiles = shard.vectors.reshape(-1, sizes.tile_rows, shard.vectors.shape[1])
    scores = lax.map(lambda tile: row_scores(tile, query), tiles)
    return jnp.where(shard.valid, scores.reshape(-1), -jnp.inf)


def search(shard: Shard, queries: jax.Array, k: int, sizes: Sizes) -> Best:
    """Return the K best rows for each of the queries [B, D] f32."""
    rows = len(shard.vectors)
    blocks = rows // sizes.block_rows
    chosen = k + 32 + k // 16  # C: room between the K-th score and the blocks left out
    if 2 * chosen >= blocks:  # they would be most of the shard
        scores, found_rows = lax.map(lambda query: _search_all(shard, query, k, sizes), queries)
        return Best(scores, found_rows, widened=jnp.zeros((), jnp.int32))
    find = _find_in_kernels if sizes.scan == "kernel" else _find_in_tiles
    scores, found_rows, left_out, complete = find(shard, queries, k, chosen, sizes)
    # min, not the last: XLA would see a slice of a sort, and sort all of it.
    threshold = scores.min(axis=1)  # [B]
    # To a query of zeros, as those that pad a batch, all rows are equal: the first blocks hold the
    # first rows.
    proven = complete & (
        (left_out == -jnp.inf)
        | (left_out + scan_error(shard, queries, sizes) < threshold)
        | ~queries.any(axis=1)
    )

    def widen() -> tuple[jax.Array, jax.Array]:
        def one(each: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
            query, done, scores, rows = each
            return lax.cond(
                done, lambda: (scores, rows), lambda: _search_all(shard, query, k, sizes)
            )

        return lax.map(one, (queries, proven, scores, found_rows))

    scores, found_rows = lax.cond(proven.all(), lambda: (scores, found_rows), widen)
    return Best(scores, found_rows, jnp.sum(~proven, dtype=jnp.int32))


def block_maxima(shard: Shard, queries: jax.Array, sizes: Sizes) -> jax.Array:
    """Return each block's best score as the scan rounds it: [B, P/W] f32, -inf if none is valid.

    A tile's scores stay in cache; they are never written out.
    """
    batch, width = queries.shape
    tile, block = sizes.tile_rows, sizes.block_rows
    left = queries.astype(shard.vectors.dtype)

    def scan(rows: tuple[jax.Array, jax.Array]) -> jax.Array:
        vectors, valid = rows  # [T, D], [T]
        scores = jnp.dot(
            left,
            vectors.T,
            precision=lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )  # [B, T]
        return jnp.where(valid, scores, -jnp.inf).reshape(batch, tile // block, block).max(-1)

    tiles = (shard.vectors.reshape(-1, tile, width), shard.valid.reshape(-1, tile))
    maxima = lax.map(scan, tiles).transpose(1, 0, 2).reshape(batch, -1)  # [P/T, B, T/W] before
    return jnp.where(maxima == 0, 0.0, maxima)  # see `row_scores`


def best_blocks(maxima: jax.Array, least: int, most: int) -> tuple[jax.Array, jax.Array]:
    """Choose the blocks of largest maxima: at least `least`, unless too many are equal.

    Args:
        maxima: [B, n] f32.
        least: At least 1.
        most: C, at most n.

    Returns:
        [B, C] i32, ascending, and beyond the last block where there are fewer; [B] f32, no other
        block has a larger maximum than that.
    """
    n = maxima.shape[1]
    groups = n // _GROUP
    if n % _GROUP or groups < 2 * most:
        blocks, rest, _ = choose(maxima, least, most)
        return blocks, rest
    grouped = maxima.reshape(-1, groups, _GROUP)
    group, other_groups, _ = choose(grouped.max(-1), least, most)
    inside = _pick(grouped, group, -jnp.inf).reshape(-1, most * _GROUP)  # [B, C*G]
    place, rest, _ = choose(inside, least, most)
    group = _pick(group, place // _GROUP, groups)
    return group * _GROUP + place % _GROUP, jnp.maximum(rest, other_groups)


def scan_error(shard: Shard, queries: jax.Array, sizes: Sizes) -> jax.Array:
    """Return how far a score of the scan may be from `row_scores`, for each query: [B] f32.

    Each of the two sums D products, in whatever order, within D * u * |q| * |x| (N. J. Higham,
    Accuracy and Stability of Numerical Algorithms, section 3.1); twice that covers the rounding of
    this bound itself. Queries that the scan rounds to bfloat16 are off by that as well. For kernels
    see `kernels.block_maxima.rounding_error`.
    """
    if sizes.scan == "kernel":
        from phoenix_server.kernels.block_maxima import rounding_error

        return rounding_error(queries, shard.vectors.dtype) * shard.longest[0]
    width = queries.shape[1]
    lengths = jnp.linalg.norm(queries, axis=1)
    rounded = queries
    if shard.vectors.dtype == jnp.bfloat16:  # not astype there and back, which XLA may drop
        rounded = lax.reduce_precision(queries, exponent_bits=8, mantissa_bits=7)
    moved = jnp.linalg.norm(queries - rounded, axis=1)
    return (4 * (width + 2) * _UNIT_ROUNDOFF * lengths + 1.01 * moved) * shard.longest[0]


def _find_in_tiles(
    shard: Shard, queries: jax.Array, k: int, chosen: int, sizes: Sizes
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return what `kernels.fused.Found` has, found by XLA."""
    maxima = block_maxima(shard, queries, sizes)  # [B, P/W]
    blocks, left_out = best_blocks(maxima, k + 8, chosen)  # [B, C], [B]
    # To a query of zeros all are equal, and the first are right.
    zero, first = ~queries.any(axis=1)[:, None], jnp.arange(chosen, dtype=jnp.int32)
    blocks = jnp.where(zero, first, blocks)
    scores = lax.map(
        lambda each: _score_blocks(shard, each[0], each[1], sizes),
        (queries, blocks),
        batch_size=sizes.queries_at_once if sizes.queries_at_once > 1 else None,
    )  # [B, C*W]

    def sort_few() -> tuple[jax.Array, jax.Array]:
        few = jnp.where(zero, first, place)
        best, order = lax.top_k(_pick(scores, few, -jnp.inf), k)
        return best, _pick(few, order, 0)

    # Rows ascend, so among equal scores the lower comes first.
    place, rest, enough = choose(scores, k, chosen)
    sortable = enough | (rest == -jnp.inf) | zero[:, 0]
    best, place = lax.cond(sortable.all(), sort_few, lambda: tuple(lax.top_k(scores, k)))
    block = _pick(blocks, place // sizes.block_rows, 0)
    rows = block * sizes.block_rows + place % sizes.block_rows
    return best, rows, left_out, jnp.ones(len(queries), jnp.bool_)


def _find_in_kernels(
    shard: Shard, queries: jax.Array, k: int, chosen: int, sizes: Sizes
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return what `kernels.fused.Found` has."""
    from phoenix_server.kernels import fused

    return fused.search_best_blocks(
        shard.vectors,
        shard.valid,
        queries,
        k=k,
        chosen=chosen,
        block_rows=sizes.block_rows,
        interpret=sizes.interpret,
    )


def _score_blocks(shard: Shard, query: jax.Array, blocks: jax.Array, sizes: Sizes) -> jax.Array:
    """Return the scores of the rows of blocks [C] for a query [D]: [C*W], -inf if not valid."""
    block, width = sizes.block_rows, shard.vectors.shape[1]
    vectors = shard.vectors.reshape(-1, block * width).at[blocks].get(mode="clip")
    valid = shard.valid.reshape(-1, block).at[blocks].get(mode="fill", fill_value=False)
    scores = row_scores(vectors.reshape(-1, width), query)
    return jnp.where(valid.reshape(-1), scores, -jnp.inf)


def _pick(values: jax.Array, at: jax.Array, fill: float) -> jax.Array:
    """Return [B, m, ...] of [B, n, ...], by [B, m] places, or `fill` for a place beyond the end."""
    at = at.reshape(*at.shape, *(1,) * (values.ndim - 2))
    return jnp.take_along_axis(values, at, axis=1, mode="fill", fill_value=fill)


def _search_all(
    shard: Shard, query: jax.Array, k: int, sizes: Sizes
) -> tuple[jax.Array, jax.Array]:
    """Return the K' best scores and rows of a query [D] among all rows."""
    scores = all_scores(shard, query, sizes)
    best, rows = lax.top_k(scores, min(k, len(scores)))
    return best, rows
