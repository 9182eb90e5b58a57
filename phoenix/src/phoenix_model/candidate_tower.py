"""The candidate tower, which maps a post to a unit vector.

Glossary of shapes:
    B: users, C: candidates of a user; without C, B: posts.
    D: embedding width.
    Hi: embeddings per post, Ha: embeddings per author.
"""

import haiku as hk
import jax
import jax.numpy as jnp

from phoenix_model.numerics import l2_normalize, project


class CandidateTower(hk.Module):
    """Maps the embeddings of a post and its author to a unit vector."""

    def __init__(
        self, emb_size: int, *, enable_linear_proj: bool = True, name: str = "candidate_tower"
    ) -> None:
        super().__init__(name=name)
        self.emb_size = emb_size
        self.enable_linear_proj = enable_linear_proj

    def __call__(self, post_embeddings: jax.Array, author_embeddings: jax.Array) -> jax.Array:
        """Encode candidates, in float32.

        Args:
            post_embeddings: [B, C, Hi, D] or [B, Hi, D].
            author_embeddings: [B, C, Ha, D] or [B, Ha, D].

        Returns:
            Unit vectors [B, C, D] or [B, D] in the dtype of `post_embeddings`; the zero vector
            if all embeddings are zero.

        Raises:
            ValueError: If the embeddings have another number of axes, another width or differ in
                their leading axes.
        """
        leading = post_embeddings.shape[:-2]
        if post_embeddings.ndim not in (3, 4) or post_embeddings.shape[-1] != self.emb_size:
            raise ValueError(
                f"post_embeddings must be [B, C, Hi, {self.emb_size}] or [B, Hi, {self.emb_size}],"
                f" got {post_embeddings.shape}"
            )
        if author_embeddings.shape[:-2] != leading or author_embeddings.shape[-1] != self.emb_size:
            raise ValueError(
                f"author_embeddings must be {(*leading, 'Ha', self.emb_size)}, "
                f"got {author_embeddings.shape}"
            )
        stacked = jnp.concatenate(
            [post_embeddings.astype(jnp.float32), author_embeddings.astype(jnp.float32)], axis=-2
        )  # [..., Hi+Ha, D]
        encoded = self._project(stacked) if self.enable_linear_proj else stacked.mean(axis=-2)
        unit, _ = l2_normalize(encoded)
        return unit.astype(post_embeddings.dtype)

    @hk.transparent
    def _project(self, stacked: jax.Array) -> jax.Array:
        *leading, num_rows, width = stacked.shape
        init = hk.initializers.VarianceScaling()
        projection_1 = hk.get_parameter(
            "candidate_tower_projection_1", (num_rows * width, 2 * width), jnp.float32, init=init
        )
        projection_2 = hk.get_parameter(
            "candidate_tower_projection_2", (2 * width, width), jnp.float32, init=init
        )
        flat = stacked.reshape(*leading, num_rows * width)  # [..., (Hi+Ha)*D]
        hidden = jax.nn.silu(project(flat, projection_1))  # [..., 2D]
        return project(hidden, projection_2)  # [..., D]
