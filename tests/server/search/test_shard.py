import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phoenix_server.search.shard import pick, row_scores, unpack
from phoenix_server.search.sharded import pack

WIDTH = 13


@pytest.mark.parametrize("rows", [8, 40])
def test_a_row_has_the_same_score_in_any_company(rows: int) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(64, WIDTH)).astype(np.float32)
    query = rng.normal(size=WIDTH).astype(np.float32)
    score = jax.jit(row_scores)
    everything = np.asarray(score(vectors, query))
    np.testing.assert_allclose(everything, vectors.astype(np.float64) @ query, rtol=0, atol=1e-5)
    some = rng.permutation(64)[:rows]
    assert np.asarray(score(vectors[some], query)).tobytes() == everything[some].tobytes()


def test_a_score_is_never_minus_zero() -> None:
    scores = jax.jit(row_scores)(np.full((8, 1), -1e-30, np.float32), np.full(1, 1e-30, np.float32))
    assert not np.signbit(np.asarray(scores)).any()


def test_masks_unpack_to_the_bits_that_were_packed() -> None:
    bits = np.random.default_rng(0).random((3, 96)) < 0.5
    words = pack(bits).reshape(3, -1)
    assert words.dtype == np.uint32
    assert words[0, 0] == sum(1 << int(i) for i in np.flatnonzero(bits[0, :32]))
    np.testing.assert_array_equal(unpack(jnp.asarray(words)), bits)


def test_places_beyond_the_end_are_filled() -> None:
    values = jnp.asarray(np.arange(12, dtype=np.float32).reshape(2, 3, 2))
    found = pick(values, jnp.asarray([[2, 3], [0, 1]]), -7)
    np.testing.assert_array_equal(found, [[[4, 5], [-7, -7]], [[6, 7], [8, 9]]])
