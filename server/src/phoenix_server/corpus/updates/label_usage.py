"""How many labels the posts of a corpus have after changes that are not applied yet.

Admission needs it only where new labels exceed the maximum. It costs a few microseconds for each
post of the changes, and never a scan of the corpus.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from phoenix_server.corpus.changes import Change, Ids, Labels, Posts
from phoenix_server.corpus.memory.id_map import NOWHERE
from phoenix_server.corpus.memory.index import CorpusIndex


class LabelUsage:
    """The number of posts that have each label, after changes."""

    def __init__(self, corpus: CorpusIndex, changes: Sequence[Change]) -> None:
        """Count the labels.

        Args:
            corpus: The corpus before the changes; it must not change meanwhile.
            changes: The changes, in order.
        """
        self._corpus = corpus
        self._counts = _count_by_name(corpus.labels.names, corpus.labels.counts.tolist())
        self._changed: dict[int, set[str]] = {}  # the labels of posts after the changes
        for change in changes:
            self.apply(change)

    @property
    def names(self) -> set[str]:
        """The labels that some post has."""
        return set(self._counts)

    def apply(self, change: Change) -> None:
        """Add a change."""
        if isinstance(change, Posts):
            ids, labels = change.post_ids.tolist(), _by_post(change.labels)
        else:
            ids = change.tolist()
            labels = [set[str]() for _ in ids]
        self._counts -= self._count(ids)
        self._counts.update(name for names in labels for name in names)
        self._changed.update(zip(ids, labels, strict=True))

    def names_without(self, *post_ids: Ids) -> set[str]:
        """Return the labels that some post has besides some posts, which are distinct."""
        return set(self._counts - self._count(np.concatenate(post_ids).tolist()))

    def _count(self, ids: Sequence[int]) -> Counter[str]:
        """Count the labels of some posts; those that the corpus does not hold have none."""
        counts = Counter[str]()
        for post_id in ids:
            counts.update(self._changed.get(post_id, ()))
        unchanged = [post_id for post_id in ids if post_id not in self._changed]
        rows = self._corpus.find(np.array(unchanged, np.uint64))
        labels = self._corpus.labels.at(rows[rows != NOWHERE])
        return counts + _count_by_name(labels.names, np.bincount(labels.indices).tolist())


def _count_by_name(names: Sequence[str], counts: Iterable[int]) -> Counter[str]:
    return +Counter(dict(zip(names, counts, strict=True)))


def _by_post(labels: Labels) -> list[set[str]]:
    """Return the labels of each post."""
    names = iter([labels.names[index] for index in labels.indices.tolist()])
    return [{next(names) for _ in range(count)} for count in labels.counts.tolist()]
