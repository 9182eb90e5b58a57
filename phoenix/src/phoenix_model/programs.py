"""The towers as pure functions of parameters and inputs, for compiling or exporting.

The sizes of a batch (users, history length, posts) may be symbolic dimensions of `jax.export`. The
inputs are NamedTuples of this package: before exporting a tower, wrap it in a function of plain
dictionaries, so that the program loads where this package is not installed.

Glossary of shapes:
    B: users in the batch, S: history length, C: candidates of a user.
    N: posts.
    D: embedding width.
    Hi, Ha: embedding rows per post and author.
"""

import functools
from collections.abc import Callable

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from phoenix_model.config import PhoenixRetrievalModelConfig
from phoenix_model.inputs import RecsysBatch, RecsysEmbeddings
from phoenix_model.retrieval import build_model

UserTowerFn = Callable[[hk.Params, RecsysBatch, RecsysEmbeddings], tuple[jax.Array, jax.Array]]
"""(params, batch, embeddings) -> (representation [B, D] float32, norm [B, 1] float32)."""

CandidateTowerFn = Callable[[hk.Params, jax.Array, jax.Array], jax.Array]
"""(params, post_embeddings, author_embeddings) -> unit vectors."""


def user_tower(config: PhoenixRetrievalModelConfig) -> UserTowerFn:
    """Return the user tower as a pure function.

    It reads `user_hashes`, `history_post_hashes`, `history_actions` and `history_product_surface`
    of the batch, and the user and history embeddings. Other fields may be None.
    """

    def run(batch: RecsysBatch, embeddings: RecsysEmbeddings) -> tuple[jax.Array, jax.Array]:
        return build_model(config).build_user_representation(batch, embeddings)

    return hk.without_apply_rng(hk.transform(run)).apply


def candidate_tower(config: PhoenixRetrievalModelConfig) -> CandidateTowerFn:
    """Return the candidate tower as a pure function.

    It maps post embeddings [N, Hi, D] and author embeddings [N, Ha, D] to unit vectors [N, D], or
    [B, C, Hi, D] and [B, C, Ha, D] to [B, C, D], in the post embeddings' dtype.
    """

    def run(post_embeddings: jax.Array, author_embeddings: jax.Array) -> jax.Array:
        return build_model(config).encode_candidates(post_embeddings, author_embeddings)

    return hk.without_apply_rng(hk.transform(run)).apply


@functools.cache
def _compiled_candidate_tower(config: PhoenixRetrievalModelConfig) -> CandidateTowerFn:
    return jax.jit(candidate_tower(config))


def encode_candidates(
    config: PhoenixRetrievalModelConfig,
    params: hk.Params,
    post_embeddings: npt.NDArray[np.float32],
    author_embeddings: npt.NDArray[np.float32],
    *,
    batch_size: int = 8192,
) -> npt.NDArray[np.float32]:
    """Encode any number of posts, in batches of `batch_size` on the device.

    The last batch is padded, so each configuration and batch size compiles one program, once per
    process.

    Args:
        config: The model's configuration.
        params: Parameters; those of the candidate tower are enough.
        post_embeddings: [N, Hi, D] on the host.
        author_embeddings: [N, Ha, D] on the host.
        batch_size: Posts per call of the tower.

    Returns:
        Unit vectors [N, D] on the host.

    Raises:
        ValueError: `batch_size` is below 1, or the shapes do not match.
    """
    num_posts = post_embeddings.shape[0]
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if author_embeddings.shape[0] != num_posts:
        raise ValueError(
            f"author_embeddings must have {num_posts} rows, got {author_embeddings.shape}"
        )
    encode = _compiled_candidate_tower(config)
    params = jax.device_put(params)  # once, not once per batch
    encoded = np.empty((num_posts, config.emb_size), np.float32)
    for start in range(0, num_posts, batch_size):
        rows = slice(start, min(start + batch_size, num_posts))
        vectors = encode(
            params,
            _padded(post_embeddings[rows], batch_size),
            _padded(author_embeddings[rows], batch_size),
        )
        encoded[rows] = np.asarray(vectors)[: rows.stop - rows.start]
    return encoded


def _padded(rows: npt.NDArray[np.float32], length: int) -> jax.Array:
    missing = length - rows.shape[0]
    return jnp.asarray(np.pad(rows, ((0, missing), (0, 0), (0, 0))))
