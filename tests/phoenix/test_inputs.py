from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phoenix_cases import prime_config, random_inputs, random_params
from phoenix_model import user_tower
from phoenix_model.inputs import (
    combine_history,
    combine_user,
    embed_actions,
    embed_product_surface,
)


def _normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_surface_zero_is_an_ordinary_row_and_rows_are_copied_exactly() -> None:
    table = _normal(5, 3)
    surfaces = jnp.array([[0, 4], [2, 0]])
    embedded = embed_product_surface(surfaces, table, jnp.float32)
    np.testing.assert_array_equal(embedded, np.asarray(table)[np.asarray(surfaces)])


@pytest.mark.parametrize("surface", [-1, 5, 1000])
def test_surface_outside_the_table_gives_zeros(surface: int) -> None:
    embedded = embed_product_surface(jnp.array([[surface]]), _normal(5, 3), jnp.float32)
    np.testing.assert_array_equal(embedded, np.zeros((1, 1, 3)))


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.bool_, jnp.int32, jnp.bfloat16, jnp.float32])
def test_actions_project_as_plus_and_minus_one_in_every_dtype(dtype: Any) -> None:
    actions = np.array([[[1, 0, 1, 0, 0], [0, 0, 0, 0, 1]]])
    projection = _normal(5, 3)
    embedded = embed_actions(jnp.asarray(actions, dtype), projection, jnp.float32)
    expected = (2.0 * actions - 1) @ np.asarray(projection, np.float64)
    np.testing.assert_allclose(embedded, expected, rtol=0, atol=1e-6)


def test_no_action_gives_zeros() -> None:
    embedded = embed_actions(jnp.zeros((2, 3, 5)), _normal(5, 7), jnp.float32)
    np.testing.assert_array_equal(embedded, np.zeros((2, 3, 7)))


def test_user_is_valid_where_the_first_hash_is_set() -> None:
    user_hashes = jnp.array([[3, 0], [0, 4], [0, 0]])
    position, mask = combine_user(user_hashes, _normal(3, 2, 5), _normal(10, 5))
    assert position.shape == (3, 1, 5)
    np.testing.assert_array_equal(mask, [[True], [False], [False]])


def test_history_concatenates_posts_authors_actions_and_surfaces_in_this_order() -> None:
    posts, authors = _normal(3, 7, 2, 11, seed=1), _normal(3, 7, 5, 11, seed=2)
    actions, surfaces = _normal(3, 7, 11, seed=3), _normal(3, 7, 11, seed=4)
    matrix = _normal(9 * 11, 11, seed=5)
    hashes = jnp.ones((3, 7, 2), jnp.int32).at[1, 4].set(jnp.array([0, 8]))

    position, mask = combine_history(hashes, posts, authors, actions, surfaces, matrix)

    blocks = np.asarray(matrix, np.float64).reshape(9, 11, 11)
    rows = np.concatenate(
        [posts, authors, actions[:, :, None], surfaces[:, :, None]], axis=2
    )  # [B, S, Hi+Ha+2, D]
    expected = np.einsum("bsrd,rde->bse", rows.astype(np.float64), blocks)
    np.testing.assert_allclose(position, expected, rtol=0, atol=3e-5)
    np.testing.assert_array_equal(mask, np.asarray(hashes)[:, :, 0] != 0)


@pytest.mark.parametrize(
    "field",
    [
        "user_hashes",
        "history_actions",
        "history_product_surface",
        "user_embeddings",
        "history_post_embeddings",
        "history_author_embeddings",
    ],
)
def test_wrong_shapes_are_refused_by_name(field: str) -> None:
    config = prime_config()
    batch, embeddings = random_inputs(config, num_users=7, history_len=11, num_candidates=1)

    def cut(bundle: Any) -> Any:
        if field not in bundle._fields:
            return bundle
        return bundle._replace(**{field: getattr(bundle, field)[..., :-1]})

    with pytest.raises(ValueError, match=f"^{field} must be "):
        user_tower(config)(random_params(config), cut(batch), cut(embeddings))
