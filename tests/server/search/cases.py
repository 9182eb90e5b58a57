"""Cases for tests of the search: posts placed on devices, masks, and what must be found.

Shapes:
    N  posts        B  queries        E  masks: one for all queries, or B        R  rows in memory
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from phoenix_server.search.placement import place_corpus
from phoenix_server.search.shard import Shard
from phoenix_server.search.sharded import DeviceCorpus, ShardedLayout, TopK, pack

Ids = npt.NDArray[np.uint64]
Floats = npt.NDArray[np.floating[Any]]
Bools = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint32]


def place(layout: ShardedLayout, vectors: Floats, ids: Ids | None = None) -> DeviceCorpus:
    """Place vectors; by default with ids that ascend with the rows."""
    if ids is None:
        ids = np.arange(1, len(vectors) + 1, dtype=np.uint64)
    return place_corpus(layout, [vectors.astype(np.float32)], ids)


def mask(layout: ShardedLayout, corpus: DeviceCorpus, eligible: Bools) -> DeviceCorpus:
    """Make only some posts eligible; for all queries [N], or for each [B, N]."""
    eligible = np.atleast_2d(eligible)
    bits = np.zeros((len(eligible), layout.total_rows), np.bool_)
    bits[:, layout.spread(layout.rows)] = eligible
    return corpus._replace(live=jax.device_put(pack_masks(bits), layout.words))


def find(layout: ShardedLayout, corpus: DeviceCorpus, queries: Floats, k: int) -> TopK:
    """Search among the posts that are live."""
    placed = jax.device_put(queries.astype(np.float32), layout.replicated)
    # To a search only the rows in memory matter: layouts that have as many share their programs.
    same = replace(layout, rows=layout.total_rows)
    return _compiled(same, k)(corpus.shards, corpus.live, placed)


def posts(layout: ShardedLayout, rows: jax.Array) -> npt.NDArray[np.int32]:
    """Return which posts lie in rows, -1 where none does."""
    places = np.full(layout.total_rows, -1, np.int32)
    places[layout.spread(layout.rows)] = np.arange(layout.rows)
    return places[np.asarray(rows)]


def pack_masks(bits: Bools) -> Words:
    """Return masks as words: [R] or [E, R] bool to [E, R/32] u32."""
    bits = np.atleast_2d(bits)
    return pack(bits).reshape(len(bits), -1)


def unpack_masks(words: jax.Array) -> Bools:
    """Return the bits of masks: [E, R/32] u32 to [E, R] bool."""
    bits = np.unpackbits(np.asarray(words).view(np.uint8), axis=1, bitorder="little")
    return bits.astype(np.bool_)


def assert_best(
    layout: ShardedLayout,
    found: TopK,
    vectors: Floats,
    queries: Floats,
    k: int,
    eligible: Bools | None = None,
    ids: Ids | None = None,
) -> None:
    """Compare with sorting all scores in float64, which must hold these scores exactly.

    Args:
        layout: Of the corpus.
        found: The answers, to these queries or to more.
        vectors: [N, D].
        queries: [B, D].
        k: How many were asked for.
        eligible: [N] or [B, N], as for `mask`. Default: all posts.
        ids: [N]. Default: ascending.
    """
    scores, found_posts = np.asarray(found.scores), posts(layout, found.rows)
    counts = np.asarray(found.eligible)
    masks = np.atleast_2d(np.ones(len(vectors), np.bool_) if eligible is None else eligible)
    for i, query in enumerate(queries):
        candidates = np.flatnonzero(masks[i % len(masks)])
        expected = query.astype(np.float64) @ vectors.astype(np.float64)[candidates].T
        order = np.lexsort((candidates if ids is None else ids[candidates], -expected))[:k]
        assert counts[i % len(counts)] == len(candidates)
        np.testing.assert_array_equal(found_posts[i, : len(order)], candidates[order])
        np.testing.assert_array_equal(scores[i, : len(order)], expected[order])
        assert np.isneginf(scores[i, len(order) :]).all()


@functools.cache
def _compiled(layout: ShardedLayout, k: int) -> Callable[[Shard, jax.Array, jax.Array], TopK]:
    def top_k(shards: Shard, eligible: jax.Array, queries: jax.Array) -> TopK:
        return layout.top_k(shards, eligible, queries, jnp.full(len(queries), k), k)

    return jax.jit(top_k)
