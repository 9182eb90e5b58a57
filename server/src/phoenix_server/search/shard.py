"""One shard of a corpus: its arrays, its score, and what a scan of it must provide.

Shapes:
    P  rows of the shard in memory   D  width of a vector     B  queries
    T  rows of a tile                W  rows of a block       K  results
    C  chosen blocks                 m  candidate rows, at least K

A score has one definition for each kind of scan: XLA's `row_scores`, the kernel `block_scores`, or
the native `rows.h`. It gives a row the same bits wherever the row lies and whatever else is in the
batch.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

# XLA's product of a matrix and a vector gives a row the same bits in any matrix whose number of
# rows is a multiple of 8; rows after the last multiple of 8 are summed in another order.
ROW_GRANULE = 8

WORD = 32  # bits of a mask word: the rows that share one u32

Scan: TypeAlias = Literal["native", "tiles", "kernel"]
"""How a shard is scanned: `native` is a C++ library for CPUs, `tiles` is plain XLA for any device,
`kernel` is for GPUs."""


class RowCodes(NamedTuple):
    """Vectors rounded to 8 bits a component, and what bounds the error; see `search/native/scan.h`.

    Attributes:
        codes: [P/16, J, 16, 4] u8, four components of each row of a group together; J is D/4,
            rounded up.
        bounds: [P/16, 2, 16] f32, each row's scale, and an upper bound of the length of what its
            codes leave out.
    """

    codes: jax.Array
    bounds: jax.Array


class Shard(NamedTuple):
    """The part of a corpus on one device.

    Attributes:
        vectors: [P, D] f32 or bf16.
        ids: [P, 2] u32, the high and the low half of each post's id; distinct among live rows.
        longest: [1] f32, an upper bound of the length of the longest vector.
        tiles: [1] i32, the number of tiles that hold rows; a scan ignores the tiles after them.
        codes: Of the vectors; only the native scan has them.
    """

    vectors: jax.Array
    ids: jax.Array
    longest: jax.Array
    tiles: jax.Array
    codes: RowCodes | None = None


class Candidates(NamedTuple):
    """Rows that a scan found, and the facts from which the search proves that they suffice.

    Attributes:
        scores: [B, m] f32, in any order; -inf where there is no row. m is at least K.
        rows: [B, m] i32.
        left_out: [B] f32, the largest maximum, as the scan rounds it, of the blocks not chosen.
        complete: [B] bool, whether the K best rows of the chosen blocks are all here. For a query
            of zeros all rows are equal, and any will do.
    """

    scores: jax.Array
    rows: jax.Array
    left_out: jax.Array
    complete: jax.Array


@dataclass(frozen=True, kw_only=True)
class ScanConfig:
    """How a shard is scanned.

    Attributes:
        tile_rows: T. On a CPU the scores of a tile should stay in cache; an accelerator wants few,
            large tiles.
        block_rows: W. Smaller blocks mean fewer rows to score exactly; larger blocks mean fewer
            maxima to choose from.
        queries_at_once: Number of queries whose chosen blocks are scored together. The rows of one
            query stay in a CPU's cache; an accelerator wants many queries.
        scan: The kind of scan. Kernels and the native scan use neither `tile_rows` nor
            `queries_at_once`, but a shard is still a multiple of tiles.
        variant: Of the native scan, for the instruction set of the CPU.
        interpret: Run kernels as ordinary JAX, slowly, on devices that they are not made for.
    """

    tile_rows: int = 4096
    block_rows: int = 8
    queries_at_once: int = 1
    scan: Scan = "tiles"
    variant: str = ""
    interpret: bool = False


class ScanMethod(Protocol):
    """What a scan provides: the modules `search.tiles` and `search.kernels.fused` do."""

    def find_candidates(
        self,
        shard: Shard,
        eligible: jax.Array,
        queries: jax.Array,
        k: int,
        chosen: int,
        config: ScanConfig,
    ) -> Candidates:
        """Return candidates for the K best rows of each query.

        Args:
            shard: The rows.
            eligible: [B or 1, P/32] u32; bit i of word j is for row 32 j + i.
            queries: [B, D] f32.
            k: K.
            chosen: C.
            config: How to scan.
        """
        ...

    def score_all(
        self, shard: Shard, eligible: jax.Array, query: jax.Array, config: ScanConfig
    ) -> jax.Array:
        """Return the scores of all rows for a query [D]: [P] f32, -inf where not eligible.

        They have the same bits as the scores of candidates. `eligible` is [P/32] u32.
        """
        ...

    def score_error(self, shard: Shard, queries: jax.Array) -> jax.Array:
        """Return a bound of |score of the scan - exact score| for each query: [B] f32."""
        ...


def row_scores(rows: jax.Array, query: jax.Array) -> jax.Array:
    """Return the scores of rows [n, D] for a query [D]: [n] f32; n must be a multiple of 8."""
    scores = jnp.dot(rows.astype(jnp.float32), query, precision=lax.Precision.HIGHEST)
    return jnp.where(scores == 0, 0.0, scores)  # lax.top_k sorts -0.0 below 0.0


def unpack(words: jax.Array) -> jax.Array:
    """Return the bits of [..., n] u32, lowest bit of each word first: [..., 32 n] bool."""
    bits = (words[..., None] >> jnp.arange(WORD, dtype=jnp.uint32)) & 1
    return (bits != 0).reshape(*words.shape[:-1], -1)


def pick(values: jax.Array, at: jax.Array, fill: float) -> jax.Array:
    """Return values[b, at[b, i]] of [B, n, ...] for [B, m]: [B, m, ...]; `fill` beyond the end."""
    at = at.reshape(*at.shape, *(1,) * (values.ndim - 2))
    return jnp.take_along_axis(values, at, axis=1, mode="fill", fill_value=fill)
