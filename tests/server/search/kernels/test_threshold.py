import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pytest

from phoenix_server.search.kernels.threshold import choose, kth_largest

Floats = npt.NDArray[np.floating[Any]]

_choose = jax.jit(functools.partial(choose, interpret=True), static_argnums=(1, 2))


def _draw(batch: int, size: int, distinct: int | None = None) -> Floats:
    rng = np.random.default_rng(size)
    values = rng.normal(size=(batch, size)).astype(np.float32)
    if distinct:
        values = rng.integers(-distinct, distinct, (batch, size)).astype(np.float32)
    values[rng.random((batch, size)) < 0.2] = -np.inf
    return values


def _assert_sound(values: Floats, count: int, capacity: int) -> npt.NDArray[np.int32]:
    """Check what must hold of any choice, and return how many were kept of each row."""
    places, left_out = (np.asarray(each) for each in _choose(jnp.asarray(values), count, capacity))
    assert places.shape == (len(values), capacity)
    for row, chosen, best_left in zip(values, places, left_out, strict=True):
        kept = chosen[chosen < len(row)]
        assert (np.diff(kept) > 0).all()
        assert (chosen[len(kept) :] == len(row)).all()
        assert np.isfinite(row[kept]).all()
        assert best_left == np.delete(row, kept).max(initial=-np.inf)
    return (places < values.shape[1]).sum(axis=1)


@pytest.mark.parametrize(("size", "count"), [(37, 20), (1024, 1), (20_000, 20)])
def test_the_largest_are_chosen(size: int, count: int) -> None:
    values = _draw(3, size)
    kept = _assert_sound(values, count, 2 * count + 8)
    assert (kept >= count).all()
    places, left_out = _choose(jnp.asarray(values), count, 2 * count + 8)
    for row, chosen, best_left in zip(values, np.asarray(places), left_out, strict=True):
        assert set(np.argsort(-row)[:count]) <= set(chosen)
        assert np.sort(row)[-count] > best_left


def test_among_few_values_exactly_the_largest_are_chosen() -> None:
    np.testing.assert_array_equal(_assert_sound(_draw(3, 500), 20, 30), 20)


def test_what_ties_with_the_last_is_kept_while_there_is_room_the_first_first() -> None:
    values = np.zeros((3, 500), np.float32)
    assert (_assert_sound(values, 20, 30) == 30).all()
    places, left_out = _choose(jnp.asarray(values), 20, 30)
    np.testing.assert_array_equal(places[0], range(30))
    assert left_out[0] == 0
    _assert_sound(_draw(3, 500, distinct=5), 20, 30)


def test_of_too_few_values_all_are_chosen() -> None:
    values = np.full((3, 500), -np.inf, np.float32)
    values[0, [3, 77, 499]] = 1, -5, 0
    np.testing.assert_array_equal(_assert_sound(values, 20, 30), [3, 0, 0])


def test_neighbours_that_are_all_large_are_all_found() -> None:
    # As in a corpus sorted by topic.
    values = _draw(1, 40_000)
    values[0, 7000:7100] = 10 + np.arange(100)
    kept = _assert_sound(values, 100, 150)
    assert 100 <= kept[0] <= 110


@pytest.mark.parametrize("k", [1, 7, 256])
def test_the_kth_largest_is_exact(k: int) -> None:
    values = np.concatenate(
        [_draw(4, 256), _draw(2, 256, distinct=3), np.full((1, 256), -np.inf, np.float32)]
    )
    values[1] *= 1e-38  # subnormal numbers too
    found = kth_largest(jnp.asarray(values), k, interpret=True)
    np.testing.assert_array_equal(found, np.sort(values, axis=1)[:, -k])
