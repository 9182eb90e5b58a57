"""The scan on a GPU: products on tensor cores of which only each block's maximum is written.

Shapes:
    P  rows of the shard in memory   D  width of a vector          B  queries
    W  rows of a block               n  blocks, P / W              H  parts of a query
    L  blocks of a program           Q  queries of a program, a power of two

A program has L blocks and Q queries. It multiplies row j of each of its blocks with the queries,
for j from 0 to W - 1, and keeps the larger of that and what it had: scores stay in the registers
they were made in, no lane is compared with another, and [Q, L] maxima are all that is written. A
row is read once where all queries fit in Q.

Tensor cores multiply bfloat16. A float32 x is the sum of bfloat16 parts x0 + x1 + r, where
|x1| <= 2^-8 |x| and |r| <= 2^-16 |x|. Queries go in as H parts; vectors of float32 as two, and the
product of the two second parts is left out. Products of parts are exact in float32.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

QUERY_PARTS = 2  # H; with one, the error is some 2^-9 of a score, more than near scores differ by

_UNIT_ROUNDOFF = 2.0**-24
_PART_ROUNDOFF = 2.0**-8
_WORD = 32
_LEAST_SIDE = 16  # of a product on tensor cores
_SHARED_BYTES = 200 << 10  # of the 227 KiB that a program of an H100 may have


@dataclass(frozen=True, kw_only=True)
class Tile:
    """What one program of the scan works on.

    Attributes:
        blocks: L; a power of two, at least 16. Hopper's products want 64.
        warps: Of 32 threads each.
        stages: How many rows of each block are underway from memory at once.
    """

    blocks: int
    warps: int
    stages: int


def query_slice(batch: int, width: int, dtype: jnp.dtype) -> int:
    """Return Q: all queries, if their parts and the rows underway fit in shared memory."""
    most = (1 << 15 if dtype == jnp.bfloat16 else 1 << 14) // max(width, 128)
    return min(most, max(_LEAST_SIDE, pl.next_power_of_2(batch)))


def tile_for(queries: int, width: int, dtype: jnp.dtype) -> Tile:
    """Return the tile for Q queries."""
    blocks = 64
    underway = blocks * width * dtype.itemsize
    room = _SHARED_BYTES - QUERY_PARTS * queries * width * 2
    return Tile(
        blocks=blocks, warps=4 if queries <= 64 else 8, stages=max(2, min(4, room // underway))
    )


def of_blocks(eligible: jax.Array, block_rows: int) -> jax.Array:
    """Return a word for each block, bit j for its row j: [E, P/32] u32 to [E, n] i32.

    Args:
        eligible: Bit i of word j is for row 32 j + i.
        block_rows: W, which divides 32.
    """
    words = eligible
    if block_rows < _WORD:
        shifts = jnp.arange(0, _WORD, block_rows, dtype=jnp.uint32)
        parts = (eligible[..., None] >> shifts) & jnp.uint32((1 << block_rows) - 1)
        words = parts.reshape(len(eligible), -1)
    return lax.bitcast_convert_type(words, jnp.int32)


def split(queries: jax.Array, parts: int) -> tuple[jax.Array, jax.Array]:
    """Return H parts of [B, D] f32, [H, B, D] bf16, and what is left, [B, D] f32; both exact."""
    found: list[jax.Array] = []
    for _ in range(parts):
        # Not astype there and back: compilers may drop a pair of conversions.
        part = lax.reduce_precision(queries, exponent_bits=8, mantissa_bits=7)
        found.append(part.astype(jnp.bfloat16))
        queries = queries - part
    return jnp.stack(found), queries


def block_maxima(
    vectors: jax.Array,
    alive: jax.Array,
    queries: jax.Array,
    *,
    block_rows: int,
    interpret: bool,
    parts: int = QUERY_PARTS,
    tile: Tile | None = None,
) -> jax.Array:
    """Return each block's best score as the scan rounds it: [B, n] f32, -inf if no row is eligible.

    Args:
        vectors: [P, D] bf16 or f32; D is a power of two, at least 16.
        alive: [B or 1, n] i32, see `of_blocks`.
        queries: [B, D] f32.
        block_rows: W, at most 32.
        interpret: Run as ordinary JAX, on any device, instead of as a kernel.
        parts: H; 2 where the vectors are float32.
        tile: L and how to run. Default: what suits B and D.

    Raises:
        ValueError: There are fewer blocks than a program has, or too few parts.
    """
    batch, width = queries.shape
    blocks = alive.shape[1]
    side = query_slice(batch, width, vectors.dtype)
    tile = tile or tile_for(side, width, vectors.dtype)
    if blocks < tile.blocks:
        raise ValueError(f"{blocks} blocks are fewer than the {tile.blocks} of a program")
    if vectors.dtype == jnp.float32 and parts != 2:
        raise ValueError(f"float32 vectors take queries in 2 parts, not {parts}")
    slices = -(-batch // side)
    rounded, _ = split(queries, parts)
    if len(alive) > 1:
        alive = jnp.pad(alive, ((0, slices * side - batch), (0, 0)))
    maxima = pl.pallas_call(
        partial(_scan, tile=tile, block_rows=block_rows, side=side),
        out_shape=jax.ShapeDtypeStruct((batch, blocks), jnp.float32),
        grid=(-(-blocks // tile.blocks), slices),
        compiler_params=triton.CompilerParams(num_warps=tile.warps, num_stages=tile.stages),
        interpret=interpret,
        name="block_maxima",
    )(
        jnp.pad(rounded, ((0, 0), (0, slices * side - batch), (0, 0))).swapaxes(1, 2),
        vectors.reshape(blocks, block_rows, width),
        alive,
    )
    return jnp.where(maxima == 0, 0.0, maxima)  # lax.top_k puts -0.0 below 0.0


def rounding_error(queries: jax.Array, dtype: jnp.dtype, parts: int = QUERY_PARTS) -> jax.Array:
    """Return how far a score of this scan may be from the exact sum in float32, per length: [B].

    Times |x| it bounds the difference to a sum of D rounded products in any order.

    Parts: bfloat16 vectors lose only what the query's parts leave, r, so |r| |x|. From float32
    vectors x0 + x1 + s the scan lacks x0 r, x1 (q - q0) and s q.

    Sums: a tensor core adds m >= 4 products and the accumulator at once: it shifts all to the
    largest exponent, cuts them off at 24 bits or more, and cuts the result to 24 bits (M. Fasi,
    N. J. Higham, M. Mikaitis, S. Pranesh, Numerical behavior of NVIDIA tensor cores, PeerJ Computer
    Science 7:e330, 2021). Each of m + 2 cuts loses at most 2u of the largest magnitude, which is
    at most |q| |x| and a hundredth: 3u a product. 4u covers that and this bound's own rounding. The
    paper ends with the A100; `bench/gpu/topk.py` compares errors and bound on the GPU at hand.
    """
    width = queries.shape[1]
    _, first_rest = split(queries, 1)
    _, rest = split(queries, parts)
    lengths, first_lost, lost = (
        jnp.linalg.norm(each, axis=1) for each in (queries, first_rest, rest)
    )
    products = parts
    if dtype == jnp.float32:
        products += 1
        lost = lost + _PART_ROUNDOFF * first_lost + _PART_ROUNDOFF**2 * lengths
    return 4 * ((products + 1) * width + 2) * _UNIT_ROUNDOFF * lengths + 1.02 * lost


def _scan(
    queries_ref: jax.Ref,
    vectors_ref: jax.Ref,
    alive_ref: jax.Ref,
    maxima_ref: jax.Ref,
    *,
    tile: Tile,
    block_rows: int,
    side: int,
) -> None:
    """Write [Q, L] maxima; see `block_maxima` for the refs, queries padded to whole slices."""
    parts = queries_ref.shape[0]
    batch, blocks = maxima_ref.shape
    # The last program begins early enough to have whole blocks, and repeats some of the one before.
    first_block = jnp.minimum(pl.program_id(0) * tile.blocks, blocks - tile.blocks)
    first_query = pl.program_id(1) * side
    here = pl.ds(first_block, tile.blocks)
    queries = [queries_ref[part, :, pl.ds(first_query, side)] for part in range(parts)]
    if alive_ref.shape[0] == 1:
        alive = alive_ref[0, here][:, None]  # [L, 1]
    else:
        alive = alive_ref[pl.ds(first_query, side), here].T  # [L, Q]

    def add_row(row: jax.Array, best: jax.Array) -> jax.Array:
        scores = _product(vectors_ref[here, row, :], queries)  # [L, Q]
        eligible = (lax.shift_right_logical(alive, jnp.full_like(alive, row)) & 1) == 1
        return jnp.maximum(best, jnp.where(eligible, scores, -jnp.inf))

    nothing = jnp.full((tile.blocks, side), -jnp.inf, jnp.float32)
    best = lax.fori_loop(0, block_rows, add_row, nothing)
    wanted = first_query + jnp.arange(side) < batch
    triton.store(
        maxima_ref.at[pl.ds(first_query, side), here],
        best.T,
        mask=jnp.broadcast_to(wanted[:, None], (side, tile.blocks)),
    )


def _product(vectors: jax.Array, queries: list[jax.Array]) -> jax.Array:
    """Return [L, D] times the sum of [D, Q] parts: [L, Q] f32; the least parts first."""
    if vectors.dtype == jnp.bfloat16:
        pairs = [(vectors, part) for part in reversed(queries)]
    else:
        high = vectors.astype(jnp.bfloat16)
        low = (vectors - high.astype(jnp.float32)).astype(jnp.bfloat16)
        pairs = [(low, queries[0]), *((high, part) for part in reversed(queries))]
    products = [jnp.dot(rows, part, preferred_element_type=jnp.float32) for rows, part in pairs]
    return sum(products[1:], start=products[0])
