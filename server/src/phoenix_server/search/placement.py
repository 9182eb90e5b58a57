"""Placing a corpus on the devices, one shard at a time.

Shapes:
    S  shards                        D  width of a vector
    P  rows of one shard in memory   T  rows of a tile
    n  posts or vectors of a call
"""

from collections.abc import Iterable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from phoenix_server.runtime.arrays import F32, U64
from phoenix_server.runtime.devices import Device
from phoenix_server.search.native import scan as native
from phoenix_server.search.shard import WORD, RowCodes, Shard
from phoenix_server.search.sharded import DeviceCorpus, ShardedLayout, pack, split_ids


def place_corpus(layout: ShardedLayout, chunks: Iterable[F32], ids: U64) -> DeviceCorpus:
    """Copy posts to the devices, at the rows that `layout.spread` returns.

    Args:
        layout: How the rows lie on the devices.
        chunks: Arrays of [any number, D] f32 that together hold the posts in order.
        ids: [n] u64, the posts' ids, distinct; n is at most `layout.rows`.

    Raises:
        ValueError: The number of vectors is not n, n is too large, or a vector is not D wide.
    """
    if len(ids) > layout.rows:
        raise ValueError(f"{len(ids)} posts do not fit in {layout.rows} rows")
    stream = _VectorStream(chunks, layout.width)
    each = -(-len(ids) // layout.shards)
    shards: list[Shard] = []
    live: list[jax.Array] = []
    for shard, device in enumerate(layout.devices):
        own = ids[shard * each : (shard + 1) * each]
        vectors, longest = _place_vectors(layout, stream, len(own), device)
        columns = np.zeros((layout.padded_rows, 2), np.uint32)
        columns[: len(own)] = split_ids(own)
        put = partial(jax.device_put, device=device)
        shards.append(
            Shard(
                vectors,
                put(columns),
                put(np.full(1, longest, np.float32)),
                put(np.full(1, layout.tiles_of(len(own)), np.int32)),
                _encode(vectors, layout) if layout.scan == "native" else None,
            )
        )
        live.append(put(pack(np.arange(layout.padded_rows) < len(own))[None]))
    stream.finish()
    join = jax.make_array_from_single_device_arrays
    return DeviceCorpus(
        jax.tree.map(
            lambda *parts: join(
                (layout.shards * len(parts[0]), *parts[0].shape[1:]), layout.by_rows, parts
            ),
            *shards,
        ),
        join((1, layout.total_rows // WORD), layout.words, live),
    )


class _VectorStream:
    """Copies vectors out of a stream of chunks, in order."""

    def __init__(self, chunks: Iterable[F32], width: int) -> None:
        self._chunks = iter(chunks)
        self._rest = np.empty((0, width), np.float32)

    def fill(self, target: F32) -> None:
        """Fill `target`, [n, D], with the next n vectors."""
        filled = 0
        while filled < len(target):
            if not len(self._rest):
                rest = next(self._chunks, None)
                if rest is None:
                    raise ValueError("the chunks hold fewer rows than the layout")
                self._rest = rest
                if self._rest.shape[1:] != target.shape[1:]:
                    raise ValueError(f"a chunk of shape {self._rest.shape} has the wrong width")
            take = min(len(target) - filled, len(self._rest))
            target[filled : filled + take] = self._rest[:take]
            self._rest = self._rest[take:]
            filled += take

    def finish(self) -> None:
        """Check that no vectors are left."""
        if len(self._rest) or any(len(chunk) for chunk in self._chunks):
            raise ValueError("the chunks hold more rows than the layout")


def _place_vectors(
    layout: ShardedLayout, stream: _VectorStream, rows: int, device: Device
) -> tuple[jax.Array, float]:
    """Return the vectors of a shard, [P, D], its first `rows` from the stream, and `longest`."""
    vectors = jnp.zeros((layout.padded_rows, layout.width), np.float32, device=device)
    longest = 0.0
    for start in range(0, rows, layout.tile_rows):
        tile = np.zeros((layout.tile_rows, layout.width), np.float32)
        stream.fill(tile[: rows - start])
        squares = np.einsum("nd,nd->n", tile, tile)
        longest = max(longest, float(np.sqrt(squares.max())))
        # may_alias: a CPU device uses the tile itself, without a copy.
        vectors = _write_tile(vectors, jax.device_put(tile, device, may_alias=True), start)
    return vectors, 1.0001 * longest  # float32 may have rounded it down


@partial(jax.jit, static_argnums=1)
def _encode(vectors: jax.Array, layout: ShardedLayout) -> RowCodes:
    return native.encode(vectors, layout)


@partial(jax.jit, donate_argnums=0)
def _write_tile(vectors: jax.Array, tile: jax.Array, start: int) -> jax.Array:
    return lax.dynamic_update_slice_in_dim(vectors, tile, start, axis=0)
