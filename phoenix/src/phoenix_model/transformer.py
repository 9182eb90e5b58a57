"""The decoder stack of the user tower.

Glossary of shapes:
    B: users in the batch.
    T: sequence positions.
    D: width of the residual stream.
    F: width of the feed-forward layer.
"""

import haiku as hk
import jax

from phoenix_model.attention import MultiHeadAttention, attention_mask, rotary_tables
from phoenix_model.config import TransformerConfig
from phoenix_model.layers import Linear, RMSNorm


class DecoderLayer(hk.Module):
    """Attention and a gated feed-forward layer, each with a norm before and after it."""

    def __init__(self, config: TransformerConfig, *, name: str) -> None:
        super().__init__(name=name)
        self.config = config

    def __call__(
        self, hidden: jax.Array, mask: jax.Array, rotary: tuple[jax.Array, jax.Array]
    ) -> jax.Array:
        """Map [B, T, D] to [B, T, D] in the same dtype; arguments as in `MultiHeadAttention`."""
        attended = MultiHeadAttention(self.config)(RMSNorm(name="rms_norm")(hidden), mask, rotary)
        hidden = hidden + RMSNorm(name="rms_norm_1")(attended)
        widened = self._feed_forward(RMSNorm(name="rms_norm_2")(hidden))
        return hidden + RMSNorm(name="rms_norm_3")(widened)

    @hk.transparent
    def _feed_forward(self, x: jax.Array) -> jax.Array:
        gate = jax.nn.gelu(Linear(self.config.ffn_size, name="linear")(x), approximate=True)
        linear = Linear(self.config.ffn_size, name="linear_v")(x)  # [B, T, F]
        return Linear(self.config.emb_size, name="linear_1")(gate * linear)


class Transformer(hk.Module):
    """A causal decoder stack without a final norm.

    New weights and norm scales are all zero, which makes a new stack the identity.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(name=config.name or "transformer")
        self.config = config

    def __call__(
        self,
        embeddings: jax.Array,
        padding_mask: jax.Array,
        candidate_start_offset: int | None = None,
    ) -> jax.Array:
        """Run the stack.

        Args:
            embeddings: [B, T, D]; all activations have their dtype.
            padding_mask: [B, T] bool, True where the position is valid. Finite values at invalid
                positions have no influence on valid ones.
            candidate_start_offset: If set, positions from here on are candidates that attend to
                the positions before the offset and themselves, never to one another.

        Returns:
            [B, T, D] in the dtype of `embeddings`. Values at invalid positions have no meaning.

        Raises:
            ValueError: The shapes do not match each other or the configuration.
        """
        if embeddings.ndim != 3 or embeddings.shape[-1] != self.config.emb_size:
            raise ValueError(
                f"embeddings must be [B, T, {self.config.emb_size}], got {embeddings.shape}"
            )
        if padding_mask.shape != embeddings.shape[:2]:
            raise ValueError(
                f"padding_mask must be {embeddings.shape[:2]}, got {padding_mask.shape}"
            )
        if candidate_start_offset is not None and candidate_start_offset < 0:
            raise ValueError(
                f"candidate_start_offset must not be negative, got {candidate_start_offset}"
            )
        mask = attention_mask(padding_mask, candidate_start_offset)  # [B, Q, K]
        rotary = rotary_tables(embeddings.shape[1], self.config.key_size)
        hidden = embeddings
        for i in range(self.config.num_layers):
            hidden = DecoderLayer(self.config, name=f"decoder_layer_{i}")(hidden, mask, rotary)
        return hidden
