"""The kernel of the scan: products on tensor cores, of which only block maxima are written.

Shapes:
    P  rows of the shard in memory   D  width of a vector          B  queries
    W  rows of a block               n  blocks, P / W              Z  bfloat16 parts of a query
    X  blocks of a program           Y  queries of a program, a power of two

A program processes X blocks and Y queries. For j from 0 to W - 1 it multiplies row j of each of its
blocks with the queries, and keeps the maximum of that product and the earlier ones. The scores stay
in registers, lanes are not compared with each other, and only the [Y, X] maxima are written. Each
row is read once if all queries fit in Y.

Tensor cores multiply bfloat16. A float32 x is the sum of bfloat16 parts x0 + x1 + r, where
|x1| <= 2^-8 |x| and |r| <= 2^-16 |x|. Queries are given as Z parts; float32 vectors as two, and the
product of the two second parts is omitted. Products of parts are exact in float32.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

QUERY_PARTS = 2  # Z; with 1 the error is about 2^-9 of a score: more than close scores differ

_UNIT_ROUNDOFF = 2.0**-24
_PART_ROUNDOFF = 2.0**-8
_WORD = 32
_MIN_SIDE = 16  # of a product on tensor cores
_SHARED_BYTES = 200 << 10  # of the 227 KiB of shared memory of a program on an H100


@dataclass(frozen=True, kw_only=True)
class Tile:
    """The work of one program of the scan.

    Attributes:
        blocks: X; a power of two, at least 16. Hopper's products want 64.
        warps: Number of warps, of 32 threads each.
        stages: Number of rows of each block that are being loaded from memory at once.
    """

    blocks: int
    warps: int
    stages: int


def query_slice(batch: int, width: int, dtype: jnp.dtype) -> int:
    """Return Y: all queries, if their parts and the rows being loaded fit in shared memory."""
    largest = (1 << 15 if dtype == jnp.bfloat16 else 1 << 14) // max(width, 128)
    return min(largest, max(_MIN_SIDE, pl.next_power_of_2(batch)))


def tile_for(queries: int, width: int, dtype: jnp.dtype) -> Tile:
    """Return the tile for Y queries."""
    blocks = 64
    underway = blocks * width * dtype.itemsize
    room = _SHARED_BYTES - QUERY_PARTS * queries * width * 2
    return Tile(
        blocks=blocks, warps=4 if queries <= 64 else 8, stages=max(2, min(4, room // underway))
    )


def of_blocks(eligible: jax.Array, block_rows: int) -> jax.Array:
    """Return a word for each block, its bit j for row j: [B or 1, P/32] u32 to [B or 1, n] i32.

    Args:
        eligible: [B or 1, P/32] u32; bit i of word j is for row 32 j + i.
        block_rows: W, which divides 32.
    """
    words = eligible
    if block_rows < _WORD:
        shifts = jnp.arange(0, _WORD, block_rows, dtype=jnp.uint32)
        parts = (eligible[..., None] >> shifts) & jnp.uint32((1 << block_rows) - 1)
        words = parts.reshape(len(eligible), -1)
    return lax.bitcast_convert_type(words, jnp.int32)


def split(queries: jax.Array, parts: int) -> tuple[jax.Array, jax.Array]:
    """Return Z parts of [B, D] f32, [Z, B, D] bf16, and the rest, [B, D] f32; both are exact."""
    found: list[jax.Array] = []
    for _ in range(parts):
        # Not astype and back: compilers may drop such a pair of conversions.
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
        parts: Z; must be 2 if the vectors are float32.
        tile: X and how to run. Default: chosen by B and D.

    Raises:
        ValueError: n is less than X, or `parts` is not 2 for float32 vectors.
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
    return jnp.where(maxima == 0, 0.0, maxima)  # lax.top_k sorts -0.0 below 0.0


def rounding_error(queries: jax.Array, dtype: jnp.dtype, parts: int = QUERY_PARTS) -> jax.Array:
    """Return the error bound of a score of this scan per unit length of the vector: [B] f32.

    The bound times |x| limits the difference between this scan's score of x and a float32 sum of
    the D rounded products in any order.

    Parts: with bfloat16 vectors only the rest r of the query after its parts is lost: |r| |x|. With
    float32 vectors x = x0 + x1 + s, the terms x0 r, x1 (q - q0) and s q are missing.

    Sums: a tensor core adds m >= 4 products and the accumulator at once: it shifts all to the
    largest exponent, truncates them to 24 bits or more, and truncates the result to 24 bits
    (M. Fasi, N. J. Higham, M. Mikaitis, S. Pranesh, Numerical behavior of NVIDIA tensor cores,
    PeerJ Computer Science 7:e330, 2021). Each of the m + 2 truncations loses at most 2u of the
    largest magnitude, which is at most 1.01 |q| |x|: 3u a product. 4u covers that and the rounding
    of this bound itself. The paper ends with the A100; `bench/gpu/topk.py` compares errors and
    bound on the GPU at hand.
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
    """Write [Y, X] maxima; refs as the arrays of `block_maxima`, B padded to a multiple of Y."""
    parts = queries_ref.shape[0]
    batch, blocks = maxima_ref.shape
    # The last program starts early enough to have X blocks, and repeats some of the previous one's.
    first_block = jnp.minimum(pl.program_id(0) * tile.blocks, blocks - tile.blocks)
    first_query = pl.program_id(1) * side
    here = pl.ds(first_block, tile.blocks)
    queries = [queries_ref[part, :, pl.ds(first_query, side)] for part in range(parts)]
    if alive_ref.shape[0] == 1:
        alive = alive_ref[0, here][:, None]  # [X, 1]
    else:
        alive = alive_ref[pl.ds(first_query, side), here].T  # [X, Y]

    def add_row(row: jax.Array, best: jax.Array) -> jax.Array:
        scores = _product(vectors_ref[here, row, :], queries)  # [X, Y]
        eligible = (lax.shift_right_logical(alive, jnp.full_like(alive, row)) & 1) == 1
        return jnp.maximum(best, jnp.where(eligible, scores, -jnp.inf))

    nothing = jnp.full((tile.blocks, side), -jnp.inf, jnp.float32)
    best = lax.fori_loop(0, block_rows, add_row, nothing)
    in_batch = first_query + jnp.arange(side) < batch
    triton.store(
        maxima_ref.at[pl.ds(first_query, side), here],
        best.T,
        mask=jnp.broadcast_to(in_batch[:, None], (side, tile.blocks)),
    )


def _product(vectors: jax.Array, queries: list[jax.Array]) -> jax.Array:
    """Return [X, D] times the sum of [D, Y] parts: [X, Y] f32; the smallest parts come first."""
    if vectors.dtype == jnp.bfloat16:
        pairs = [(vectors, part) for part in reversed(queries)]
    else:
        high = vectors.astype(jnp.bfloat16)
        low = (vectors - high.astype(jnp.float32)).astype(jnp.bfloat16)
        pairs = [(low, queries[0]), *((high, part) for part in reversed(queries))]
    products = [jnp.dot(rows, part, preferred_element_type=jnp.float32) for rows, part in pairs]
    return sum(products[1:], start=products[0])
