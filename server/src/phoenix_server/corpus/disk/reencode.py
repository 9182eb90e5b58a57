"""Re-encode vectors that other towers made.

A corpus holds ids, time and labels of a post; its vector follows from the ids and a candidate
tower. Snapshots and changes record the fingerprint of the towers that made their vectors.
"""

from dataclasses import replace
from typing import Protocol

from phoenix_server.corpus.changes import Change, History, Ids, Posts
from phoenix_server.runtime.arrays import F32


class Encoder(Protocol):
    """A candidate tower, for example an `Engine`."""

    @property
    def tower(self) -> str:
        """The fingerprint of the towers."""
        ...

    def encode_posts(self, post_ids: Ids, author_ids: Ids) -> F32:
        """Return the unit vectors of posts, [n, D]."""
        ...


def reencode(change: Change, encoder: Encoder) -> Change:
    """Return a change with the encoder's vectors; vectors of unknown towers count as its own."""
    if isinstance(change, Posts) and change.tower != encoder.tower:
        vectors = change.vectors
        if change.tower:
            vectors = encoder.encode_posts(change.post_ids, change.author_ids)
        return replace(change, vectors=vectors, tower=encoder.tower)
    return change


def reencode_history(history: History, encoder: Encoder) -> History:
    """Return a history with the encoder's vectors."""
    return history._replace(writes=[reencode(posts, encoder) for posts in history.writes])
