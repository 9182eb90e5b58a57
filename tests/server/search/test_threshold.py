import functools
from collections.abc import Callable
from functools import partial

import jax
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_server.search.sharded import split_ids
from phoenix_server.search.threshold import choose, choose_best, places

Values = npt.NDArray[np.float32]

_rng = np.random.default_rng(0)
_KINDS: dict[str, Callable[[tuple[int, int]], Values]] = {
    "all different": lambda shape: _rng.standard_normal(shape, np.float32),
    "of both signs, many equal": lambda shape: np.round(_rng.standard_normal(shape, np.float32)),
    "all equal": lambda shape: np.zeros(shape, np.float32),
    "mostly -inf": lambda shape: np.where(
        np.arange(shape[1]) % 7 == 3, _rng.standard_normal(shape, np.float32), -np.inf
    ).astype(np.float32),
    "far apart": lambda shape: (
        _rng.choice([-1, 1], shape) * 10.0 ** _rng.integers(-30, 38, shape)
    ).astype(np.float32),
}


@pytest.mark.parametrize("n", [1, 31, 32, 33, 1000, 12_504])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_places_are_those_that_are_true(n: int, share: float) -> None:
    chosen = _rng.random((3, n)) < share
    for size in {1, min(n, 7), n}:
        found = np.asarray(jax.jit(partial(places, size=size))(chosen))
        for row, mask in zip(found, chosen, strict=True):
            true = np.flatnonzero(mask)[:size]
            assert row.tolist() == true.tolist() + [n] * (size - len(true))


@pytest.mark.parametrize("n", [40, 1000, 12_504])
@pytest.mark.parametrize(("least", "most"), [(1, 1), (5, 8), (8, 8), (10, 40)])
@pytest.mark.parametrize("kind", _KINDS)
def test_the_chosen_are_better_than_all_others(kind: str, least: int, most: int, n: int) -> None:
    values = _KINDS[kind]((6, n)) + np.float32(0.0)  # no -0.0, which is below 0.0 in bits only
    found = _choose(least, most)(values)
    for row, place, rest, enough in zip(values, *map(np.asarray, found), strict=True):
        chosen = place[place < n]
        assert (np.diff(chosen) > 0).all()
        assert (place[len(chosen) :] == n).all()
        others = np.delete(row, chosen)
        assert rest == others.max(initial=-np.inf)
        assert not len(others) or (row[chosen] > rest).all()
        assert enough == (len(chosen) >= least)
        if not enough:  # then one more threshold would have let in too many
            assert len(chosen) + (others == rest).sum() > most


@settings(max_examples=60)
@given(
    n=st.sampled_from([9, 40]),
    k=st.sampled_from([1, 3, 9]),
    distinct=st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
    bits=st.sampled_from([4, 34, 64]),
)
def test_the_best_are_chosen_and_of_equal_ones_the_smallest_ids(
    n: int, k: int, distinct: int, seed: int, bits: int
) -> None:
    rng = np.random.default_rng(seed)
    kinds = rng.normal(size=distinct).astype(np.float32)
    kinds[rng.random(distinct) < 0.2] = -np.inf
    values = kinds[rng.integers(0, distinct, (3, n))]
    first = 2**64 - n if bits == 64 else 0 if bits == 4 else 2**32 - n // 2
    ids = rng.permutation(np.arange(n, dtype=np.uint64)) + np.uint64(first)
    found = np.asarray(_choose_best(k)(values, split_ids(ids)[None]))
    for row, place in zip(values, found, strict=True):
        order = np.lexsort((ids, -row))[:k]
        expected = np.sort(order[np.isfinite(row[order])])
        np.testing.assert_array_equal(place[: len(expected)], expected)
        assert (place[len(expected) :] == n).all()


@functools.cache
def _choose(least: int, most: int) -> Callable[..., tuple[jax.Array, ...]]:
    return jax.jit(partial(choose, least=least, most=most))


@functools.cache
def _choose_best(k: int) -> Callable[..., jax.Array]:
    return jax.jit(lambda values, ids: choose_best(values, lambda: ids, k))
