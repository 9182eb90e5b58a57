"""Admission: predict the results of changes, and evict posts where room is needed."""

import numpy as np

from phoenix_server.corpus.changes import Change, ChangeResult, Ids, Posts
from phoenix_server.corpus.memory.id_map import NOWHERE
from phoenix_server.corpus.memory.index import CorpusIndex
from phoenix_server.corpus.updates.eviction import EvictionQueue
from phoenix_server.errors import CorpusFullError
from phoenix_server.runtime.arrays import Bools


class Admission:
    """Admits a group of changes, one after the other, before they are applied.

    Where there is no room for posts, the oldest may be evicted: a deletion, as a change of its own,
    precedes the write. Replay of the journal therefore needs neither the reason nor the capacity.

    Attributes:
        changes: The admitted changes and evictions, in order.
    """

    def __init__(
        self, corpus: CorpusIndex, first: int, evictions: EvictionQueue | None = None
    ) -> None:
        """Start a group.

        Args:
            corpus: The corpus before the changes.
            first: The number of the first change.
            evictions: The posts to evict when there is no room. Default: evict none.
        """
        self.changes: list[Change] = []
        self._corpus = corpus
        self._evictions = evictions
        self._rows = len(corpus)
        self._labels = set(corpus.labels.names)
        self._pending: dict[int, int | None] = {}  # creation times by post, None where deleted
        self._first = first

    def take(self, change: Change) -> ChangeResult:
        """Admit a change, and return its result.

        Raises:
            CorpusFullError: There is no room; the change is not admitted.
        """
        if isinstance(change, Posts):
            return self._take_posts(change)
        deleted = int(np.count_nonzero(self._is_held(change)))
        self._rows -= deleted
        self._pending.update(dict.fromkeys(change.tolist()))
        self.changes.append(change)
        return ChangeResult(self._last, 0, 0, deleted)

    def _take_posts(self, posts: Posts) -> ChangeResult:
        replaced = int(np.count_nonzero(self._is_held(posts.post_ids)))
        inserted = len(posts) - replaced
        capacity = self._corpus.capacity
        evicted = max(inserted - (capacity - self._rows), 0)
        if evicted and (self._evictions is None or len(posts) > capacity):
            raise CorpusFullError(
                f"the corpus is full: it has room for {inserted - evicted} more posts of "
                f"{capacity}, {inserted} came; a larger --capacity makes room"
            )
        self._add_labels(posts)
        if self._evictions is not None:
            if evicted:
                kept = set(posts.post_ids.tolist())
                self.changes.append(self._evictions.take(evicted, self._pending, kept))
            self._evictions.note(posts)
        times = posts.created_at_unix_ms.tolist()
        self._pending.update(zip(posts.post_ids.tolist(), times, strict=True))
        self._rows += inserted - evicted
        self.changes.append(posts)
        return ChangeResult(self._last, inserted, replaced, 0, evicted)

    @property
    def _last(self) -> int:
        return self._first + len(self.changes) - 1

    def _is_held(self, ids: Ids) -> Bools:
        """Return which of [n] posts the corpus holds after the admitted changes."""
        held = self._corpus.find(ids) != NOWHERE
        if self._pending:
            for place, post_id in enumerate(ids.tolist()):
                if post_id in self._pending:
                    held[place] = self._pending[post_id] is not None
        return held

    def _add_labels(self, posts: Posts) -> None:
        """Add the labels of posts to those of the corpus.

        Raises:
            CorpusFullError: There would be too many.
        """
        labels = self._labels.union(posts.labels.names)
        if len(labels) > self._corpus.max_labels:
            raise CorpusFullError(
                f"the corpus has {len(self._labels)} of at most {self._corpus.max_labels} labels, "
                f"{len(labels) - len(self._labels)} more came; a larger --max-labels makes room"
            )
        self._labels = labels
