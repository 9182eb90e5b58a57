"""The reference model of a corpus: a dict of posts, and what changes and eviction do to it."""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from phoenix_server.corpus.changes import Change, Posts


class Post(NamedTuple):
    """A post of the model.

    Attributes:
        author_id: Its author.
        created_at_unix_ms: Its creation time.
        labels: Its labels, in order.
        vector: The bytes of its vector.
    """

    author_id: int
    created_at_unix_ms: int
    labels: tuple[str, ...]
    vector: bytes


Model = dict[int, Post]
"""The posts of a corpus, by id."""


def described(posts: Posts) -> Model:
    """Return posts by their ids."""
    labels = iter(posts.labels.indices.tolist())
    return {
        post_id: Post(
            author_id,
            created_at,
            tuple(posts.labels.names[next(labels)] for _ in range(count)),
            vector.tobytes(),
        )
        for post_id, author_id, created_at, count, vector in zip(
            posts.post_ids.tolist(),
            posts.author_ids.tolist(),
            posts.created_at_unix_ms.tolist(),
            posts.labels.counts.tolist(),
            posts.vectors,
            strict=True,
        )
    }


def change_model(model: Model, change: Change) -> None:
    """Apply a change to a model."""
    if isinstance(change, Posts):
        model.update(described(change))
    else:
        for post_id in change.tolist():
            model.pop(post_id, None)


def unordered(model: Model) -> dict[int, tuple[int, int, frozenset[str], bytes]]:
    """Return a model whose posts have their labels in no order, as in an index."""
    return {
        post_id: (post.author_id, post.created_at_unix_ms, frozenset(post.labels), post.vector)
        for post_id, post in model.items()
    }


def evicted(times: Mapping[int, int], written: Collection[int], capacity: int) -> list[int]:
    """Return the posts that `--evict-oldest` evicts, oldest first.

    Args:
        times: The creation times of the posts that the corpus holds, by id.
        written: The posts to write.
        capacity: The capacity of the corpus.
    """
    others = sorted((time, post_id) for post_id, time in times.items() if post_id not in written)
    return [post_id for _, post_id in others[: max(0, len(others) + len(written) - capacity)]]
