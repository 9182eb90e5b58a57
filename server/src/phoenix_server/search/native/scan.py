"""The native search of a shard: custom calls of a C++ library, for CPUs.

Shapes:
    P  rows of the shard in memory   D  width of a vector     B  queries
    K  results                       J  D / 4, rounded up     n  rows that are written

Each row has codes of 8 bits beside its vector. A scan of the codes gives each row an upper bound of
its score; rows whose bound reaches the K best are scored in float32. See `top_k.cc`.

A score is defined to the bit, whatever the CPU, batch, shard or number of threads; see `rows.h`.
"""

from typing import Any

import jax
import numpy as np

from phoenix_server.search.shard import RowCodes, ScanConfig, Shard

GROUP_ROWS = 16  # rows whose codes lie together
TILE_ROWS = 1024  # a shard is a multiple of so many rows


def code_shapes(rows: int, width: int) -> RowCodes:
    """Return the shapes of the codes of [P, D] vectors."""
    spec: Any = jax.ShapeDtypeStruct
    groups = rows // GROUP_ROWS
    return RowCodes(
        spec((groups, -(-width // 4), GROUP_ROWS, 4), np.uint8),
        spec((groups, 2, GROUP_ROWS), np.float32),
    )


def code_bytes(width: int) -> int:
    """Return the bytes of memory that the codes of a row take."""
    return 4 * -(-width // 4) + 8


def encode(vectors: jax.Array, config: ScanConfig) -> RowCodes:
    """Return the codes of [P, D] vectors. To be jitted."""
    call = jax.ffi.ffi_call("phoenix_encode", tuple(code_shapes(*vectors.shape)))
    return RowCodes(*call(vectors, variant=config.variant))


def write(
    vectors: jax.Array, codes: RowCodes, rows: jax.Array, written: jax.Array, config: ScanConfig
) -> tuple[jax.Array, RowCodes]:
    """Return vectors and codes with [n] rows replaced; in place where the arguments are donated.

    Args:
        vectors: [P, D] f32.
        codes: Of the vectors.
        rows: [n] i32; rows beyond P are padding.
        written: [n, D] f32.
        config: How the shard is scanned.
    """
    shapes = jax.ShapeDtypeStruct(vectors.shape, vectors.dtype), *code_shapes(*vectors.shape)
    call = jax.ffi.ffi_call("phoenix_write", shapes, input_output_aliases={0: 0, 1: 1, 2: 2})
    vectors, *parts = call(vectors, *codes, rows, written, variant=config.variant)
    return vectors, RowCodes(*parts)


def top_k(
    shard: Shard,
    eligible: jax.Array,
    queries: jax.Array,
    wanted: jax.Array,
    k: int,
    config: ScanConfig,
) -> tuple[jax.Array, jax.Array]:
    """Return the K best rows of each query, by score descending, then id ascending.

    Args:
        shard: The rows, with codes.
        eligible: [B, P/32] u32, or [1, P/32] for all queries: bit i of word j says whether a query
            may find row 32 j + i.
        queries: [B, D] f32; a query of zeros is padding, and costs nothing.
        wanted: [B] i32, the number of results that each query gets; K at most.
        k: K, at most P.
        config: How the shard is scanned.

    Returns:
        [B, K] f32, the scores, -inf where fewer rows are eligible or wanted, NaN for a query that
        is not finite; [B, K] i32, the rows.
    """
    shapes: Any = tuple(jax.ShapeDtypeStruct((len(queries), k), t) for t in (np.float32, np.int32))
    call = jax.ffi.ffi_call("phoenix_top_k", shapes)
    vectors, ids, longest, tiles, codes = shard
    assert codes is not None
    return call(
        *(vectors, ids, *codes, longest, tiles, eligible, queries, wanted),
        tile_rows=np.int64(config.tile_rows),
        variant=config.variant,
    )


def all_scores(
    shard: Shard, eligible: jax.Array, query: jax.Array, config: ScanConfig
) -> jax.Array:
    """Return the scores of all rows for a query [D]: [P] f32, -inf where not eligible [P/32]."""
    shape = jax.ShapeDtypeStruct(shard.vectors.shape[:1], np.float32)
    call = jax.ffi.ffi_call("phoenix_scores", shape)
    return call(shard.vectors, eligible, query, variant=config.variant)
