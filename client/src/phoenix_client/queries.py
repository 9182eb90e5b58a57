"""What to retrieve: one query of a batch."""

from __future__ import annotations

from dataclasses import dataclass

from phoenix_client.columns import u32_column
from phoenix_client.users import User


@dataclass(frozen=True, kw_only=True)
class RetrieveQuery:
    """One user, and what to return for them.

    Attributes:
        user: The user.
        top_k: How many posts, from 1 to the server's limit (`Model.max_top_k`).
        with_author_ids: Return the posts' authors.
        with_labels: Return the posts' labels.
        with_created_at: Return when the posts were created.
        with_representation: Return the user's representation.

    Raises:
        ValueError: `top_k` is no unsigned 32-bit integer.
    """

    user: User
    top_k: int
    with_author_ids: bool = False
    with_labels: bool = False
    with_created_at: bool = False
    with_representation: bool = False

    def __post_init__(self) -> None:
        """Check what could not be sent."""
        u32_column("top_k", (self.top_k,))
