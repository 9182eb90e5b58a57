"""What the server answers about the corpus and its changes, as immutable values.

Changes are numbered, from 1, in the order in which they take effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from phoenix_client.types.posts import Posts


@dataclass(frozen=True)
class Upserted:
    """What came of writing posts.

    Attributes:
        sequence: Number of the change; of a stream, of its last change, or 0 if it had none.
        inserted: How many of the posts were new.
        replaced: How many took the place of others with the same ids.
        evicted: How many posts, the oldest, were deleted to make room.
    """

    sequence: int
    inserted: int
    replaced: int
    evicted: int = 0


@dataclass(frozen=True)
class Deleted:
    """What came of deleting posts.

    Attributes:
        sequence: Number of the change.
        deleted: How many posts were deleted; the corpus did not hold the others.
    """

    sequence: int
    deleted: int


@dataclass(frozen=True)
class FoundPosts:
    """What the corpus holds of posts.

    Attributes:
        sequence: Number of the last change that was seen; no later one was.
        posts: The posts that were found, in the order of the request.
        missing_post_ids: The ids that the corpus does not hold.
    """

    sequence: int
    posts: Posts
    missing_post_ids: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CorpusState:
    """The corpus as it is now.

    Attributes:
        rows: Posts that it holds.
        capacity: Most posts that it may hold.
        label_names: Labels that any post has had, sorted.
        max_labels: Most labels that there may be.
        sequence: Number of the last change; 0 if the corpus is as it was built.
        snapshot_sequence: Number of the last change in the snapshot that a restart begins with.
        journal_posts: Posts written and deleted by the changes after that one.
        newest_created_at: When the newest post was created, in UTC; None if no post has a time.
        read_only: Whether changes are refused.
        evict_oldest: Whether posts for which there is no room take that of the oldest.
    """

    rows: int
    capacity: int
    label_names: tuple[str, ...]
    max_labels: int
    sequence: int
    snapshot_sequence: int
    journal_posts: int
    newest_created_at: datetime | None
    read_only: bool
    evict_oldest: bool


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A whole corpus on the server's disk, with which a restart can begin.

    Attributes:
        sequence: Number of the last change that it holds; 0 for the corpus as it was built.
        rows: Posts that it holds.
        size_bytes: Size of its files.
        created_at: When it was written, in UTC.
        directory: Its directory, in the corpus's; empty for the corpus as it was built.
    """

    sequence: int
    rows: int
    size_bytes: int
    created_at: datetime
    directory: str
