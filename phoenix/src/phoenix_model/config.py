"""Configuration of the model, checked on construction."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

_FPROP_DTYPES = (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32))
_FFN_MULTIPLE = 8
_FLOAT32 = jnp.finfo(jnp.float32)
_LEAST_FLOAT32, _MOST_FLOAT32 = float(_FLOAT32.smallest_normal), float(_FLOAT32.max)


def is_positive_float32(value: float) -> bool:
    """Return whether a number is above 0 and finite in float32, in which the model computes."""
    return _LEAST_FLOAT32 <= value <= _MOST_FLOAT32


def _check_numbers(config: Any) -> None:
    """Check that ints are positive, and floats positive and finite in float32."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.type is int and (type(value) is not int or value < 1):
            raise ValueError(f"{field.name} must be a positive integer, got {value!r}")
        if field.type is float and not (
            isinstance(value, int | float) and is_positive_float32(value)
        ):
            raise ValueError(f"{field.name} must be positive and finite in float32, got {value!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HashConfig:
    """Number of embedding rows for each kind of id.

    Attributes:
        num_user_hashes: Hu, rows per user.
        num_item_hashes: Hi, rows per post.
        num_author_hashes: Ha, rows per author.
    """

    num_user_hashes: int = 2
    num_item_hashes: int = 2
    num_author_hashes: int = 2

    def __post_init__(self) -> None:
        _check_numbers(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of the decoder stack.

    Attributes:
        emb_size: D, width of the residual stream.
        key_size: d, width of one attention head; even, because RoPE rotates halves.
        num_q_heads: Hq, query heads; a multiple of `num_kv_heads`.
        num_kv_heads: Hkv, key and value heads.
        num_layers: L.
        widening_factor: Feed-forward width over D, before the gated unit's factor of 2/3.
        attn_output_multiplier: Factor on the attention logits, in place of 1/sqrt(d).
        name: Haiku module name; `transformer` if None.
    """

    emb_size: int
    key_size: int
    num_q_heads: int
    num_kv_heads: int
    num_layers: int
    widening_factor: float = 4.0
    attn_output_multiplier: float = 1.0
    name: str | None = None

    def __post_init__(self) -> None:
        _check_numbers(self)
        if self.key_size % 2:
            raise ValueError(f"key_size must be even, got {self.key_size}")
        if self.num_q_heads % self.num_kv_heads:
            raise ValueError(
                "num_q_heads must be a multiple of num_kv_heads, got "
                f"{self.num_q_heads} and {self.num_kv_heads}"
            )
        if self.ffn_size < 1:
            raise ValueError(
                f"widening_factor {self.widening_factor} leaves no feed-forward width at "
                f"emb_size {self.emb_size}"
            )

    @property
    def ffn_size(self) -> int:
        """F: two thirds of the widened size, rounded up to a multiple of 8."""
        width = int(self.widening_factor * self.emb_size) * 2 // 3
        return -(-width // _FFN_MULTIPLE) * _FFN_MULTIPLE


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhoenixRetrievalModelConfig:
    """The two towers.

    Attributes:
        model: The user tower's decoder stack; its `emb_size` is the one below.
        emb_size: D, width of every embedding and of both towers' outputs.
        history_seq_len: Maximum engagements of a user. The towers accept any length.
        candidate_seq_len: C of the published training setup. The towers accept any number.
        name: Haiku module name; `phoenix_retrieval_model` if None.
        fprop_dtype: Dtype of the stack's activations, bfloat16 or float32. Parameters, input
            projections, candidate tower and scores are always float32.
        hash_config: Embedding rows per user, post and author.
        product_surface_vocab_size: V, product surfaces.
        num_actions: A, action types in a history item.
        enable_linear_proj: Whether the candidate tower is a two-layer network. If False, it is the
            mean of the candidate's embeddings and has no parameters.
    """

    model: TransformerConfig
    emb_size: int
    history_seq_len: int = 128
    candidate_seq_len: int = 32
    name: str | None = None
    fprop_dtype: DTypeLike = jnp.bfloat16
    hash_config: HashConfig = HashConfig()
    product_surface_vocab_size: int = 16
    num_actions: int = 19
    enable_linear_proj: bool = True

    def __post_init__(self) -> None:
        _check_numbers(self)
        if self.emb_size != self.model.emb_size:
            raise ValueError(
                f"emb_size must equal model.emb_size, got {self.emb_size} and {self.model.emb_size}"
            )
        if not any(self.fprop_dtype == dtype for dtype in _FPROP_DTYPES):
            raise ValueError(f"fprop_dtype must be bfloat16 or float32, got {self.fprop_dtype!r}")
