"""Numeric conventions of both towers.

Glossary of shapes:
    D: embedding width.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

EPS = 1e-12
"""Minimum sum of squares that a vector is normalised by."""


def dot_precision(dtype: DTypeLike) -> lax.Precision:
    """Return the matrix-product precision that keeps all bits of `dtype`.

    By default, accelerators round float32 operands: to TF32 on NVIDIA, to bfloat16 on TPU. Products
    of bfloat16 need no setting.
    """
    narrow = jnp.dtype(dtype) == jnp.bfloat16
    return lax.Precision.DEFAULT if narrow else lax.Precision.HIGHEST


def project(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Return `x @ matrix` in float32 for operands of any dtype.

    Args:
        x: [..., M].
        matrix: [M, N].

    Returns:
        [..., N] float32.
    """
    return jnp.matmul(
        x.astype(jnp.float32), matrix.astype(jnp.float32), precision=lax.Precision.HIGHEST
    )


def l2_normalize(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Divide vectors by their Euclidean norm, which is at least sqrt(EPS).

    Args:
        x: [..., D] float32.

    Returns:
        The unit vectors [..., D] and the norms [..., 1], `sqrt(max(sum of squares, EPS))`. The
        zero vector stays zero.
    """
    norm = jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), EPS))
    return x / norm, norm
