import functools
import operator
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_cases import (
    GoldenCase,
    cut_history,
    golden_case,
    prime_config,
    random_inputs,
    random_params,
    with_history_lengths,
)
from phoenix_model import (
    NO_RESULT,
    RecsysBatch,
    RecsysEmbeddings,
    UserTowerFn,
    build_model,
    retrieve_top_k,
    user_tower,
)

_TOLERANCE = {"f32": 2e-6, "bf16": 5e-3}
_CASES = [(name, dtype) for name in ("demo", "gqa") for dtype in ("f32", "bf16")]


def _candidates(case: GoldenCase) -> tuple[jax.Array, jax.Array]:
    def run(batch: RecsysBatch, embeddings: RecsysEmbeddings) -> tuple[jax.Array, jax.Array]:
        return build_model(case.config).build_candidate_representation(batch, embeddings)

    forward = hk.without_apply_rng(hk.transform(run))
    return forward.apply(case.params, case.batch, case.embeddings)


def _run_users(case: GoldenCase) -> tuple[jax.Array, jax.Array]:
    return user_tower(case.config)(case.params, case.batch, case.embeddings)


@functools.cache
def _users(name: str, dtype: str) -> tuple[jax.Array, jax.Array]:
    return _run_users(golden_case(name, dtype))


def _prime_inputs() -> tuple[RecsysBatch, RecsysEmbeddings]:
    return random_inputs(prime_config(), num_users=7, history_len=11, num_candidates=5)


@functools.cache
def _compiled_prime_tower() -> UserTowerFn:
    return jax.jit(user_tower(prime_config()))


def _encode(batch: RecsysBatch, embeddings: RecsysEmbeddings) -> tuple[jax.Array, jax.Array]:
    return _compiled_prime_tower()(random_params(prime_config()), batch, embeddings)


@pytest.mark.parametrize(("name", "dtype"), _CASES)
def test_user_representation_and_norm_equal_the_published_ones(name: str, dtype: str) -> None:
    case = golden_case(name, dtype)
    representation, norm = _users(name, dtype)
    tolerance = _TOLERANCE[dtype]
    expected = case.expected
    assert representation.dtype == norm.dtype == jnp.float32
    np.testing.assert_allclose(
        representation, expected["user_representation"], rtol=0, atol=tolerance
    )
    np.testing.assert_allclose(norm, expected["user_norm"], rtol=tolerance)


@pytest.mark.parametrize(("name", "dtype"), _CASES)
def test_candidate_representation_and_mask_equal_the_published_ones(name: str, dtype: str) -> None:
    case = golden_case(name, dtype)
    representation, mask = _candidates(case)
    np.testing.assert_allclose(
        representation, case.expected["candidate_representation"], rtol=0, atol=_TOLERANCE[dtype]
    )
    np.testing.assert_array_equal(mask, case.expected["candidate_padding_mask"])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("name", "dtype"), _CASES)
def test_top_k_equals_the_published_one(name: str, dtype: str, masked: bool) -> None:
    case = golden_case(name, dtype)
    mask, prefix = (case.corpus_mask, "masked_") if masked else (None, "")
    indices, scores = retrieve_top_k(
        _users(name, dtype)[0], case.corpus_embeddings, case.top_k, mask
    )
    np.testing.assert_allclose(
        scores, case.expected[f"{prefix}top_k_scores"], rtol=0, atol=_TOLERANCE[dtype]
    )
    if dtype == "f32":  # in bfloat16 the scores' error exceeds the gaps between them
        np.testing.assert_array_equal(indices, case.expected[f"{prefix}top_k_indices"])
    if masked:
        assert np.asarray(case.corpus_mask)[indices].all()


@pytest.mark.parametrize("name", ["demo", "gqa"])
def test_a_duplicate_row_ties_and_the_lower_row_comes_first(name: str) -> None:
    case = golden_case(name, "f32")
    corpus = np.asarray(case.corpus_embeddings)
    _, first, counts = np.unique(corpus, axis=0, return_index=True, return_counts=True)
    (lower,) = first[counts == 2]
    (upper,) = np.flatnonzero(
        (corpus == corpus[lower]).all(axis=1) & (np.arange(len(corpus)) != lower)
    )
    user = case.corpus_embeddings[lower][None, :]  # its own nearest row, and that row's duplicate
    indices, scores = retrieve_top_k(user, case.corpus_embeddings, 2)
    assert indices.tolist() == [[lower, upper]]
    assert scores[0, 0] == scores[0, 1]


@pytest.mark.parametrize("length", [3, 8])
@pytest.mark.parametrize(("name", "dtype"), _CASES)
def test_a_history_cut_of_its_padding_gives_the_same_answer(
    name: str, dtype: str, length: int
) -> None:
    case = golden_case(name, dtype)
    lengths = [3, 1, 2, 0, 3][: case.batch.user_hashes.shape[0]]
    tower = user_tower(case.config)
    padded = with_history_lengths(case.batch, case.embeddings, lengths)
    # In bfloat16 bit for bit; in float32 the order of summation shows.
    tolerance = {"f32": 5e-7, "bf16": 0}[dtype]
    full, _ = tower(case.params, *padded)
    short, _ = tower(case.params, *cut_history(*padded, length))
    np.testing.assert_allclose(short, full, rtol=0, atol=tolerance)


