import dataclasses
from typing import Any

import jax.numpy as jnp
import pytest

from phoenix_cases import prime_config
from phoenix_model import HashConfig, PhoenixRetrievalModelConfig, TransformerConfig


@pytest.mark.parametrize(
    ("emb_size", "widening_factor", "ffn_size"),
    [(128, 2.0, 176), (40, 4.0, 112), (128, 4.0, 344), (12, 1.0, 8), (12, 2.0, 16)],
)
def test_feed_forward_width_is_two_thirds_rounded_up_to_eight(
    emb_size: int, widening_factor: float, ffn_size: int
) -> None:
    config = dataclasses.replace(
        prime_config().model, emb_size=emb_size, widening_factor=widening_factor
    )
    assert config.ffn_size == ffn_size


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("emb_size", 0),
        ("key_size", 7),
        ("key_size", -2),
        ("num_q_heads", 4),
        ("num_kv_heads", 0),
        ("num_layers", 1.5),
        ("num_layers", True),
        ("widening_factor", 0.0),
        ("widening_factor", 0.01),
        ("widening_factor", 1e308),
        pytest.param("widening_factor", 10**400, id="widening_factor-401 digits"),
        ("widening_factor", float("nan")),
        ("attn_output_multiplier", float("inf")),
        ("attn_output_multiplier", 1e300),
        ("attn_output_multiplier", 1e-300),
        ("attn_output_multiplier", "0.125"),
    ],
)
def test_invalid_transformer_config_names_the_field(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(prime_config().model, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("emb_size", 0),
        ("emb_size", 14),
        ("history_seq_len", 0),
        ("candidate_seq_len", -1),
        ("product_surface_vocab_size", 0),
        ("num_actions", None),
        ("fprop_dtype", jnp.int32),
        ("fprop_dtype", jnp.float16),
        ("fprop_dtype", "nonsense"),
    ],
)
def test_invalid_model_config_names_the_field(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(prime_config(), **{field: value})


@pytest.mark.parametrize("field", ["num_user_hashes", "num_item_hashes", "num_author_hashes"])
def test_invalid_hash_config_names_the_field(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        HashConfig(**{field: 0})


def test_configs_are_hashable_and_default_to_the_published_numbers() -> None:
    model = TransformerConfig(
        emb_size=128, key_size=32, num_q_heads=4, num_kv_heads=4, num_layers=4
    )
    config = PhoenixRetrievalModelConfig(model=model, emb_size=128)
    assert config == PhoenixRetrievalModelConfig(model=model, emb_size=128)
    assert len({config, dataclasses.replace(config)}) == 1
    assert (config.num_actions, config.product_surface_vocab_size) == (19, 16)
    assert config.fprop_dtype == jnp.bfloat16
    assert config.enable_linear_proj
