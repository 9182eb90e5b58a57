"""The two-tower retrieval model and its exact top-k.

Glossary of shapes:
    B: users in the batch.
    S: history length, T = 1 + S: sequence positions (the user, then the history, oldest first).
    C: candidates of a user.
    N: corpus rows, K: results per user.
    D: embedding width.
    A: action types, V: product surfaces.
    Hu, Hi, Ha: embedding rows per user, post and author.
"""

from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from phoenix_model.candidate_tower import CandidateTower
from phoenix_model.config import PhoenixRetrievalModelConfig
from phoenix_model.inputs import (
    RecsysBatch,
    RecsysEmbeddings,
    check_user_inputs,
    combine_history,
    combine_user,
    embed_actions,
    embed_product_surface,
)
from phoenix_model.numerics import l2_normalize, project
from phoenix_model.transformer import Transformer

NO_RESULT = -1
"""Index where fewer than K rows are eligible; the score there is minus infinity."""


class RetrievalOutput(NamedTuple):
    """Results for a batch of users.

    Attributes:
        user_representation: [B, D] float32, unit vectors.
        top_k_indices: [B, K] int32, corpus rows, best first; `NO_RESULT` beyond the eligible rows.
        top_k_scores: [B, K] float32; minus infinity beyond the eligible rows.
    """

    user_representation: jax.Array
    top_k_indices: jax.Array
    top_k_scores: jax.Array


