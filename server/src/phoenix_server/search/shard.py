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

from phoenix_server.search.threshold import choose, choose_best

# XLA's product of a matrix and a vector gives a row the same bits in any matrix of whole eights of
# rows; rows beyond the last eight are summed in another order.
ROW_GRANULE = 8

WORD = 32  # bits; rows whose eligibility shares a word

_GROUP = 16  # G; a first choice among groups saves most of the second one among blocks
_UNIT_ROUNDOFF = 2.0**-24

Scan: TypeAlias = Literal["tiles", "kernel"]
"""Tiles are XLA's, for any device; the kernels are for GPUs."""


class Shard(NamedTuple):
    """The part of a corpus on one device.

    Attributes:
        vectors: [P, D] f32 or bf16.
        ids: [P, 2] u32, the high and the low half of each post's id; distinct among live rows.
        longest: [1] f32, at least the length of the longest vector.
        tiles: [1] i32, how many tiles hold rows; those behind are not looked at.
    """

    vectors: jax.Array
    ids: jax.Array
    longest: jax.Array
    tiles: jax.Array


class Best(NamedTuple):
    """The best rows of a shard, K' = min(K, P).

    Attributes:
        scores: [B, K'] f32, in any order; -inf where fewer rows are eligible.
        rows: [B, K'] i32, in the shard.
        ids: [B, K', 2] u32, as a shard has them.
        widened: [] i32, how many queries needed the scores of all rows.
    """

    scores: jax.Array
    rows: jax.Array
    ids: jax.Array
    widened: jax.Array


class Candidates(NamedTuple):
    """Rows that a quick search found, and what must hold for them to be the best.

    Attributes:
        scores: [B, M] f32, in any order; -inf where there is none. M is at least K.
        rows: [B, M] i32.
        left_out: [B] f32, the largest maximum, as the scan rounds it, of blocks not looked into.
        complete: [B] bool, whether the best of the blocks looked into are all here.
    """

    scores: jax.Array
    rows: jax.Array
    left_out: jax.Array
    complete: jax.Array


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


def all_scores(shard: Shard, eligible: jax.Array, query: jax.Array, sizes: Sizes) -> jax.Array:
    """Return the scores of all rows for a query [D]: [P] f32, -inf where not eligible [P/32]."""
    if sizes.scan == "kernel":
        from phoenix_server.search.kernels import fused

        return fused.score_all(
            shard.vectors,
            eligible,
            query,
            block_rows=sizes.block_rows,
            interpret=sizes.interpret,
        )
    tiles = shard.vectors.reshape(-1, sizes.tile_rows, shard.vectors.shape[1])
    scores = lax.map(lambda tile: row_scores(tile, query), tiles)
    return jnp.where(unpack(eligible), scores.reshape(-1), -jnp.inf)


