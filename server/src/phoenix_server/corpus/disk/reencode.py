"""Vectors anew, where they are of other towers.

What a corpus holds of a post are its ids, its time and its labels; the vector follows from the ids
and a candidate tower. Snapshots and changes say whose vectors they have.
"""

from dataclasses import replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.changes import Change, History, Ids, Posts
from phoenix_server.corpus.disk.snapshot import ArrowPosts


class Encoder(Protocol):
    """A candidate tower; an `Engine`, for one."""

    @property
    def tower(self) -> str:
        """Its fingerprint."""
        ...

    def encode_posts(self, post_ids: Ids, author_ids: Ids) -> npt.NDArray[np.float32]:
        """Return the unit vectors of posts, [n, D]."""
        ...


def reencode(change: Change, encoder: Encoder) -> Change:
    """Return a change with an encoder's vectors."""
    if not isinstance(change, Posts) or change.tower == encoder.tower:
        return change
    if not change.tower:
        return replace(change, tower=encoder.tower)
    vectors = encoder.encode_posts(change.post_ids, change.author_ids)
    return replace(change, vectors=vectors, tower=encoder.tower)


def reencode_history(history: History, encoder: Encoder) -> History:
    """Return changes with an encoder's vectors."""
    writes = [reencode(posts, encoder) for posts in history.writes]
    return history._replace(writes=writes)


def reencode_batch(posts: ArrowPosts, encoder: Encoder) -> ArrowPosts:
    """Return posts with an encoder's vectors."""
    return posts._replace(vectors=encoder.encode_posts(posts.post_ids, posts.author_ids))
