"""The exact top k of dot products over a sharded corpus.

Shapes:
    N  rows of the corpus            D  width of a vector
    S  shards, one a device          R  rows of a shard: ceil(N / S), the last may hold fewer
    P  rows of a shard in memory: R padded to whole tiles
    T  rows of a tile                W  rows of a block; a tile is whole blocks
    B  queries                       K  results

Order: score descending, then row ascending. It is total, so an answer depends neither on the
number of shards nor on how they are scanned. That also needs a row's score to be the same wherever
the row lies: every product is of the same shape, [B, D] by [D, T], with T a multiple of every
vector width, so no row falls in a kernel's remainder.

Blocks make the selection cheap and keep it exact: the K best rows of a shard lie in the K blocks
of largest maxima (ties to the lower block), since each other block is behind K rows that are at
least as good as all of its own and come before them.
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

AXIS = "corpus"


class DeviceCorpus(NamedTuple):
    """The part of a corpus that lives on the devices.

    Attributes:
        vectors: [S*P, D] f32, sharded by rows.
        valid: [S*P] bool, sharded likewise; False for padding.
    """

    vectors: jax.Array
    valid: jax.Array


class TopK(NamedTuple):
    """The best rows of each query.

    Attributes:
        scores: [B, K'] f32, descending; -inf where fewer rows than K' are eligible.
        rows: [B, K'] i32; meaningless where the score is -inf.
        eligible: [] i32, the number of rows that could be returned.

    K' is K, or the rows in memory where these are fewer.
    """

    scores: jax.Array
    rows: jax.Array
    eligible: jax.Array


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
    """

    devices: tuple[Device, ...]
    rows: int
    width: int
    tile_rows: int = 8192
    block_rows: int = 64

    def __post_init__(self) -> None:
        if not self.devices or self.rows < 1 or self.width < 1:
            raise ValueError("a layout needs at least one device, one row and one column")
        if self.rows >= 2**31:
            raise ValueError(f"rows: {self.rows} does not fit in 31 bits")
        if min(self.tile_rows, self.block_rows) < 1 or self.tile_rows % self.block_rows:
            raise ValueError(f"tile_rows: {self.tile_rows} is not whole blocks")

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
        for shard, device in enumerate(self.devices):
            here = min(self.shard_rows, max(0, self.rows - shard * self.shard_rows))
            buffer = np.zeros((self.padded_rows, self.width), np.float32)  # [P, D]
            stream.fill(buffer[:here])
            # may_alias: on a CPU the buffer becomes the device array, and stays the only copy.
            vectors.append(jax.device_put(buffer, device, may_alias=True))
            valid.append(jax.device_put(np.arange(self.padded_rows) < here, device))
        stream.finish()
        total = self.shards * self.padded_rows
        assemble = partial(jax.make_array_from_single_device_arrays, sharding=self.by_rows)
        return DeviceCorpus(
            assemble((total, self.width), arrays=vectors), assemble((total,), arrays=valid)
        )

    def top_k(self, corpus: DeviceCorpus, queries: jax.Array, k: int) -> TopK:
        """Return the K best rows of each query; jit me with `k` static.

        Args:
            corpus: What `place` returned.
            queries: [B, D] f32, replicated.
            k: K, at least 1.
        """
        search = partial(_search_shard, layout=self, k=k)
        return jax.shard_map(
            search,
            mesh=self.mesh,
            in_specs=(PartitionSpec(AXIS), PartitionSpec()),
            out_specs=PartitionSpec(),
            check_vma=False,  # the merge makes the result equal on all shards
        )(corpus, queries)

    def scores(self, corpus: DeviceCorpus, queries: jax.Array) -> jax.Array:
        """Return every score: [B, S*P] f32, sharded by rows, -inf where not valid; jit me."""

        def score(shard: DeviceCorpus, queries: jax.Array) -> jax.Array:
            tiles, _ = _score_tiles(shard, queries, self)  # [P/T, B, T]
            return tiles.transpose(1, 0, 2).reshape(queries.shape[0], -1)  # [B, P]

        return jax.shard_map(
            score,
            mesh=self.mesh,
            in_specs=(PartitionSpec(AXIS), PartitionSpec()),
            out_specs=PartitionSpec(None, AXIS),
        )(corpus, queries)


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


def _score_tiles(
    shard: DeviceCorpus, queries: jax.Array, layout: ShardedLayout
) -> tuple[jax.Array, jax.Array]:
    """Score one shard tile by tile: scores [P/T, B, T] and block maxima [P/T, B, T/W]."""
    tile, block = layout.tile_rows, layout.block_rows
    batch = queries.shape[0]

    def score(rows: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        vectors, valid = rows  # [T, D], [T]
        scores = jnp.dot(
            queries,
            vectors.T,
            precision=lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )  # [B, T]
        scores = jnp.where(scores == 0, 0.0, scores)  # lax.top_k puts -0.0 below 0.0
        scores = jnp.where(valid, scores, -jnp.inf)
        return scores, scores.reshape(batch, tile // block, block).max(-1)

    return lax.map(
        score, (shard.vectors.reshape(-1, tile, layout.width), shard.valid.reshape(-1, tile))
    )


def _search_shard(
    shard: DeviceCorpus, queries: jax.Array, *, layout: ShardedLayout, k: int
) -> TopK:
    """Return the K best rows of all shards, the same on each; runs inside `shard_map`."""
    scores, rows = _select(*_score_tiles(shard, queries, layout), layout=layout, k=k)  # [B, K]
    rows = rows + lax.axis_index(AXIS) * layout.shard_rows
    eligible = lax.psum(jnp.sum(shard.valid, dtype=jnp.int32), AXIS)
    if layout.shards == 1:
        return TopK(scores, rows, eligible)
    # [B, S*K]: shards in the order of their rows, so equal scores stay in the order of rows.
    scores = lax.all_gather(scores, AXIS, axis=1, tiled=True)
    rows = lax.all_gather(rows, AXIS, axis=1, tiled=True)
    scores, places = lax.top_k(scores, min(k, scores.shape[1]))
    return TopK(scores, jnp.take_along_axis(rows, places, axis=1), eligible)


def _select(
    scores: jax.Array, maxima: jax.Array, *, layout: ShardedLayout, k: int
) -> tuple[jax.Array, jax.Array]:
    """Select from [P/T, B, T] scores the K best: scores and local rows, [B, K] each."""
    tiles, batch, tile = scores.shape
    block, blocks = layout.block_rows, tile // layout.block_rows
    k = min(k, tiles * tile)
    if 2 * k >= tiles * blocks:  # the chosen blocks would be most of the scores
        return lax.top_k(scores.transpose(1, 0, 2).reshape(batch, -1), k)
    maxima = maxima.transpose(1, 0, 2).reshape(batch, -1)  # [B, P/W]
    # In the order of rows, so that among equal scores the lower row comes first below as well.
    chosen = jnp.sort(lax.top_k(maxima, k)[1], axis=1)  # [B, K]
    by_block = scores.reshape(tiles, batch, blocks, block)
    gathered = by_block[chosen // blocks, jnp.arange(batch)[:, None], chosen % blocks]  # [B, K, W]
    best, places = lax.top_k(gathered.reshape(batch, -1), k)
    chosen = jnp.take_along_axis(chosen, places // block, axis=1)
    return best, chosen * block + places % block
