"""Queries of a batch."""

from __future__ import annotations

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
