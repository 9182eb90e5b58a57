import jax
import jax.numpy as jnp
import numpy as np
import pytest

from phoenix_cases import golden_case, prime_config, random_inputs, random_params
from phoenix_model import candidate_tower, parameter_shapes

_TOWER = "phoenix_retrieval_model/~build_candidate_representation/candidate_tower"


def _candidates(num_users: int = 7, num_candidates: int = 11) -> tuple[jax.Array, jax.Array]:
    _, embeddings = random_inputs(
        prime_config(), num_users=num_users, history_len=1, num_candidates=num_candidates
    )
    assert embeddings.candidate_post_embeddings is not None
    assert embeddings.candidate_author_embeddings is not None
    return embeddings.candidate_post_embeddings, embeddings.candidate_author_embeddings


def test_tower_equals_a_float64_oracle() -> None:
    config = prime_config()
    params = random_params(config)
    posts, authors = _candidates()
    flat = np.concatenate([posts, authors], axis=2).astype(np.float64).reshape(7, 11, 7 * 13)
    first, second = (
        np.asarray(params[_TOWER][f"candidate_tower_projection_{i}"], np.float64) for i in (1, 2)
    )
    hidden = flat @ first
    projected = hidden / (1 + np.exp(-hidden)) @ second
    expected = projected / np.linalg.norm(projected, axis=-1, keepdims=True)
    result = candidate_tower(config)(params, posts, authors)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("enable_linear_proj", [True, False])
def test_candidates_with_and_without_a_user_axis_encode_alike(enable_linear_proj: bool) -> None:
    config = prime_config(enable_linear_proj=enable_linear_proj)
    params = random_params(config)
    posts, authors = _candidates()
    encode = candidate_tower(config)
    nested = encode(params, posts, authors)
    flat = encode(params, posts.reshape(77, 2, 13), authors.reshape(77, 5, 13))
    assert nested.shape == (7, 11, 13)
    np.testing.assert_allclose(flat.reshape(7, 11, 13), nested, rtol=0, atol=2e-7)


def test_without_projection_the_tower_is_the_normed_mean_and_has_no_parameters() -> None:
    config = prime_config(enable_linear_proj=False)
    posts, authors = _candidates()
    mean = np.concatenate([posts, authors], axis=2).astype(np.float64).mean(axis=2)
    expected = mean / np.linalg.norm(mean, axis=-1, keepdims=True)
    result = candidate_tower(config)({}, posts, authors)
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-7)
    assert not any(path.startswith(_TOWER) for path in parameter_shapes(config))
    assert any(path.startswith(_TOWER) for path in parameter_shapes(prime_config()))


@pytest.mark.parametrize("enable_linear_proj", [True, False])
def test_zero_embeddings_give_zeros_and_never_nan(enable_linear_proj: bool) -> None:
    config = prime_config(enable_linear_proj=enable_linear_proj)
    zeros = candidate_tower(config)(
        random_params(config), jnp.zeros((3, 2, 13)), jnp.zeros((3, 5, 13))
    )
    np.testing.assert_array_equal(zeros, np.zeros((3, 13)))


def test_result_has_the_dtype_of_the_embeddings() -> None:
    case = golden_case("demo", "bf16")
    posts = case.embeddings.candidate_post_embeddings
    authors = case.embeddings.candidate_author_embeddings
    assert posts is not None
    assert authors is not None
    encode = candidate_tower(case.config)
    assert encode(case.params, posts, authors).dtype == jnp.float32
    narrow = encode(case.params, posts.astype(jnp.bfloat16), authors.astype(jnp.bfloat16))
    assert narrow.dtype == jnp.bfloat16


def test_wrong_shapes_are_refused() -> None:
    config = prime_config()
    params = random_params(config)
    posts, authors = _candidates()
    encode = candidate_tower(config)
    with pytest.raises(ValueError, match="2 post and 5 author embeddings, got 1 and 5"):
        encode(params, posts[:, :, :1], authors)
    with pytest.raises(ValueError, match="post_embeddings must be"):
        encode(params, posts[..., :5], authors)
    with pytest.raises(ValueError, match="author_embeddings must be"):
        encode(params, posts, authors[:, :3])
