"""The exact top k of dot products over a sharded corpus.

Shapes:
    N  most rows of the corpus       D  width of a vector
    S  shards, one a device          P  rows of a shard in memory: N / S, in whole tiles
    T  rows of a tile                W  rows of a block; a tile is whole blocks
    B  queries                       K  results

A row is a place in the [S*P] arrays; it need not hold a post.

Order: score descending, then post id ascending. It is total, and a row's score is the same bit for
bit wherever it lies (see `selection`), so an answer depends neither on where posts lie, nor on the
number of shards, nor on how they are scanned, nor on the other queries.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from phoenix_server.runtime.devices import Device
from phoenix_server.search.kernels.constraints import check_fit
from phoenix_server.search.shard import (
    ROW_GRANULE,
    WORD,
    Scan,
    Shard,
    all_scores,
    in_order,
    search,
)
from phoenix_server.search.threshold import choose_best

AXIS = "corpus"


class DeviceCorpus(NamedTuple):
    """A corpus on the devices.

    Attributes:
        shards: The arrays of all shards, one after the other.
        live: [1, S*P/32] u32; bit i of word j says whether row 32 j + i holds a post.
    """

    shards: Shard
    live: jax.Array


class Update(NamedTuple):
    """A change of a corpus. Its arrays are padded: to whom a row or a word is beyond, skips it.

    Attributes:
        rows: [n] i32, where posts are written.
        vectors: [n, D] f32.
        ids: [n, 2] u32.
        words: [m] i32, words of `live` that change.
        bits: [m] u32, what they become.
        longest: [] f32, at least the length of the longest vector.
        tiles: [S] i32, how many tiles of each shard hold rows from now on.
    """

    rows: npt.NDArray[np.int32]
    vectors: npt.NDArray[np.float32]
    ids: npt.NDArray[np.uint32]
    words: npt.NDArray[np.int32]
    bits: npt.NDArray[np.uint32]
    longest: np.float32
    tiles: npt.NDArray[np.int32]


class TopK(NamedTuple):
    """The best rows of each query.

    Attributes:
        scores: [B, K'] f32, descending; -inf where fewer rows than K' are eligible.
        rows: [B, K'] i32; meaningless where the score is -inf.
        eligible: [B or 1] i32, the number of rows that could be returned.
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
        if self.block_rows % ROW_GRANULE or WORD % self.block_rows or self.tile_rows % WORD:
            raise ValueError(
                f"block_rows, tile_rows: {self.block_rows} and {self.tile_rows} must be multiples "
                f"of {ROW_GRANULE} and {WORD}, and {WORD} one of the first"
            )
        if self.queries_at_once < 1:
            raise ValueError(f"queries_at_once: {self.queries_at_once} is not positive")
        if self.scan == "kernel":
            check_fit(width=self.width, tile_rows=self.tile_rows, block_rows=self.block_rows)

    @cached_property
    def shards(self) -> int:
        """S."""
        return len(self.devices)

    @cached_property
    def padded_rows(self) -> int:
        """P."""
        return -(-self.rows // (self.shards * self.tile_rows)) * self.tile_rows

    @cached_property
    def total_rows(self) -> int:
        """S * P."""
        return self.shards * self.padded_rows

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

    @cached_property
    def words(self) -> NamedSharding:
        """Words of rows over the shards, for each query or for all."""
        return NamedSharding(self.mesh, PartitionSpec(None, AXIS))

    def spread(self, count: int) -> npt.NDArray[np.int32]:
        """Return the rows of `count` posts spread evenly over the shards, in order: [count]."""
        each = -(-count // self.shards)
        shard, local = np.divmod(np.arange(count, dtype=np.int32), np.int32(max(each, 1)))
        return shard * np.int32(self.padded_rows) + local

    def place(
        self, chunks: Iterable[npt.NDArray[np.float32]], ids: npt.NDArray[np.uint64]
    ) -> DeviceCorpus:
        """Copy posts to the devices, at the rows that `spread` gives, one shard at a time.

        Args:
            chunks: Arrays [n, D] f32 that together hold the posts in order.
            ids: Of the posts, [count] u64, distinct; at most N.

        Raises:
            ValueError: There are not as many vectors as ids, they are too many, or not D wide.
        """
        if len(ids) > self.rows:
            raise ValueError(f"{len(ids)} posts do not fit in {self.rows} rows")
        stream = _Rows(chunks, self.width)
        each = -(-len(ids) // self.shards)
        shards: list[Shard] = []
        live: list[jax.Array] = []
        for shard, device in enumerate(self.devices):
            own = ids[shard * each : (shard + 1) * each]
            vectors, longest = self._fill(stream, len(own), device)
            columns = np.zeros((self.padded_rows, 2), np.uint32)
            columns[: len(own)] = split_ids(own)
            put = partial(jax.device_put, device=device)
            shards.append(
                Shard(
                    vectors,
                    put(columns),
                    put(np.full(1, longest, np.float32)),
                    put(np.full(1, self.tiles_of(len(own)), np.int32)),
                )
            )
            live.append(put(pack(np.arange(self.padded_rows) < len(own))[None]))
        stream.finish()
        whole = partial(jax.make_array_from_single_device_arrays, sharding=self.by_rows)
        return DeviceCorpus(
            Shard(
                *(
                    whole((self.shards * len(parts[0]), *parts[0].shape[1:]), arrays=parts)
                    for parts in zip(*shards, strict=True)
                )
            ),
            jax.make_array_from_single_device_arrays(
                (1, self.total_rows // WORD), self.words, live
            ),
        )

    @cached_property
    def specs(self) -> DeviceCorpus:
        """The shapes of what `place` returns."""
        spec: Any = partial(jax.ShapeDtypeStruct, sharding=self.by_rows)
        total, shards = self.total_rows, self.shards
        arrays = Shard(
            spec((total, self.width), np.float32),
            spec((total, 2), np.uint32),
            spec((shards,), np.float32),
            spec((shards,), np.int32),
        )
        return DeviceCorpus(arrays, self.mask_specs(1))

    def mask_specs(self, batch_size: int) -> Any:
        """Return the shape of masks for B queries."""
        shape = (batch_size, self.total_rows // WORD)
        return jax.ShapeDtypeStruct(shape, np.uint32, sharding=self.words)

    def tiles_of(self, rows: int) -> int:
        """Return how many tiles the first `rows` of a shard take."""
        return -(-rows // self.tile_rows)

    def update(self, corpus: DeviceCorpus, update: Update) -> DeviceCorpus:
        """Return a corpus with a change; jit me, and donate me the corpus."""

        def change(shards: Shard, live: jax.Array, update: Update) -> tuple[Shard, jax.Array]:
            rows = self.local(jnp.asarray(update.rows), self.padded_rows)
            words = self.local(jnp.asarray(update.words), self.padded_rows // WORD)
            here = lax.axis_index(AXIS)
            return Shard(
                shards.vectors.at[rows].set(
                    update.vectors.astype(shards.vectors.dtype), mode="drop"
                ),
                shards.ids.at[rows].set(update.ids, mode="drop"),
                jnp.maximum(shards.longest, update.longest),
                lax.dynamic_slice_in_dim(update.tiles, here, 1),
            ), live.at[0, words].set(update.bits, mode="drop")

        shards, live = jax.shard_map(
            change,
            mesh=self.mesh,
            in_specs=(PartitionSpec(AXIS), PartitionSpec(None, AXIS), PartitionSpec()),
            out_specs=(PartitionSpec(AXIS), PartitionSpec(None, AXIS)),
            check_vma=False,
        )(*corpus, update)
        return DeviceCorpus(shards, live)

    def top_k(self, shards: Shard, eligible: jax.Array, queries: jax.Array, k: int) -> TopK:
        """Return the K best rows of each query; jit me with `k` static.

        Args:
            shards: Of a corpus.
            eligible: [B, S*P/32] u32, the rows that each query may find, or [1, S*P/32] for all
                queries, as `DeviceCorpus.live`.
            queries: [B, D] f32, replicated.
            k: K, at least 1.
        """
        return jax.shard_map(
            partial(self._top_k_of_shard, k=k),
            mesh=self.mesh,
            in_specs=(PartitionSpec(AXIS), PartitionSpec(None, AXIS), PartitionSpec()),
            out_specs=PartitionSpec(),
            check_vma=False,  # the merge makes the result equal on all shards
        )(shards, eligible, queries)

    def scores(self, corpus: DeviceCorpus, query: jax.Array) -> jax.Array:
        """Return every score for a query [D]: [S*P], sharded by rows, -inf if not live; jit me."""
        return jax.shard_map(
            lambda shard, live, query: all_scores(shard, live[0], query, self),
            mesh=self.mesh,
            in_specs=(PartitionSpec(AXIS), PartitionSpec(None, AXIS), PartitionSpec()),
            out_specs=PartitionSpec(AXIS),
            check_vma=False,
        )(*corpus, query)

    def _fill(self, stream: "_Rows", rows: int, device: Device) -> tuple[jax.Array, float]:
        """Return the vectors of a shard, [P, D], its first rows from a stream, and a length."""
        with jax.default_device(device):
            vectors = jnp.zeros((self.padded_rows, self.width), np.float32)
        longest = 0.0
        for start in range(0, rows, self.tile_rows):
            tile = np.zeros((self.tile_rows, self.width), np.float32)
            stream.fill(tile[: rows - start])
            longest = max(longest, _longest(tile))
            # may_alias: a CPU device takes the tile as it is.
            vectors = _write_tile(vectors, jax.device_put(tile, device, may_alias=True), start)
        return vectors, 1.0001 * longest  # float32 may round it down

    def local(self, places: jax.Array, size: int) -> jax.Array:
        """Return places within this shard, `size` of them; `size` for those of others."""
        local = places - lax.axis_index(AXIS) * size
        return jnp.where((local >= 0) & (local < size), local, size)

    def _top_k_of_shard(
        self, shard: Shard, eligible: jax.Array, queries: jax.Array, k: int
    ) -> TopK:
        """Return the K best rows of all shards, the same on each; runs inside `shard_map`."""
        scores, rows, ids, widened = search(shard, eligible, queries, k, self)
        rows = rows + lax.axis_index(AXIS) * self.padded_rows
        count = jnp.sum(lax.population_count(eligible).astype(jnp.int32), axis=1)
        count, widened = lax.psum((count, widened), AXIS)
        if self.shards > 1:
            # [B, S*K]
            scores, rows, ids = (
                lax.all_gather(part, AXIS, axis=1, tiled=True) for part in (scores, rows, ids)
            )
            best = choose_best(scores, lambda: ids, min(k, scores.shape[1]))
            scores = jnp.take_along_axis(scores, best, axis=1, mode="fill", fill_value=-jnp.inf)
            rows = jnp.take_along_axis(rows, best, axis=1, mode="clip")
            ids = jnp.take_along_axis(ids, best[..., None], axis=1, mode="clip")
        scores, rows = in_order(scores, rows, ids, queries)
        return TopK(scores, rows, count, widened)


def pack(bits: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint32]:
    """Return bits as words, the first as the lowest of each: [32 n] bool to [n] u32."""
    return np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32, copy=False)


def split_ids(ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint32]:
    """Return the high and the low halves of [n] u64: [n, 2] u32."""
    return np.stack([ids >> np.uint64(32), ids & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)


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


@partial(jax.jit, donate_argnums=0)
def _write_tile(vectors: jax.Array, tile: jax.Array, start: int) -> jax.Array:
    return lax.dynamic_update_slice_in_dim(vectors, tile, start, axis=0)


def _longest(vectors: npt.NDArray[np.float32]) -> float:
    """Return the length of the longest of [n, D] vectors."""
    squares = np.einsum("nd,nd->n", vectors, vectors)
    return float(np.sqrt(squares.max()))