def test_a_user_does_not_depend_on_the_rest_of_the_batch() -> None:
    batch, embeddings = _prime_inputs()
    together, _ = _encode(batch, embeddings)
    for user in (0, 6):
        own = [
            jax.tree.map(operator.itemgetter(np.s_[user : user + 1]), x)
            for x in (batch, embeddings)
        ]
        np.testing.assert_allclose(_encode(own[0], own[1])[0][0], together[user], rtol=0, atol=5e-7)


def test_user_id_zero_is_encoded_from_the_history_alone() -> None:
    batch, embeddings = _prime_inputs()
    batch = batch._replace(user_hashes=jnp.zeros_like(batch.user_hashes))
    representation, norm = _encode(batch, embeddings)
    other = embeddings._replace(user_embeddings=embeddings.user_embeddings + 1)
    np.testing.assert_array_equal(representation, _encode(batch, other)[0])
    np.testing.assert_allclose(jnp.linalg.norm(representation, axis=-1), 1, rtol=1e-6)
    assert (norm > 0.01).all()


def test_a_user_without_a_valid_position_has_zeros() -> None:
    batch, embeddings = with_history_lengths(*_prime_inputs(), [0] * 7)
    batch = batch._replace(user_hashes=jnp.zeros_like(batch.user_hashes))
    representation, norm = _encode(batch, embeddings)
    np.testing.assert_array_equal(representation, np.zeros((7, 13)))
    np.testing.assert_allclose(norm, 1e-6, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_at_padded_positions_do_not_change_a_user(value: float) -> None:
    lengths = [11, 1, 4, 0, 7, 2, 10]
    batch, embeddings = with_history_lengths(*_prime_inputs(), lengths)
    padding = (np.asarray(batch.history_post_hashes)[:, :, 0] == 0)[:, :, None, None]
    poisoned = embeddings._replace(
        history_post_embeddings=jnp.where(padding, value, embeddings.history_post_embeddings),
        history_author_embeddings=jnp.where(padding, value, embeddings.history_author_embeddings),
    )
    for clean, dirty in zip(_encode(batch, embeddings), _encode(batch, poisoned), strict=True):
        assert np.isfinite(dirty).all()
        np.testing.assert_array_equal(clean, dirty)


def test_candidate_fields_are_required_only_by_the_candidate_tower() -> None:
    case = golden_case("demo", "f32")
    lean = case._replace(
        batch=case.batch._replace(
            history_author_hashes=None,
            candidate_post_hashes=None,
            candidate_author_hashes=None,
            candidate_product_surface=None,
        ),
        embeddings=case.embeddings._replace(
            candidate_post_embeddings=None, candidate_author_embeddings=None
        ),
    )
    np.testing.assert_array_equal(_run_users(lean)[0], _users("demo", "f32")[0])
    with pytest.raises(ValueError, match="candidate_post_hashes"):
        _candidates(lean)


def test_model_answers_users_with_their_top_k() -> None:
    case = golden_case("gqa", "f32")

    def run(batch: RecsysBatch, embeddings: RecsysEmbeddings, corpus: jax.Array) -> Any:
        return build_model(case.config)(batch, embeddings, corpus, case.top_k, case.corpus_mask)

    forward = hk.without_apply_rng(hk.transform(run))
    output = jax.jit(forward.apply)(
        case.params, case.batch, case.embeddings, case.corpus_embeddings
    )
    np.testing.assert_array_equal(output.top_k_indices, case.expected["masked_top_k_indices"])
    np.testing.assert_allclose(
        output.user_representation, case.expected["user_representation"], rtol=0, atol=2e-6
    )


@settings(max_examples=30)
@given(
    rows=st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=13),
    top_k=st.integers(1, 17),
)
def test_top_k_holds_the_eligible_rows_in_order_and_then_no_result(
    rows: list[tuple[int, bool]], top_k: int
) -> None:
    values, eligible = zip(*rows, strict=True)
    indices, scores = retrieve_top_k(
        jnp.ones((2, 1)), jnp.array(values, jnp.float32)[:, None], top_k, jnp.array(eligible)
    )
    kept = [i for i, valid in enumerate(eligible) if valid]
    order = sorted(kept, key=lambda i: (-values[i], i))[:top_k]
    missing = top_k - len(order)
    assert indices.dtype == jnp.int32
    assert indices.tolist() == [order + [NO_RESULT] * missing] * 2
    assert scores.tolist() == [[float(values[i]) for i in order] + [-np.inf] * missing] * 2


def test_wrong_top_k_arguments_are_refused_by_name() -> None:
    users, corpus = jnp.ones((2, 5)), jnp.ones((7, 5))
    with pytest.raises(ValueError, match="top_k"):
        retrieve_top_k(users, corpus, 0)
    with pytest.raises(ValueError, match="user_representation"):
        retrieve_top_k(users[:, 1:], corpus, 3)
    with pytest.raises(ValueError, match="corpus_mask"):
        retrieve_top_k(users, corpus, 3, jnp.ones(5, bool))
