"""The exact top k of dot products over a sharded corpus.

Shapes:
    N  rows of the corpus            D  width of a vector
    S  shards, one a device          R  rows of a shard: ceil(N / S), the last may hold fewer
    P  rows of a shard in memory: R padded to whole tiles
    T  rows of a tile                W  rows of a block; a tile is whole blocks
    B  queries                       K  results

Order: score descending, then row ascending. It is total, and a row's score is the same bit for bit
wherever it lies (see `selection`), so an answer depends neither on the number of shards, nor on how
they are scanned, nor on the other queries.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from phoenix_server.devices import Device
from phoenix_server.kernels.fit import check_fit
from phoenix_server.selection import ROW_GRANULE, Scan, Shard, all_scores, search

AXIS = "corpus"

DeviceCorpus = Shard
"""A corpus on the devices: a `Shard` whose arrays are all shards', one after the other."""


class TopK(NamedTuple):
    """The best rows of each query.

    Attributes:
        scores: [B, K'] f32, descending; -inf where fewer rows than K' are eligible.
        rows: [B, K'] i32; meaningless where the score is -inf.
        eligible: [] i32, the number of rows that could be returned.
        widened: [] i32, how often, over queries and shards, all rows had to be scored anew.

    K' is K, or the rows in memory where these are fewer.
    """

    scores: jax.Array
    rows: jax.Array
    eligible: jax.Array
    widened: jax.Array


