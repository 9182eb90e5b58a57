"""Posts are copied to the devices, shard by shard."""

from typing import Any

import jax
import numpy as np
import pytest

from phoenix_server.search.placement import place_corpus
from phoenix_server.search.sharded import ShardedLayout
from server.search.cases import unpack_masks

WIDTH = 13
_HALVES = np.array([2**32, 1], np.uint64)


def _layout(shards: int, rows: int) -> ShardedLayout:
    devices = tuple(jax.devices()[:shards])
    return ShardedLayout(devices=devices, rows=rows, width=WIDTH, tile_rows=128)


@pytest.mark.parametrize("shards", [1, 3, 8])
@pytest.mark.parametrize("sizes", [[203], [1, 0, 150, 52], [101, 1, 1, 100], [29] * 7])
def test_place_takes_chunks_of_any_size(shards: int, sizes: list[int]) -> None:
    vectors = np.random.default_rng(0).normal(size=(203, WIDTH)).astype(np.float32)
    ids = np.random.default_rng(0).integers(1, 2**64, 203, np.uint64)
    layout = _layout(shards, 300)
    chunks = np.split(vectors, np.cumsum(sizes)[:-1])
    corpus = place_corpus(layout, iter(chunks), ids)
    rows = layout.spread(203)
    placed, halves = np.asarray(corpus.shards.vectors), np.asarray(corpus.shards.ids)
    live = unpack_masks(corpus.live)[0]
    np.testing.assert_array_equal(placed[rows], vectors)
    np.testing.assert_array_equal(halves[rows].astype(np.uint64) @ _HALVES, ids)
    assert sorted(np.flatnonzero(live)) == sorted(rows)
    assert not placed[~live].any()
    assert placed.shape == (layout.shards * layout.padded_rows, WIDTH)
    assert np.asarray(corpus.shards.tiles).sum() == layout.tiles_of(-(-203 // shards)) * shards
    assert corpus.shards.vectors.sharding == layout.by_rows
    assert {s.device for s in corpus.shards.vectors.addressable_shards} == set(layout.devices)


def test_place_copies_chunks_that_are_reused() -> None:
    # Snapshots yield views that are good until the next is asked for.
    buffer = np.empty((29, WIDTH), np.float32)

    def chunks() -> Any:
        for i in range(7):
            buffer[:] = i
            yield buffer
        buffer[:] = -1

    layout = _layout(2, 203)
    corpus = place_corpus(layout, chunks(), np.arange(1, 204, dtype=np.uint64))
    placed = np.asarray(corpus.shards.vectors)[layout.spread(203)]
    np.testing.assert_array_equal(placed[:, 0], np.repeat(np.arange(7), 29))


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([], "fewer rows"),
        ([(202, WIDTH)], "fewer rows"),
        ([(204, WIDTH)], "more rows"),
        ([(203, WIDTH), (1, WIDTH)], "more rows"),
        ([(203, WIDTH + 1)], "wrong width"),
        ([(100, WIDTH), (103, WIDTH - 1)], "wrong width"),
        ([(203,)], "wrong width"),
    ],
)
def test_place_refuses_rows_that_do_not_fit(
    shards: int, shapes: list[tuple[int, ...]], message: str
) -> None:
    ids = np.arange(1, 204, dtype=np.uint64)
    with pytest.raises(ValueError, match=message):
        place_corpus(_layout(shards, 203), (np.ones(s, np.float32) for s in shapes), ids)


def test_place_refuses_more_posts_than_fit() -> None:
    with pytest.raises(ValueError, match="204 posts do not fit in 203 rows"):
        place_corpus(_layout(2, 203), [], np.arange(1, 205, dtype=np.uint64))


def test_the_longest_vector_of_each_shard_is_bounded() -> None:
    vectors = np.random.default_rng(0).normal(size=(203, WIDTH)).astype(np.float32)
    layout = _layout(3, 203)
    corpus = place_corpus(layout, [vectors], np.arange(1, 204, dtype=np.uint64))
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    for bound, start in zip(np.asarray(corpus.shards.longest), range(0, 203, 68), strict=True):
        longest = lengths[start : start + 68].max()
        assert longest <= bound <= 1.001 * longest
