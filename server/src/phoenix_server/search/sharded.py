"""The exact top k of dot products over a sharded corpus.

Shapes:
    N  posts that a corpus can hold  D  width of a vector
    S  shards, one a device          P  rows of one shard in memory: N / S, rounded up to tiles
    R  rows in memory, S * P         T  rows of a tile
    W  rows of a block               B  queries
    K  results                       n, m  rows and words of an update

A row is a place in the [R] arrays; it holds a post or is free. A tile is a multiple of blocks.

Order: score descending, then post id ascending. The order is total, and a row's score has the same
bits wherever the row lies (see `shard`). So an answer depends neither on where posts lie, nor on
the number of shards, nor on the size of tiles and blocks, nor on the other queries of the batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from phoenix_server.runtime.arrays import F32, I32, U32, U64, Bools
from phoenix_server.runtime.devices import Device
from phoenix_server.search.kernels.constraints import check_fit
from phoenix_server.search.native import scan as native
from phoenix_server.search.shard import ROW_GRANULE, WORD, ScanConfig, Shard
from phoenix_server.search.shard_search import all_scores, in_order, search_shard
from phoenix_server.search.threshold import choose_best

AXIS = "corpus"
BY_ROWS: Any = PartitionSpec(AXIS)
BY_WORDS: Any = PartitionSpec(None, AXIS)
REPLICATED: Any = PartitionSpec()


class DeviceCorpus(NamedTuple):
    """A corpus on the devices.

    Attributes:
        shards: The arrays of all shards, concatenated along their first axis.
        live: [1, R/32] u32; bit i of word j says whether row 32 j + i holds a post.
    """

    shards: Shard
    live: jax.Array


class Update(NamedTuple):
    """A change of a corpus. Out-of-range rows and words are padding; each shard ignores them.

    Attributes:
        rows: [n] i32, where posts are written.
        vectors: [n, D] f32.
        ids: [n, 2] u32.
        words: [m] i32, the words of `live` that change.
        bits: [m] u32, their new values.
        longest: [] f32, an upper bound of the length of the longest vector.
        tiles: [S] i32, the number of tiles of each shard that hold rows after the change.
    """

    rows: I32
    vectors: F32
    ids: U32
    words: I32
    bits: U32
    longest: np.float32
    tiles: I32


class TopK(NamedTuple):
    """The best rows of each query.

    Attributes:
        scores: [B, K'] f32, descending; -inf where fewer rows are eligible, or needed.
        rows: [B, K'] i32; meaningless where the score is -inf.
        eligible: [B or 1] i32, the number of rows that could be returned.
        widened: [] i32, the number of pairs of query and shard for which all rows were scored
            because the candidates could not be proven to suffice.

    K' = min(K, R).
    """

    scores: jax.Array
    rows: jax.Array
    eligible: jax.Array
    widened: jax.Array


@dataclass(frozen=True, kw_only=True)
class ShardedLayout(ScanConfig):
    """How a corpus lies on the devices, and how its shards are scanned.

    Attributes:
        devices: One device a shard.
        rows: N.
        width: D.
    """

    devices: tuple[Device, ...]
    rows: int
    width: int

    def __post_init__(self) -> None:
        if not self.devices or self.rows < 1 or self.width < 1:
            raise ValueError("a layout needs at least one device, one row and one column")
        if self.rows >= 2**31:
            raise ValueError(f"rows: {self.rows} does not fit in 31 bits")
        if min(self.tile_rows, self.block_rows) < 1 or self.tile_rows % self.block_rows:
            raise ValueError(
                f"tile_rows: {self.tile_rows} is not a multiple of block_rows, {self.block_rows}"
            )
        if self.block_rows % ROW_GRANULE or WORD % self.block_rows or self.tile_rows % WORD:
            raise ValueError(
                f"block_rows, tile_rows: {self.block_rows} and {self.tile_rows} must be multiples "
                f"of {ROW_GRANULE} and {WORD}, and {WORD} a multiple of block_rows"
            )
        if self.queries_at_once < 1:
            raise ValueError(f"queries_at_once: {self.queries_at_once} is not positive")
        if self.scan == "kernel":
            check_fit(width=self.width, tile_rows=self.tile_rows, block_rows=self.block_rows)
        if self.scan == "native" and self.tile_rows % native.TILE_ROWS:
            raise ValueError(
                f"tile_rows: {self.tile_rows} is not a multiple of {native.TILE_ROWS}, as the "
                "native scan needs it"
            )

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
        """R."""
        return self.shards * self.padded_rows

    @property
    def row_bytes(self) -> int:
        """Bytes of memory that a row's vector takes, with its codes if it has any."""
        return 4 * self.width + (native.code_bytes(self.width) if self.scan == "native" else 0)

    @property
    def serves_any_count(self) -> bool:
        """Whether the program for many results is as fast for few as one compiled for few."""
        return self.scan == "native" and self.shards == 1

    @cached_property
    def mesh(self) -> Mesh:
        """The devices along the axis `corpus`."""
        return Mesh(np.array(self.devices), (AXIS,))

    @cached_property
    def by_rows(self) -> NamedSharding:
        """Arrays [R, ...], split over the shards."""
        return NamedSharding(self.mesh, BY_ROWS)

    @cached_property
    def words(self) -> NamedSharding:
        """Masks [B or 1, R/32], split over the shards along the words."""
        return NamedSharding(self.mesh, BY_WORDS)

    @cached_property
    def replicated(self) -> NamedSharding:
        """The same array on every shard."""
        return NamedSharding(self.mesh, REPLICATED)

    @cached_property
    def specs(self) -> DeviceCorpus:
        """The shapes of a `DeviceCorpus` with this layout."""
        spec: Any = partial(jax.ShapeDtypeStruct, sharding=self.by_rows)
        total, shards = self.total_rows, self.shards
        codes = None
        if self.scan == "native":
            codes = jax.tree.map(
                lambda each: spec(each.shape, each.dtype), native.code_shapes(total, self.width)
            )
        arrays = Shard(
            spec((total, self.width), np.float32),
            spec((total, 2), np.uint32),
            spec((shards,), np.float32),
            spec((shards,), np.int32),
            codes,
        )
        return DeviceCorpus(arrays, self.mask_specs(1))

    def mask_specs(self, batch_size: int) -> Any:
        """Return the shape of masks for B queries."""
        shape = (batch_size, self.total_rows // WORD)
        return jax.ShapeDtypeStruct(shape, np.uint32, sharding=self.words)

    def spread(self, count: int) -> I32:
        """Return the rows of `count` posts spread evenly over the shards, in order: [count]."""
        each = -(-count // self.shards)
        shard, local = np.divmod(np.arange(count, dtype=np.int32), np.int32(max(each, 1)))
        return shard * np.int32(self.padded_rows) + local

    def tiles_of(self, rows: int) -> int:
        """Return the number of tiles that the first `rows` rows of a shard occupy."""
        return -(-rows // self.tile_rows)

    def update(self, corpus: DeviceCorpus, update: Update) -> DeviceCorpus:
        """Return a corpus with a change applied. To be jitted, with the corpus donated."""

        def change(shards: Shard, live: jax.Array, update: Update) -> tuple[Shard, jax.Array]:
            rows = self.local(jnp.asarray(update.rows), self.padded_rows)
            words = self.local(jnp.asarray(update.words), self.padded_rows // WORD)
            here = lax.axis_index(AXIS)
            vectors, codes = shards.vectors, shards.codes
            if codes is None:
                written = update.vectors.astype(vectors.dtype)
                vectors = vectors.at[rows].set(written, mode="drop")
            else:
                written = jnp.asarray(update.vectors)
                vectors, codes = native.write(vectors, codes, rows, written, self)
            return Shard(
                vectors,
                shards.ids.at[rows].set(update.ids, mode="drop"),
                jnp.maximum(shards.longest, update.longest),
                lax.dynamic_slice_in_dim(update.tiles, here, 1),
                codes,
            ), live.at[0, words].set(update.bits, mode="drop")

        mapped = self.map(change, (BY_ROWS, BY_WORDS, REPLICATED), (BY_ROWS, BY_WORDS))
        return DeviceCorpus(*mapped(*corpus, update))

    def top_k(
        self, shards: Shard, eligible: jax.Array, queries: jax.Array, wanted: jax.Array, k: int
    ) -> TopK:
        """Return the K best rows of each query. To be jitted, with `k` static.

        Args:
            shards: Of a corpus.
            eligible: [B, R/32] u32, the rows that each query may find, or [1, R/32] for all
                queries, as `DeviceCorpus.live`.
            queries: [B, D] f32, replicated.
            wanted: [B] i32, replicated: the number of results that each query needs, K at most.
                More may be returned.
            k: K, at least 1.
        """
        top_k = partial(self._top_k_of_shard, k=k)
        mapped = self.map(top_k, (BY_ROWS, BY_WORDS, REPLICATED, REPLICATED), REPLICATED)
        return mapped(shards, eligible, queries, wanted)

    def scores(self, corpus: DeviceCorpus, query: jax.Array) -> jax.Array:
        """Return every score for a query [D]: [R], sharded by rows, -inf if free. To be jitted."""
        mapped = self.map(
            lambda shard, live, query: all_scores(shard, live[0], query, self),
            (BY_ROWS, BY_WORDS, REPLICATED),
            BY_ROWS,
        )
        return mapped(*corpus, query)

    def map(
        self, function: Callable[..., Any], in_specs: Any, out_specs: Any
    ) -> Callable[..., Any]:
        """Return a function that runs once per shard, on its parts of the arguments.

        JAX does not check that `REPLICATED` results are equal on all shards; the merge of a search
        makes them so.
        """
        return jax.shard_map(
            function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
        )

    def local(self, places: jax.Array, size: int) -> jax.Array:
        """Return global places as places in this shard's `size`; `size` for those of others.

        Runs inside `shard_map`.
        """
        local = places - lax.axis_index(AXIS) * size
        return jnp.where((local >= 0) & (local < size), local, size)

    def _top_k_of_shard(
        self, shard: Shard, eligible: jax.Array, queries: jax.Array, wanted: jax.Array, k: int
    ) -> TopK:
        """Return the K best rows of all shards, the same on each. Runs inside `shard_map`."""
        found = search_shard(shard, eligible, queries, wanted, k, self)
        scores, rows, ids, widened = found[:4]
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
        if self.shards > 1 or not found.in_order:
            scores, rows = in_order(scores, rows, ids, queries)
        return TopK(scores, rows, count, widened)


def pack(bits: Bools) -> U32:
    """Return bits as words, the first bit as the lowest of its word: [32 n] bool to [n] u32."""
    return np.packbits(bits, bitorder="little").view("<u4").astype(np.uint32, copy=False)


def split_ids(ids: U64) -> U32:
    """Return the high and the low halves of [n] u64: [n, 2] u32."""
    return np.stack([ids >> np.uint64(32), ids & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)
