"""What changes will do to a corpus, before they are made."""

import numpy as np

from phoenix_server.corpus.changes import Change, Ids, Posts
from phoenix_server.corpus.ids import NOWHERE
from phoenix_server.corpus.index import CorpusIndex
from phoenix_server.corpus.waiting import Done
from phoenix_server.errors import CorpusFullError


class Judge:
    """Tells what changes will do, one after the other, before they are made."""

    def __init__(self, corpus: CorpusIndex, first: int) -> None:
        self._corpus = corpus
        self._rows = len(corpus)
        self._labels = set(corpus.label_names)
        self._there: dict[int, bool] = {}  # by post; what the changes so far have made of it
        self._next = first

    def take(self, change: Change) -> Done:
        """Return what a change will do.

        Raises:
            CorpusFullError: There is no room; then it is passed over.
        """
        ids = change.post_ids if isinstance(change, Posts) else change
        there = self._is_there(ids)
        known = int(np.count_nonzero(there))
        done = Done(self._next, 0, 0, known)
        if isinstance(change, Posts):
            done = Done(self._next, len(ids) - known, known, 0)
            self._make_room(change, done.inserted)
        self._rows += done.inserted - done.deleted
        self._there.update(dict.fromkeys(ids.tolist(), isinstance(change, Posts)))
        self._next += 1
        return done

    def _is_there(self, ids: Ids) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        there = self._corpus.find(ids) != NOWHERE
        if self._there:
            for place, post_id in enumerate(ids.tolist()):
                there[place] = self._there.get(post_id, bool(there[place]))
        return there

    def _make_room(self, posts: Posts, inserted: int) -> None:
        free = self._corpus.capacity - self._rows
        if inserted > free:
            raise CorpusFullError(
                f"the corpus is full: it has room for {free} more posts of {self._corpus.capacity},"
                f" {inserted} came; a larger --capacity makes room"
            )
        labels = self._labels.union(posts.labels.names)
        if len(labels) > self._corpus.max_labels:
            raise CorpusFullError(
                f"the corpus has {len(self._labels)} of at most {self._corpus.max_labels} labels, "
                f"{len(labels) - len(self._labels)} more came; a larger --max-labels makes room"
            )
        self._labels = labels
