"""Admission: predict the results of changes, and evict posts where room is needed."""

import numpy as np

from phoenix_server.corpus.changes import Change, ChangeResult, Ids, Posts
from phoenix_server.corpus.memory.id_map import NOWHERE
from phoenix_server.corpus.memory.index import CorpusIndex
from phoenix_server.corpus.updates.eviction import EvictionQueue
from phoenix_server.corpus.updates.label_usage import LabelUsage
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
        self._labels = set(corpus.labels.used)  # those of the posts, or more of them
        self._usage: LabelUsage | None = None  # created where these are too many
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
        self._add(change)
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
        self._evict(posts, evicted)
        if self._evictions is not None:
            self._evictions.note(posts)
        times = posts.created_at_unix_ms.tolist()
        self._pending.update(zip(posts.post_ids.tolist(), times, strict=True))
        self._rows += inserted - evicted
        self._add(posts)
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

    def _evict(self, posts: Posts, count: int) -> None:
        """Evict `count` posts before others are written, if these do not have too many labels.

        Raises:
            CorpusFullError: They have; nothing is evicted.
        """
        self._labels |= set(posts.labels.used)
        is_tight = len(self._labels) > self._corpus.max_labels
        if self._evictions is None or not count:
            if is_tight:
                self._check_labels(posts, np.zeros(0, np.uint64))
            return
        before = self._pending.copy() if is_tight else self._pending
        kept = set(posts.post_ids.tolist())
        evicted = self._evictions.take(count, self._pending, kept)
        if is_tight:
            try:
                self._check_labels(posts, evicted)
            except CorpusFullError:
                self._pending = before
                self._evictions.put_back([*evicted.tolist(), *kept], before)
                raise
        self._add(evicted)

    def _check_labels(self, posts: Posts, evicted: Ids) -> None:
        """Check that posts do not have too many labels, together with the posts that stay.

        Raises:
            CorpusFullError: They have.
        """
        if self._usage is None:
            self._usage = LabelUsage(self._corpus, self.changes)
        others = self._usage.names_without(posts.post_ids, evicted)
        labels = others.union(posts.labels.used)
        if len(labels) > (most := self._corpus.max_labels):
            self._labels = self._usage.names
            raise CorpusFullError(
                f"the corpus has {len(others)} of at most {most} labels, "
                f"{len(labels) - len(others)} more came; a larger --max-labels makes room"
            )
        self._labels = labels

    def _add(self, change: Change) -> None:
        self.changes.append(change)
        if self._usage is not None:
            self._usage.apply(change)
