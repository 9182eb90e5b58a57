"""Grouped-query attention with rotary positions and capped logits.

Glossary of shapes:
    B: users in the batch.
    T: sequence positions.
    D: width of the residual stream.
    d: width of one head (`key_size`).
    Hq: query heads, Hkv: key and value heads, G = Hq / Hkv: query heads per key head.
    Q, K as axes of logits and masks: query positions and key positions, both T long.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from phoenix_model.config import TransformerConfig
from phoenix_model.layers import Linear
from phoenix_model.numerics import dot_precision

_ROPE_BASE = 10_000.0
_LOGIT_CAP = 30.0
_MASKED_LOGIT = -1e30


def attention_mask(padding_mask: jax.Array, candidate_start_offset: int | None = None) -> jax.Array:
    """Return which key positions each query position attends to.

    A position attends to the valid positions up to and including itself. From
    `candidate_start_offset` on, it attends to the valid positions before the offset and to itself:
    candidates in one sequence are scored independently of each other.

    Args:
        padding_mask: [B, T] bool, True where the position is valid.
        candidate_start_offset: First candidate position; None without candidates.

    Returns:
        [B, Q, K] bool, True where attended to. Rows of padded positions may be all False.
    """
    positions = jnp.arange(padding_mask.shape[1])
    query, key = positions[:, None], positions[None, :]
    seen = key <= query  # [Q, K]
    if candidate_start_offset is not None:
        seen &= (key < candidate_start_offset) | (key == query)
    return seen[None, :, :] & padding_mask[:, None, :]


def rotary_tables(num_positions: int, key_size: int) -> tuple[jax.Array, jax.Array]:
    """Return cosines and sines of the rotary angles, each [T, d] float32.

    The two halves of the last axis carry the same angles (Su et al. 2021, arXiv:2104.09864, in
    the half-split layout); the sines of the first half are negated, as `rotate` needs them.
    """
    exponents = jnp.arange(0, key_size, 2, dtype=jnp.float32) / key_size  # [d/2]
    positions = jnp.arange(num_positions, dtype=jnp.float32)
    angles = positions[:, None] / _ROPE_BASE ** exponents[None, :]  # [T, d/2]
    # Joined last: XLA would evaluate functions of the joined angles again for every user and head.
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([cos, cos], axis=-1), jnp.concatenate([-sin, sin], axis=-1)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotate heads [B, T, H, d] by tables [T, d], in float32; returned in the dtype of `x`."""
    wide = x.astype(jnp.float32)
    first, second = jnp.split(wide, 2, axis=-1)
    swapped = jnp.concatenate([second, first], axis=-1)
    rotated = wide * cos[None, :, None, :] + swapped * sin[None, :, None, :]
    return rotated.astype(x.dtype)


class MultiHeadAttention(hk.Module):
    """Self-attention in which G query heads share a key and value head."""

    def __init__(self, config: TransformerConfig, *, name: str = "multi_head_attention") -> None:
        super().__init__(name=name)
        self.config = config

    def __call__(
        self, x: jax.Array, mask: jax.Array, rotary: tuple[jax.Array, jax.Array]
    ) -> jax.Array:
        """Apply attention.

        Args:
            x: [B, T, D].
            mask: [B, Q, K] bool, True where the query attends to the key.
            rotary: Cosines and sines, each [T, d] float32.

        Returns:
            [B, T, D] in the dtype of `x`.
        """
        config = self.config
        num_groups = config.num_q_heads // config.num_kv_heads
        batch, length, _ = x.shape

        query = rotate(self._heads(x, config.num_q_heads, "query"), *rotary)  # [B, T, Hq, d]
        key = rotate(self._heads(x, config.num_kv_heads, "key"), *rotary)  # [B, T, Hkv, d]
        value = self._heads(x, config.num_kv_heads, "value")  # [B, T, Hkv, d]
        # Query head h belongs to key head h // G.
        query = query.reshape(batch, length, config.num_kv_heads, num_groups, config.key_size)
        query = query.transpose(0, 2, 3, 1, 4)  # [B, Hkv, G, T, d]
        key = key.transpose(0, 2, 3, 1)  # [B, Hkv, d, T]
        value = value.transpose(0, 2, 1, 3)  # [B, Hkv, T, d]

        # Queries of the first half attend to no key of the second: a quarter of the work less.
        half = (length + 1) // 2
        mixed = [
            self._attend(query[:, :, :, own], key[..., :end], value[:, :, :end], mask[:, own, :end])
            for own, end in ((slice(0, half), half), (slice(half, length), length))
        ]
        return Linear(config.emb_size, name="linear")(jnp.concatenate(mixed, axis=1))

    def _attend(
        self, query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
    ) -> jax.Array:
        """Mix the values that each query attends to.

        Args:
            query: [B, Hkv, G, Q, d].
            key: [B, Hkv, d, K].
            value: [B, Hkv, K, d].
            mask: [B, Q, K] bool, True where the query attends to the key.

        Returns:
            [B, Q, Hq*d], the heads of a query side by side.
        """
        batch, kv_heads, num_groups, num_queries, key_size = query.shape
        num_keys = key.shape[-1]
        precision = dot_precision(query.dtype)
        # Plain matrix products, with the query heads of a key head as further rows.
        rows = (batch, kv_heads, num_groups * num_queries)

        # As published: the product is rounded to the dtype of x, and the rest is float32.
        logits = jnp.matmul(query.reshape(*rows, key_size), key, precision=precision)
        logits = logits.reshape(batch, kv_heads, num_groups, num_queries, num_keys)
        logits = logits.astype(jnp.float32) * self.config.attn_output_multiplier
        logits = _LOGIT_CAP * jnp.tanh(logits / _LOGIT_CAP)
        logits = jnp.where(mask[:, None, None, :, :], logits, _MASKED_LOGIT)
        weights = jax.nn.softmax(logits, axis=-1).astype(query.dtype)

        mixed = jnp.matmul(weights.reshape(*rows, num_keys), value, precision=precision)
        mixed = mixed.reshape(query.shape).transpose(0, 3, 1, 2, 4)  # [B, Q, Hkv, G, d]
        return mixed.reshape(batch, num_queries, kv_heads * num_groups * key_size)

    @hk.transparent
    def _heads(self, x: jax.Array, num_heads: int, name: str) -> jax.Array:
        batch, length, _ = x.shape
        heads = Linear(num_heads * self.config.key_size, name=name)(x)
        return heads.reshape(batch, length, num_heads, self.config.key_size)
