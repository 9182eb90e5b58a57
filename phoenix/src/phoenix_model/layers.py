"""The layers of the decoder stack: linear without bias, and RMS norm.

Glossary of shapes:
    M: input width.
    N: output width.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from phoenix_model.numerics import dot_precision

_RMS_EPS = 1e-5


class Linear(hk.Module):
    """`x @ w`, with `w` stored in float32 and cast to the dtype of `x`."""

    def __init__(self, output_size: int, *, name: str) -> None:
        super().__init__(name=name)
        self.output_size = output_size

    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [..., M] to [..., N] in the dtype of `x`."""
        shape = (x.shape[-1], self.output_size)
        w = hk.get_parameter("w", shape, jnp.float32, init=hk.initializers.Constant(0))
        return jnp.matmul(x, w.astype(x.dtype), precision=dot_precision(x.dtype))


class RMSNorm(hk.Module):
    """Root-mean-square norm over the last axis, computed in float32.

    The factor is the stored scale, not one plus it, so a new norm returns zero.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalise [..., M], returned in the dtype of `x`."""
        shape = (x.shape[-1],)
        scale = hk.get_parameter("scale", shape, jnp.float32, init=hk.initializers.Constant(0))
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
        return (wide * jax.lax.rsqrt(mean_square + _RMS_EPS) * scale).astype(x.dtype)
