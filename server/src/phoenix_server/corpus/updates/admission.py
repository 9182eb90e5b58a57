"""What changes will do to a corpus, before they are made."""

import numpy as np

from phoenix_server.corpus.changes import Change, ChangeResult, Ids, Posts
from phoenix_server.corpus.memory.id_map import NOWHERE
from phoenix_server.corpus.memory.index import CorpusIndex
from phoenix_server.corpus.updates.eviction import EvictionQueue
from phoenix_server.errors import CorpusFullError


class Admission:
    """Tells what changes will do, one after the other, before they are made.

    Where there is no room for posts, the oldest may go. Then a deletion of these comes before the
    posts, as a change with a number of its own: whoever reads the journal need not know why, nor
    how much room there was.

    Attributes:
        changes: What is to be made, in order.
    """

    def __init__(
        self, corpus: CorpusIndex, first: int, oldest: EvictionQueue | None = None
    ) -> None:
        """Begin with a corpus as it is.

        Args:
            corpus: It.
            first: The number of the first change.
            oldest: Its oldest posts, which make room for others. Default: nothing does.
        """
        self.changes: list[Change] = []
        self._corpus = corpus
        self._oldest = oldest
        self._rows = len(corpus)
        self._labels = set(corpus.labels.names)
        self._made: dict[int, int | None] = {}  # times by post, None if deleted, by the changes
        self._first = first

    def take(self, change: Change) -> ChangeResult:
        """Return what a change will do.

        Raises:
            CorpusFullError: There is no room; then it is passed over.
        """
        if isinstance(change, Posts):
            return self._take_posts(change)
        deleted = int(np.count_nonzero(self._is_there(change)))
        self._rows -= deleted
        self._made.update(dict.fromkeys(change.tolist()))
        self.changes.append(change)
        return ChangeResult(self._last, 0, 0, deleted)

    def _take_posts(self, posts: Posts) -> ChangeResult:
        replaced = int(np.count_nonzero(self._is_there(posts.post_ids)))
        inserted = len(posts) - replaced
        missing = inserted - (self._corpus.capacity - self._rows)
        if missing > 0 and (self._oldest is None or len(posts) > self._corpus.capacity):
            raise CorpusFullError(
                f"the corpus is full: it has room for {inserted - missing} more posts of "
                f"{self._corpus.capacity}, {inserted} came; a larger --capacity makes room"
            )
        self._know(posts)
        evicted = max(missing, 0)
        if evicted and self._oldest is not None:
            own = set(posts.post_ids.tolist())
            self.changes.append(self._oldest.take(evicted, self._made, own))
        if self._oldest is not None:
            self._oldest.note(posts)
        times = posts.created_at_unix_ms.tolist()
        self._made.update(zip(posts.post_ids.tolist(), times, strict=True))
        self._rows += inserted - evicted
        self.changes.append(posts)
        return ChangeResult(self._last, inserted, replaced, 0, evicted)

    @property
    def _last(self) -> int:
        return self._first + len(self.changes) - 1

    def _is_there(self, ids: Ids) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        there = self._corpus.find(ids) != NOWHERE
        if self._made:
            for place, post_id in enumerate(ids.tolist()):
                if post_id in self._made:
                    there[place] = self._made[post_id] is not None
        return there

    def _know(self, posts: Posts) -> None:
        """Take note of the labels of posts.

        Raises:
            CorpusFullError: They are too many.
        """
        labels = self._labels.union(posts.labels.names)
        if len(labels) > self._corpus.max_labels:
            raise CorpusFullError(
                f"the corpus has {len(self._labels)} of at most {self._corpus.max_labels} labels, "
                f"{len(labels) - len(self._labels)} more came; a larger --max-labels makes room"
            )
        self._labels = labels