def retrieve_top_k(
    user_representation: jax.Array,
    corpus_embeddings: jax.Array,
    top_k: int,
    corpus_mask: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Score every corpus row and return the top K.

    The order is score descending, then row ascending. A masked row never appears: if fewer than K
    rows are eligible, the rest is filled with `NO_RESULT` and minus infinity.

    Args:
        user_representation: [B, D].
        corpus_embeddings: [N, D].
        top_k: K, at least 1; may exceed N.
        corpus_mask: [N] bool, True where the row is eligible. Default: all are.

    Returns:
        Row indices [B, K] int32 and scores [B, K] float32.

    Raises:
        ValueError: `top_k` is below 1, or the shapes do not match.
    """
    num_rows, width = corpus_embeddings.shape
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if user_representation.ndim != 2 or user_representation.shape[1] != width:
        raise ValueError(
            f"user_representation must be [B, {width}], got {user_representation.shape}"
        )
    if corpus_mask is not None and corpus_mask.shape != (num_rows,):
        raise ValueError(f"corpus_mask must be {(num_rows,)}, got {corpus_mask.shape}")

    scores = project(user_representation, corpus_embeddings.T)  # [B, N]
    scores = jnp.where(scores == 0, 0.0, scores)  # lax.top_k puts -0.0 below 0.0
    if corpus_mask is not None:
        scores = jnp.where(corpus_mask[None, :], scores, -jnp.inf)
    top_scores, indices = jax.lax.top_k(scores, min(top_k, num_rows))
    if corpus_mask is not None:
        indices = jnp.where(jnp.take(corpus_mask, indices), indices, NO_RESULT)
    missing = ((0, 0), (0, max(top_k - num_rows, 0)))
    indices = jnp.pad(indices, missing, constant_values=NO_RESULT)
    return indices, jnp.pad(top_scores, missing, constant_values=-jnp.inf)


class PhoenixRetrievalModel(hk.Module):
    """A transformer over the user's history and a small network over each candidate.

    Both return unit vectors, and the score is their inner product. Construct it with `build_model`,
    which names the parameters as published checkpoints do.
    """

    def __init__(self, config: PhoenixRetrievalModelConfig, *, model: Transformer) -> None:
        super().__init__(name=config.name or "phoenix_retrieval_model")
        self.config = config
        self.model = model

    def __call__(
        self,
        batch: RecsysBatch,
        embeddings: RecsysEmbeddings,
        corpus_embeddings: jax.Array,
        top_k: int,
        corpus_mask: jax.Array | None = None,
    ) -> RetrievalOutput:
        """Encode the users and retrieve their top K; arguments as in `retrieve_top_k`."""
        user_representation, _ = self.build_user_representation(batch, embeddings)
        indices, scores = retrieve_top_k(user_representation, corpus_embeddings, top_k, corpus_mask)
        return RetrievalOutput(user_representation, indices, scores)

    def build_user_representation(
        self, batch: RecsysBatch, embeddings: RecsysEmbeddings
    ) -> tuple[jax.Array, jax.Array]:
        """Encode each user: the normalised mean of the stack's output over valid positions.

        Args:
            batch: Users and their history; candidate fields are not read.
            embeddings: The same users' embeddings; candidate fields are not read.

        Returns:
            Unit vectors [B, D] and the norms before normalisation [B, 1], both float32. A user
            without a valid position has the zero vector, which has no meaning.

        Raises:
            ValueError: A shape does not match the configuration.
        """
        check_user_inputs(self.config, batch, embeddings)
        sequence, mask = self._build_sequence(batch, embeddings)
        hidden = self.model(sequence.astype(self.config.fprop_dtype), mask)  # [B, T, D]
        valid = mask[:, :, None]
        total = jnp.sum(jnp.where(valid, hidden.astype(jnp.float32), 0), axis=1)  # [B, D]
        count = jnp.maximum(jnp.sum(valid.astype(jnp.float32), axis=1), 1)  # [B, 1]
        return l2_normalize(total / count)

    def build_candidate_representation(
        self, batch: RecsysBatch, embeddings: RecsysEmbeddings
    ) -> tuple[jax.Array, jax.Array]:
        """Encode the candidates of each user.

        Args:
            batch: Provides `candidate_post_hashes`; other fields are not read.
            embeddings: Provides the candidates' embeddings; other fields are not read.

        Returns:
            Unit vectors [B, C, D] in the embeddings' dtype and the mask [B, C], True for candidates
            and False for padding.

        Raises:
            ValueError: A candidate field is None, or its shape does not match the configuration.
        """
        hashes = batch.candidate_post_hashes
        posts = embeddings.candidate_post_embeddings
        authors = embeddings.candidate_author_embeddings
        if hashes is None or posts is None or authors is None:
            raise ValueError(
                "candidate_post_hashes, candidate_post_embeddings and candidate_author_embeddings "
                "must be set"
            )
        return self.encode_candidates(posts, authors), hashes[:, :, 0] != 0

    @hk.name_like("build_candidate_representation")
    def encode_candidates(
        self, post_embeddings: jax.Array, author_embeddings: jax.Array
    ) -> jax.Array:
        """Encode candidates from their embeddings; see `CandidateTower`."""
        hashes = self.config.hash_config
        found = (post_embeddings.shape[-2], author_embeddings.shape[-2])
        if found != (hashes.num_item_hashes, hashes.num_author_hashes):
            raise ValueError(
                f"candidates must have {hashes.num_item_hashes} post and "
                f"{hashes.num_author_hashes} author embeddings, got {found[0]} and {found[1]}"
            )
        tower = CandidateTower(
            self.config.emb_size, enable_linear_proj=self.config.enable_linear_proj
        )
        return tower(post_embeddings, author_embeddings)

    @hk.transparent
    def _build_sequence(
        self, batch: RecsysBatch, embeddings: RecsysEmbeddings
    ) -> tuple[jax.Array, jax.Array]:
        config, hashes, width = self.config, self.config.hash_config, self.config.emb_size
        # The published model rounds actions and surfaces to fprop_dtype before projecting them.
        surfaces = embed_product_surface(
            batch.history_product_surface,
            _matrix("product_surface_embedding_table", config.product_surface_vocab_size, width),
            config.fprop_dtype,
        )
        actions = embed_actions(
            batch.history_actions,
            _matrix("action_projection", config.num_actions, width),
            config.fprop_dtype,
        )
        user, user_mask = combine_user(
            batch.user_hashes,
            embeddings.user_embeddings,
            _matrix("proj_mat_1", hashes.num_user_hashes * width, width),
        )
        num_parts = hashes.num_item_hashes + hashes.num_author_hashes + 2
        history, history_mask = combine_history(
            batch.history_post_hashes,
            embeddings.history_post_embeddings,
            embeddings.history_author_embeddings,
            actions,
            surfaces,
            _matrix("proj_mat_3", num_parts * width, width),
        )
        mask = jnp.concatenate([user_mask, history_mask], axis=1)  # [B, T]
        sequence = jnp.concatenate([user, history.astype(user.dtype)], axis=1)  # [B, T, D]
        # Attention multiplies padding by zero, which does not remove a NaN; this does.
        return jnp.where(mask[:, :, None], sequence, 0), mask


def _matrix(name: str, rows: int, width: int) -> jax.Array:
    init = hk.initializers.VarianceScaling()
    return hk.get_parameter(name, (rows, width), jnp.float32, init=init)


def build_model(config: PhoenixRetrievalModelConfig) -> PhoenixRetrievalModel:
    """Construct the model inside a Haiku transform, outside any other module.

    The stack is constructed first and outside the model, so that its parameters are named
    `transformer/...` and not `phoenix_retrieval_model/...`, as in published checkpoints.
    """
    return PhoenixRetrievalModel(config, model=Transformer(config.model))
