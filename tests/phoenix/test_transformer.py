"""The decoder stack against a float64 oracle, and what its mask promises.

Glossary of shapes: B=7 users, T=11 positions, D=13, Hkv=3, G=5, d=6; pairwise different.
"""

import dataclasses
import math
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import pytest

from phoenix_cases import prime_config, random_params
from phoenix_model import Transformer, TransformerConfig
from phoenix_model.attention import attention_mask

_CONFIG = prime_config().model
_B, _T, _D = 7, 11, _CONFIG.emb_size

Array64 = npt.NDArray[np.float64]


def _transformed(config: TransformerConfig, offset: int | None = None) -> hk.Transformed:
    def forward(x: jax.Array, padding_mask: jax.Array) -> jax.Array:
        return Transformer(config)(x, padding_mask, offset)

    return hk.without_apply_rng(hk.transform(forward))


def _run(
    params: hk.Params, x: jax.Array, padding_mask: jax.Array, offset: int | None = None
) -> jax.Array:
    return _transformed(_CONFIG, offset).apply(params, x, padding_mask)


def _fresh(x: jax.Array, padding_mask: jax.Array, config: TransformerConfig = _CONFIG) -> hk.Params:
    return _transformed(config).init(jax.random.key(0), x, padding_mask)


def _random_case() -> tuple[hk.Params, jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(_B, _T, _D)), jnp.float32)
    lengths = rng.integers(1, _T + 1, size=_B)
    padding_mask = jnp.asarray(np.arange(_T)[None, :] < lengths[:, None])
    return random_params(prime_config()), x, padding_mask


def _oracle_norm(x: Array64, scale: Array64) -> Array64:
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-5) * scale


def _oracle_rotate(x: Array64) -> Array64:
    """Rotate [T, d] as d/2 complex numbers, whose parts are half a head apart."""
    half = x.shape[-1] // 2
    frequencies = 10000.0 ** (-np.arange(half) / half)
    turns = np.exp(1j * np.arange(x.shape[0])[:, None] * frequencies)
    turned = (x[:, :half] + 1j * x[:, half:]) * turns
    return np.concatenate([turned.real, turned.imag], axis=-1)


