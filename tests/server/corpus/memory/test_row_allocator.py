import jax
import numpy as np
import pytest

from phoenix_server.corpus.memory.row_allocator import RowAllocator
from phoenix_server.search.choice import choose_layout

_LIMIT = 300


@pytest.mark.parametrize("shards", [1, 3])
def test_rows_are_allocated_and_released(shards: int) -> None:
    layout = choose_layout(tuple(jax.devices()[:shards]), rows=_LIMIT, width=8)
    first = layout.spread(100)
    allocator = RowAllocator(layout, first, limit=_LIMIT)
    held, rng = set(first.tolist()), np.random.default_rng(0)
    for count in (1, 50, 0, 149):
        rows = allocator.allocate(count)
        assert len(rows) == count
        assert held.isdisjoint(rows.tolist())
        held.update(rows.tolist())
        assert np.flatnonzero(allocator.bits()).tolist() == sorted(held)
        sizes = np.bincount(np.array([*held]) // layout.padded_rows, minlength=shards)
        assert np.ptp(sizes) < max(shards, 2)
    with pytest.raises(ValueError, match="301 posts do not fit in 300 rows"):
        allocator.allocate(1)
    released = rng.choice([*held], 200, replace=False).astype(np.int32)
    allocator.release(released)
    held.difference_update(released.tolist())
    assert np.flatnonzero(allocator.bits()).tolist() == sorted(held)


def test_tiles_reach_up_to_the_last_post_of_each_shard() -> None:
    layout = choose_layout(tuple(jax.devices()[:2]), rows=20_000, width=8)
    rows = np.array([0, layout.padded_rows + 5000], np.int32)
    allocator = RowAllocator(layout, rows, limit=20_000)
    assert allocator.tiles().tolist() == [1, layout.tiles_of(5001)]
    allocator.release(rows[:1])
    assert allocator.tiles()[0] == 0