def search(shard: Shard, eligible: jax.Array, queries: jax.Array, k: int, sizes: Sizes) -> Best:
    """Return the K best rows for each query.

    Args:
        shard: The rows.
        eligible: [B, P/32] u32, or [1, P/32] for all queries: bit i of word j says whether a query
            may find row 32 j + i.
        queries: [B, D] f32; one of zeros pads a batch, and finds nothing of meaning.
        k: K.
        sizes: How to scan.
    """
    batch, rows = len(queries), len(shard.vectors)
    blocks = rows // sizes.block_rows
    chosen = k + 32 + k // 16  # C: room between the K-th score and the blocks left out
    if 2 * chosen >= blocks:  # they would be most of the shard
        everybody = jnp.arange(batch, dtype=jnp.int32)
        scores, found_rows = _search_all(shard, eligible, queries, everybody, min(k, rows), sizes)
        return Best(scores, found_rows, _ids(shard, found_rows), jnp.zeros((), jnp.int32))
    find = _find_in_kernels if sizes.scan == "kernel" else _find_in_tiles
    candidates = find(shard, eligible, queries, k, chosen, sizes)
    scores, found_rows = _best(shard, candidates.scores, candidates.rows, k)
    threshold = scores.min(axis=1)  # [B]
    left_out = candidates.left_out
    proven = candidates.complete & (
        (left_out == -jnp.inf)
        | (left_out + scan_error(shard, queries, sizes) < threshold)
        | ~queries.any(axis=1)
    )

    def widen() -> tuple[jax.Array, ...]:
        def one(each: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            number, done, *found = each

            def anew() -> tuple[jax.Array, ...]:
                wider = _search_all(shard, eligible, queries, number[None], k, sizes)
                return tuple(part[0] for part in wider)

            return lax.cond(done, lambda: tuple(found), anew)

        numbers = jnp.arange(batch, dtype=jnp.int32)
        return lax.map(one, (numbers, proven, scores, found_rows))

    scores, found_rows = lax.cond(proven.all(), lambda: (scores, found_rows), widen)
    ids = _ids(shard, found_rows)
    return Best(scores, found_rows, ids, jnp.sum(~proven, dtype=jnp.int32))


def block_maxima(shard: Shard, eligible: jax.Array, queries: jax.Array, sizes: Sizes) -> jax.Array:
    """Return each block's best score as the scan rounds it: [B, P/W] f32, -inf if none is eligible.

    A tile's scores stay in cache; they are never written out.
    """
    batch = len(queries)
    tile, block = sizes.tile_rows, sizes.block_rows
    left = queries.astype(shard.vectors.dtype)
    tiles = len(shard.vectors) // tile

    def scan(index: jax.Array, maxima: jax.Array) -> jax.Array:
        vectors = lax.dynamic_slice_in_dim(shard.vectors, index * tile, tile)  # [T, D]
        words = lax.dynamic_slice_in_dim(eligible, index * (tile // 32), tile // 32, axis=1)
        scores = jnp.dot(
            left,
            vectors.T,
            precision=lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )  # [B, T]
        best = jnp.where(unpack(words), scores, -jnp.inf).reshape(batch, -1, block).max(-1)
        return lax.dynamic_update_index_in_dim(maxima, best, index, axis=0)

    nothing = jnp.full((tiles, batch, tile // block), -jnp.inf, jnp.float32)
    maxima = lax.fori_loop(0, shard.tiles[0], scan, nothing)
    maxima = maxima.transpose(1, 0, 2).reshape(batch, -1)
    return jnp.where(maxima == 0, 0.0, maxima)  # see `row_scores`


def unpack(words: jax.Array) -> jax.Array:
    """Return the bits of [..., n] u32, the lowest of each word first: [..., 32 n] bool."""
    bits = (words[..., None] >> jnp.arange(WORD, dtype=jnp.uint32)) & 1
    return (bits != 0).reshape(*words.shape[:-1], -1)


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
        from phoenix_server.search.kernels.block_maxima import rounding_error

        return rounding_error(queries, shard.vectors.dtype) * shard.longest[0]
    width = queries.shape[1]
    lengths = jnp.linalg.norm(queries, axis=1)
    rounded = queries
    if shard.vectors.dtype == jnp.bfloat16:  # not astype there and back, which XLA may drop
        rounded = lax.reduce_precision(queries, exponent_bits=8, mantissa_bits=7)
    moved = jnp.linalg.norm(queries - rounded, axis=1)
    return (4 * (width + 2) * _UNIT_ROUNDOFF * lengths + 1.01 * moved) * shard.longest[0]


def _find_in_tiles(
    shard: Shard, eligible: jax.Array, queries: jax.Array, k: int, chosen: int, sizes: Sizes
) -> Candidates:
    maxima = block_maxima(shard, eligible, queries, sizes)  # [B, P/W]
    blocks, left_out = best_blocks(maxima, k + 8, chosen)  # [B, C], [B]
    masks = _of_blocks(eligible, blocks, sizes.block_rows)  # [B, C*W]
    rows = blocks[..., None] * sizes.block_rows + jnp.arange(sizes.block_rows, dtype=jnp.int32)
    scores = lax.map(
        lambda each: _score_blocks(shard, each[0], each[1], sizes),
        (queries, blocks),
        batch_size=sizes.queries_at_once if sizes.queries_at_once > 1 else None,
    )  # [B, C*W]
    scores = jnp.where(masks, scores, -jnp.inf)
    complete = jnp.ones(len(queries), jnp.bool_)
    return Candidates(scores, rows.reshape(scores.shape), left_out, complete)


def _find_in_kernels(
    shard: Shard, eligible: jax.Array, queries: jax.Array, k: int, chosen: int, sizes: Sizes
) -> Candidates:
    from phoenix_server.search.kernels import fused

    return Candidates(
        *fused.search_best_blocks(
            shard.vectors,
            eligible,
            queries,
            k=k,
            chosen=chosen,
            block_rows=sizes.block_rows,
            interpret=sizes.interpret,
        )
    )


def _score_blocks(shard: Shard, query: jax.Array, blocks: jax.Array, sizes: Sizes) -> jax.Array:
    """Return the scores of the rows of blocks [C] for a query [D]: [C*W]."""
    block, width = sizes.block_rows, shard.vectors.shape[1]
    vectors = shard.vectors.reshape(-1, block * width).at[blocks].get(mode="clip")
    return row_scores(vectors.reshape(-1, width), query)


def _of_blocks(eligible: jax.Array, blocks: jax.Array, block_rows: int) -> jax.Array:
    """Return the bits of [B or 1, P/32] u32 for the rows of blocks [B, C]: [B, C*W] bool."""
    eligible = jnp.broadcast_to(eligible, (len(blocks), eligible.shape[1]))
    first = blocks * block_rows
    words = _pick(eligible, first // WORD, 0)  # a word is whole blocks
    bits = (first % WORD)[..., None] + jnp.arange(block_rows, dtype=jnp.int32)
    masks = (words[..., None] >> bits.astype(jnp.uint32)) & 1 != 0
    return masks.reshape(len(blocks), -1)


def _pick(values: jax.Array, at: jax.Array, fill: float) -> jax.Array:
    """Return [B, m, ...] of [B, n, ...], by [B, m] places, or `fill` for a place beyond the end."""
    at = at.reshape(*at.shape, *(1,) * (values.ndim - 2))
    return jnp.take_along_axis(values, at, axis=1, mode="fill", fill_value=fill)


def _best(shard: Shard, scores: jax.Array, rows: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
    """Return the K best of candidates [B, M]: scores and rows."""
    place = choose_best(scores, lambda: _ids(shard, rows), k)
    return _pick(scores, place, -jnp.inf), _pick(rows, place, 0)


def _ids(shard: Shard, rows: jax.Array) -> jax.Array:
    return shard.ids.at[rows].get(mode="clip")


def _search_all(
    shard: Shard,
    eligible: jax.Array,
    queries: jax.Array,
    numbers: jax.Array,
    k: int,
    sizes: Sizes,
) -> tuple[jax.Array, jax.Array]:
    """Return the K best scores and rows for the queries of some numbers, among all rows."""

    def score(number: jax.Array) -> jax.Array:
        mask = eligible[number if len(eligible) > 1 else 0]
        return all_scores(shard, mask, queries[number], sizes)

    scores = lax.map(score, numbers)  # [n, P]
    rows = jnp.broadcast_to(jnp.arange(len(shard.ids), dtype=jnp.int32), scores.shape)
    return _best(shard, scores, rows, k)


def in_order(
    scores: jax.Array, rows: jax.Array, ids: jax.Array, queries: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Sort scores, descending, and rows with them; equal ones by their ids.

    Args:
        scores: [B, M] f32, no -0.0.
        rows: [B, M] i32.
        ids: [B, M, 2] u32.
        queries: [B, D] f32; to one of zeros all rows are equal, and their order does not matter.
    """
    best, order = lax.top_k(scores, scores.shape[1])
    equal = (best[:, 1:] == best[:, :-1]) & (best[:, 1:] > -jnp.inf)

    def by_ids() -> jax.Array:
        keys = (-scores, ids[..., 0], ids[..., 1], rows)
        return lax.sort(keys, dimension=1, num_keys=3)[3]

    ties = (equal.any(axis=1) & queries.any(axis=1)).any()
    return best, lax.cond(ties, by_ids, lambda: _pick(rows, order, 0))