def _oracle_attention(
    config: TransformerConfig, weights: dict[str, Array64], x: Array64, seen: npt.NDArray[Any]
) -> Array64:
    """Attend within one sequence [T, D], head by head."""
    d, group = config.key_size, config.num_q_heads // config.num_kv_heads
    mixed: list[Array64] = []
    for head in range(config.num_q_heads):
        own = slice(head * d, (head + 1) * d)
        shared = slice(head // group * d, (head // group + 1) * d)
        query = _oracle_rotate(x @ weights["query"][:, own])
        key = _oracle_rotate(x @ weights["key"][:, shared])
        logits = query @ key.T * config.attn_output_multiplier
        logits = np.where(seen, 30 * np.tanh(logits / 30), -1e30)
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        mixed.append(odds / odds.sum(axis=-1, keepdims=True) @ (x @ weights["value"][:, shared]))
    return np.concatenate(mixed, axis=-1) @ weights["linear"]


def _oracle(params: hk.Params, x: Array64, seen: npt.NDArray[Any]) -> Array64:
    """Run the stack on one sequence [T, D] in float64."""
    for i in range(_CONFIG.num_layers):
        layer = f"transformer/decoder_layer_{i}"

        def weight(path: str, name: str = "w", layer: str = layer) -> Array64:
            return np.asarray(params[f"{layer}/{path}"][name], np.float64)

        scales = [weight("rms_norm" + end, "scale") for end in ("", "_1", "_2", "_3")]
        heads = {
            p: weight(f"multi_head_attention/{p}") for p in ("query", "key", "value", "linear")
        }
        attended = _oracle_attention(_CONFIG, heads, _oracle_norm(x, scales[0]), seen)
        x = x + _oracle_norm(attended, scales[1])
        normed = _oracle_norm(x, scales[2])
        gate = normed @ weight("linear")
        gelu = gate / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
        x = x + _oracle_norm((gelu * (normed @ weight("linear_v"))) @ weight("linear_1"), scales[3])
    return x


@pytest.mark.parametrize("offset", [None, 5])
def test_stack_equals_a_float64_oracle(offset: int | None) -> None:
    params, x, padding_mask = _random_case()
    seen = np.asarray(attention_mask(padding_mask, offset))
    result = _run(params, x, padding_mask, offset)
    for user in range(_B):
        expected = _oracle(params, np.asarray(x[user], np.float64), seen[user])
        valid = np.asarray(padding_mask[user])
        np.testing.assert_allclose(result[user][valid], expected[valid], rtol=0, atol=2e-5)


def test_mask_is_causal_and_hides_padding() -> None:
    mask = attention_mask(jnp.array([[True, False, True]]))
    expected = [[True, False, False], [True, False, False], [True, False, True]]
    np.testing.assert_array_equal(mask[0], expected)


def test_mask_lets_candidates_see_the_context_and_themselves() -> None:
    mask = attention_mask(jnp.array([[True, True, True, True, False]]), candidate_start_offset=2)
    expected = [
        [True, False, False, False, False],
        [True, True, False, False, False],
        [True, True, True, False, False],
        [True, True, False, True, False],
        [True, True, False, False, False],
    ]
    np.testing.assert_array_equal(mask[0], expected)


def test_a_candidate_does_not_change_when_another_does() -> None:
    params, x, _ = _random_case()
    valid = jnp.ones((_B, _T), bool)
    offset, changed = 5, 7
    before = _run(params, x, valid, offset)
    after = _run(params, x.at[:, changed].multiply(-3), valid, offset)
    others = [i for i in range(_T) if i != changed]
    np.testing.assert_array_equal(before[:, others], after[:, others])
    assert not np.allclose(before[:, changed], after[:, changed])


def test_without_an_offset_later_positions_do_change() -> None:
    params, x, _ = _random_case()
    valid = jnp.ones((_B, _T), bool)
    before = _run(params, x, valid)
    after = _run(params, x.at[:, 7].multiply(-3), valid)
    np.testing.assert_array_equal(before[:, :7], after[:, :7])
    assert np.abs(before - after)[:, 7:].max(axis=(0, 2)).min() > 1e-3


def test_candidates_change_with_the_context() -> None:
    params, x, _ = _random_case()
    valid = jnp.ones((_B, _T), bool)
    difference = _run(params, x, valid, 5) - _run(params, x.at[:, 2].multiply(-3), valid, 5)
    assert np.abs(difference)[:, 5:].max(axis=(0, 2)).min() > 1e-3


def test_values_at_padded_positions_have_no_influence() -> None:
    params, x, padding_mask = _random_case()
    noisy = jnp.where(padding_mask[:, :, None], x, 1e3)
    before, after = _run(params, x, padding_mask), _run(params, noisy, padding_mask)
    np.testing.assert_array_equal(before[padding_mask], after[padding_mask])


def test_a_sequence_of_padding_stays_finite() -> None:
    params, x, _ = _random_case()
    assert np.isfinite(_run(params, x, jnp.zeros((_B, _T), bool))).all()


def test_a_fresh_stack_is_the_identity() -> None:
    _, x, padding_mask = _random_case()
    np.testing.assert_array_equal(_run(_fresh(x, padding_mask), x, padding_mask), x)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_activations_keep_the_dtype_of_the_embeddings(dtype: Any) -> None:
    params, x, padding_mask = _random_case()
    assert _run(params, x.astype(dtype), padding_mask).dtype == dtype


def test_wrong_arguments_are_refused_by_name() -> None:
    params, x, padding_mask = _random_case()
    with pytest.raises(ValueError, match="embeddings must be"):
        _run(params, x[..., 1:], padding_mask)
    with pytest.raises(ValueError, match="padding_mask must be"):
        _run(params, x, padding_mask[:, 1:])
    with pytest.raises(ValueError, match="candidate_start_offset"):
        _run(params, x, padding_mask, -1)


def test_every_module_path_begins_with_the_name_in_the_config() -> None:
    config = dataclasses.replace(_CONFIG, name="stack")
    _, x, padding_mask = _random_case()
    params = _fresh(x, padding_mask, config)
    assert all(module.startswith("stack/decoder_layer_") for module in params)
