"""Inputs of the towers, and the input sequence of the user tower.

Glossary of shapes:
    B: users in the batch.
    S: history length, T = 1 + S: sequence positions (the user, then the history, oldest first).
    C: candidates of a user.
    D: embedding width.
    A: action types, V: product surfaces.
    Hu, Hi, Ha: embedding rows per user, post and author.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from phoenix_model.config import PhoenixRetrievalModelConfig
from phoenix_model.numerics import project


class RecsysBatch(NamedTuple):
    """Users, their histories and their candidates. Hash 0 is padding.

    The towers read only the first hash of a user and of a post, to detect padding. The others
    identify the rows of `RecsysEmbeddings`, and may be None.

    Attributes:
        user_hashes: [B, Hu] int32.
        history_post_hashes: [B, S, Hi] int32, oldest first, padding last.
        history_author_hashes: [B, S, Ha] int32.
        history_actions: [B, S, A], 1 where the user took the action, of any dtype.
        history_product_surface: [B, S] int32 in [0, V); 0 is a surface like any other.
        candidate_post_hashes: [B, C, Hi] int32.
        candidate_author_hashes: [B, C, Ha] int32.
        candidate_product_surface: [B, C] int32.
    """

    user_hashes: jax.Array
    history_post_hashes: jax.Array
    history_author_hashes: jax.Array | None
    history_actions: jax.Array
    history_product_surface: jax.Array
    candidate_post_hashes: jax.Array | None = None
    candidate_author_hashes: jax.Array | None = None
    candidate_product_surface: jax.Array | None = None


class RecsysEmbeddings(NamedTuple):
    """Embedding rows gathered for a `RecsysBatch`, float32.

    Attributes:
        user_embeddings: [B, Hu, D].
        history_post_embeddings: [B, S, Hi, D].
        candidate_post_embeddings: [B, C, Hi, D]; None if only users are encoded.
        history_author_embeddings: [B, S, Ha, D].
        candidate_author_embeddings: [B, C, Ha, D]; None if only users are encoded.
    """

    user_embeddings: jax.Array
    history_post_embeddings: jax.Array
    candidate_post_embeddings: jax.Array | None
    history_author_embeddings: jax.Array
    candidate_author_embeddings: jax.Array | None


def user_input_shapes(
    config: PhoenixRetrievalModelConfig, users: Any, history: Any
) -> dict[str, tuple[Any, ...]]:
    """Return the shapes of the user tower's inputs by field; the two sizes may be symbolic."""
    width, hashes = config.emb_size, config.hash_config
    return {
        "user_hashes": (users, hashes.num_user_hashes),
        "history_post_hashes": (users, history, hashes.num_item_hashes),
        "history_actions": (users, history, config.num_actions),
        "history_product_surface": (users, history),
        "user_embeddings": (users, hashes.num_user_hashes, width),
        "history_post_embeddings": (users, history, hashes.num_item_hashes, width),
        "history_author_embeddings": (users, history, hashes.num_author_hashes, width),
    }


def check_user_inputs(
    config: PhoenixRetrievalModelConfig, batch: RecsysBatch, embeddings: RecsysEmbeddings
) -> None:
    """Check the shapes of the user tower's inputs; B and S may be symbolic.

    Raises:
        ValueError: A shape differs; names the field, the expected and the actual shape.
    """
    users, history = batch.history_post_hashes.shape[:2]
    for field, shape in user_input_shapes(config, users, history).items():
        found = getattr(batch if hasattr(batch, field) else embeddings, field).shape
        if found != shape:
            raise ValueError(f"{field} must be {shape}, got {found}")


def embed_product_surface(surface: jax.Array, table: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Look surfaces up in their table.

    Args:
        surface: [B, S] int32. A value outside [0, V) has the zero vector.
        table: [V, D].
        dtype: Dtype of the result.

    Returns:
        [B, S, D].
    """
    one_hot = jax.nn.one_hot(surface, table.shape[0], dtype=jnp.float32)  # [B, S, V]
    return project(one_hot, table).astype(dtype)


def embed_actions(actions: jax.Array, projection: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Project multi-hot actions, as +1 for taken and -1 for not taken.

    Args:
        actions: [B, S, A] of any dtype.
        projection: [A, D].
        dtype: Dtype of the result.

    Returns:
        [B, S, D]; the zero vector if no action was taken.
    """
    multi_hot = actions.astype(jnp.float32)  # first, because 2a-1 wraps in an unsigned dtype
    projected = project(2 * multi_hot - 1, projection)
    taken = jnp.any(multi_hot != 0, axis=-1, keepdims=True)  # [B, S, 1]
    return jnp.where(taken, projected, 0).astype(dtype)


def combine_user(
    user_hashes: jax.Array, user_embeddings: jax.Array, proj_mat_1: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Project a user's embedding rows to the first position of the sequence.

    Args:
        user_hashes: [B, Hu] int32.
        user_embeddings: [B, Hu, D].
        proj_mat_1: [Hu*D, D].

    Returns:
        The position [B, 1, D] in the embeddings' dtype and its mask [B, 1], False for user id 0.
    """
    users, num_hashes, width = user_embeddings.shape
    flat = user_embeddings.reshape(users, num_hashes * width)
    combined = project(flat, proj_mat_1).astype(user_embeddings.dtype)
    return combined[:, None, :], user_hashes[:, :1] != 0


def combine_history(
    history_post_hashes: jax.Array,
    history_post_embeddings: jax.Array,
    history_author_embeddings: jax.Array,
    action_embeddings: jax.Array,
    surface_embeddings: jax.Array,
    proj_mat_3: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Project each engagement to one position of the sequence.

    Args:
        history_post_hashes: [B, S, Hi] int32.
        history_post_embeddings: [B, S, Hi, D].
        history_author_embeddings: [B, S, Ha, D].
        action_embeddings: [B, S, D].
        surface_embeddings: [B, S, D].
        proj_mat_3: [(Hi+Ha+2)*D, D], rows in the order post, author, actions, surface.

    Returns:
        The positions [B, S, D] in the post embeddings' dtype and their mask [B, S].
    """
    width = history_post_embeddings.shape[-1]
    parts = [
        *(history_post_embeddings[:, :, i] for i in range(history_post_embeddings.shape[2])),
        *(history_author_embeddings[:, :, i] for i in range(history_author_embeddings.shape[2])),
        action_embeddings,
        surface_embeddings,
    ]
    # One product for each part: to write them side by side takes longer than to add.
    products = [
        project(part, proj_mat_3[i * width : (i + 1) * width]) for i, part in enumerate(parts)
    ]
    combined = sum(products[1:], products[0]).astype(history_post_embeddings.dtype)
    return combined, history_post_hashes[:, :, 0] != 0
