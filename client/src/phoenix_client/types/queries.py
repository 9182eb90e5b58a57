"""Queries of a batch and of a search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from phoenix_client.types.columns import u32_column, u64_column
from phoenix_client.types.filters import Filter
from phoenix_client.types.users import User


@dataclass(frozen=True, kw_only=True)
class RetrieveQuery:
    """A user, and what to return.

    Attributes:
        user: The user.
        top_k: How many posts, from 1 to the server's limit (`Model.max_top_k`).
        with_author_ids: Return the posts' authors.
        with_labels: Return the posts' labels.
        with_created_at: Return when the posts were created.
        with_representation: Return the user's representation.
        min_sequence: Wait, within the time limit, until the corpus holds the change of this number.
        filter: Conditions that the posts must meet. None: all posts are eligible.

    Raises:
        ValueError: `top_k` is not an unsigned 32-bit integer, or `min_sequence` not one of 64 bits.
    """

    user: User
    top_k: int
    with_author_ids: bool = False
    with_labels: bool = False
    with_created_at: bool = False
    with_representation: bool = False
    min_sequence: int = 0
    filter: Filter | None = None

    def __post_init__(self) -> None:
        """Check that the numbers can be sent."""
        u32_column("top_k", (self.top_k,))
        u64_column("min_sequence", (self.min_sequence,))


@dataclass(frozen=True, kw_only=True)
class SearchQueries:
    """Vectors or posts to search by, and what to return for each.

    Attributes:
        vectors: The queries, unit vectors of `Model.embedding_size` floats each. None: `post_ids`.
        post_ids: Posts whose vectors are the queries. None: `vectors`.
        include_query_posts: Let a post be in its own result.
        top_k: How many posts for each, from 1 to the server's limit (`Model.max_top_k`).
        with_author_ids: Return the posts' authors.
        with_labels: Return the posts' labels.
        with_created_at: Return when the posts were created.
        with_representation: Return the queries' vectors.
        min_sequence: Wait, within the time limit, until the corpus holds the change of this number.
        filter: Conditions that the returned posts must meet. None: all posts are eligible.

    Raises:
        ValueError: Both or none of `vectors` and `post_ids` are given, `top_k` is not an unsigned
            32-bit integer, or `min_sequence` not one of 64 bits.
    """

    vectors: Iterable[Sequence[float]] | None = None
    post_ids: Iterable[int] | None = None
    include_query_posts: bool = False
    top_k: int
    with_author_ids: bool = False
    with_labels: bool = False
    with_created_at: bool = False
    with_representation: bool = False
    min_sequence: int = 0
    filter: Filter | None = None

    def __post_init__(self) -> None:
        """Check that there is one kind of queries, and that the numbers can be sent."""
        if (self.vectors is None) == (self.post_ids is None):
            raise ValueError("vectors, post_ids: give one of them")
        u32_column("top_k", (self.top_k,))
        u64_column("min_sequence", (self.min_sequence,))