@dataclass(frozen=True, kw_only=True)
class ShardedLayout:
    """How a corpus lies on the devices.

    Attributes:
        devices: One device a shard.
        rows: N.
        width: D.
        tile_rows: T. On a CPU a tile of scores should stay in cache; an accelerator wants few,
            large tiles.
        block_rows: W. Small blocks gather less, large ones select among fewer.
        queries_at_once: Queries whose blocks are looked into together: one stays in a CPU's cache,
            an accelerator wants many.
        scan: What a shard is searched with. The kernels do not need `tile_rows` nor
            `queries_at_once`, but a shard is whole tiles.
        interpret: Run kernels as ordinary JAX, slowly, on devices that they are not for.
    """

    devices: tuple[Device, ...]
    rows: int
    width: int
    tile_rows: int = 4096
    block_rows: int = 8
    queries_at_once: int = 1
    scan: Scan = "tiles"
    interpret: bool = False

    def __post_init__(self) -> None:
        if not self.devices or self.rows < 1 or self.width < 1:
            raise ValueError("a layout needs at least one device, one row and one column")
        if self.rows >= 2**31:
            raise ValueError(f"rows: {self.rows} does not fit in 31 bits")
        if min(self.tile_rows, self.block_rows) < 1 or self.tile_rows % self.block_rows:
            raise ValueError(f"tile_rows: {self.tile_rows} is not whole blocks")
        if self.block_rows % ROW_GRANULE:
            raise ValueError(f"block_rows: {self.block_rows} is not a multiple of {ROW_GRANULE}")
        if self.queries_at_once < 1:
            raise ValueError(f"queries_at_once: {self.queries_at_once} is not positive")
        if self.scan == "kernel":
            check_fit(width=self.width, tile_rows=self.tile_rows, block_rows=self.block_rows)

    @cached_property
    def shards(self) -> int:
        """S."""
        return len(self.devices)

    @cached_property
    def shard_rows(self) -> int:
        """R."""
        return -(-self.rows // self.shards)

    @cached_property
    def padded_rows(self) -> int:
        """P."""
        return -(-self.shard_rows // self.tile_rows) * self.tile_rows

    @cached_property
    def mesh(self) -> Mesh:
        """The devices along the axis `corpus`."""
        return Mesh(np.array(self.devices), (AXIS,))

    @cached_property
    def by_rows(self) -> NamedSharding:
        """Rows over the shards."""
        return NamedSharding(self.mesh, PartitionSpec(AXIS))

    @cached_property
    def replicated(self) -> NamedSharding:
        """The same on every shard."""
        return NamedSharding(self.mesh, PartitionSpec())

    def memory_rows(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return where corpus rows lie in the [S*P] arrays."""
        shard, local = np.divmod(rows, self.shard_rows)
        return shard * self.padded_rows + local

    def place(self, chunks: Iterable[npt.NDArray[np.float32]]) -> DeviceCorpus:
        """Copy a corpus to the devices, one shard at a time.

        Args:
            chunks: Arrays [n, D] f32 that together hold the N rows in order.

        Raises:
            ValueError: The chunks do not add up to N rows of width D.
        """
        stream = _Rows(chunks, self.width)
        vectors: list[jax.Array] = []
        valid: list[jax.Array] = []
        longest: list[jax.Array] = []
        for shard, device in enumerate(self.devices):
            here = min(self.shard_rows, max(0, self.rows - shard * self.shard_rows))
            buffer = np.zeros((self.padded_rows, self.width), np.float32)  # [P, D]
            stream.fill(buffer[:here])
            length = 1.0001 * _longest(buffer)  # float32 may round it down
            longest.append(jax.device_put(np.full(1, length, np.float32), device))
            # may_alias: on a CPU the buffer becomes the device array, and stays the only copy.
            vectors.append(jax.device_put(buffer, device, may_alias=True))
            valid.append(jax.device_put(np.arange(self.padded_rows) < here, device))
        stream.finish()
        total = self.shards * self.padded_rows
        assemble = partial(jax.make_array_from_single_device_arrays, sharding=self.by_rows)
        return DeviceCorpus(
            assemble((total, self.width), arrays=vectors),
            assemble((total,), arrays=valid),
            assemble((self.shards,), arrays=longest),
        )

    def top_k(self, corpus: DeviceCorpus, queries: jax.Array, k: int) -> TopK:
        """Return the K best rows of each query; jit me with `k` static.

        Args:
            corpus: What `place` returned.
            queries: [B, D] f32, replicated.
            k: K, at least 1.
        """
        return jax.shard_map(
            partial(self._top_k_of_shard, k=k),
            mesh=self.mesh,
            in_specs=(PartitionSpec(AXIS), PartitionSpec()),
            out_specs=PartitionSpec(),
            check_vma=False,  # the merge makes the result equal on all shards
        )(corpus, queries)

    def scores(self, corpus: DeviceCorpus, query: jax.Array) -> jax.Array:
        """Return every score for a query [D]: [S*P], sharded by rows, -inf if not valid; jit me."""
        return jax.shard_map(
            lambda shard, query: all_scores(shard, query, self),
            mesh=self.mesh,
            in_specs=(PartitionSpec(AXIS), PartitionSpec()),
            out_specs=PartitionSpec(AXIS),
            check_vma=False,
        )(corpus, query)

    def _top_k_of_shard(self, shard: DeviceCorpus, queries: jax.Array, k: int) -> TopK:
        """Return the K best rows of all shards, the same on each; runs inside `shard_map`."""
        scores, rows, widened = search(shard, queries, k, self)
        rows = rows + lax.axis_index(AXIS) * self.shard_rows
        eligible = lax.psum(jnp.sum(shard.valid, dtype=jnp.int32), AXIS)
        widened = lax.psum(widened, AXIS)
        if self.shards == 1:
            return TopK(scores, rows, eligible, widened)
        # [B, S*K]: shards in the order of their rows, so equal scores stay in the order of rows.
        scores = lax.all_gather(scores, AXIS, axis=1, tiled=True)
        rows = lax.all_gather(rows, AXIS, axis=1, tiled=True)
        scores, places = lax.top_k(scores, min(k, scores.shape[1]))
        return TopK(scores, jnp.take_along_axis(rows, places, axis=1), eligible, widened)


class _Rows:
    """Deals out the rows of a stream of chunks."""

    def __init__(self, chunks: Iterable[npt.NDArray[np.float32]], width: int) -> None:
        self._chunks = iter(chunks)
        self._rest = np.empty((0, width), np.float32)

    def fill(self, target: npt.NDArray[np.float32]) -> None:
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
        if len(self._rest) or any(len(chunk) for chunk in self._chunks):
            raise ValueError("the chunks hold more rows than the layout")


def _longest(vectors: npt.NDArray[np.float32]) -> float:
    """Return the length of the longest of [n, D] vectors."""
    squares = np.einsum("nd,nd->n", vectors, vectors)
    return float(np.sqrt(squares.max()))
