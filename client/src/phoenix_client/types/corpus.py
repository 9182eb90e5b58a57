"""Immutable results of calls about the corpus and its changes.

Changes are numbered from 1, in the order in which they take effect.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from phoenix_client.types.posts import Posts


@dataclass(frozen=True)
class UpsertResult:
    """Result of writing posts.

    Attributes:
        sequence: Number of the change; of a stream, of its last change, or 0 if it had none.
        inserted: Number of posts that were new.
        replaced: Number of posts that replaced others with the same ids.
        evicted: Number of posts, the oldest, that were deleted to make room.
    """

    sequence: int
    inserted: int
    replaced: int
    evicted: int = 0


@dataclass(frozen=True)
class DeleteResult:
    """Result of deleting posts.

    Attributes:
        sequence: Number of the change.
        deleted: Number of posts that were deleted; the corpus did not hold the others.
    """

    sequence: int
    deleted: int


@dataclass(frozen=True)
class FoundPosts:
    """Result of looking up posts.

    Attributes:
        sequence: Number of the last change that the lookup includes.
        posts: The posts that were found, in the order of the request.
        missing_post_ids: The ids that the corpus does not hold.
    """

    sequence: int
    posts: Posts
    missing_post_ids: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CorpusState:
    """The current state of the corpus.

    Attributes:
        rows: Number of posts.
        capacity: Largest number of posts.
        label_names: Labels that a filter may name, sorted. Labels of which no post is left are
            among them until new ones take their places.
        max_labels: Largest number of distinct labels.
        sequence: Number of the last change; 0 if the corpus is as it was built.
        snapshot_sequence: Number of the last change in the snapshot from which a restart begins.
        journal_posts: Posts written and deleted by the changes after that one.
        newest_created_at: When the newest post was created, in UTC; None if no post has a time.
        read_only: Whether changes are rejected.
        evict_oldest: Whether a full corpus evicts its oldest posts to make room for new ones.
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
    """A whole corpus on the server's disk, from which a restart can begin.

    Attributes:
        sequence: Number of the last change that it includes; 0 for the corpus as it was built.
        rows: Number of posts.
        size_bytes: Size of its files.
        created_at: When it was written, in UTC.
        directory: Its directory, relative to the corpus's; empty for the corpus as it was built.
    """

    sequence: int
    rows: int
    size_bytes: int
    created_at: datetime
    directory: str
