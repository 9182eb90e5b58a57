"""Cases for tests of admission and eviction: a corpus of times."""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.changes import Change, Ids, Labels, Posts
from phoenix_server.corpus.memory.id_map import NOWHERE
from phoenix_server.corpus.memory.label_bitmaps import LabelBitmaps
from phoenix_server.corpus.updates.eviction import EvictionQueue

CAPACITY = 24


class TimesOnly:
    """The times of posts, and the number of scans of all posts."""

    labels = LabelBitmaps(("a",), limit=2, rows=32)
    max_labels = 2

    def __init__(self, times: dict[int, int], capacity: int = CAPACITY) -> None:
        self.held = dict(times)
        self.capacity = capacity
        self.scans = 0

    def __len__(self) -> int:
        return len(self.held)

    def find(self, post_ids: Ids) -> npt.NDArray[np.int32]:
        rows = {post_id: row for row, post_id in enumerate(self.held)}
        return np.array([rows.get(post_id, NOWHERE) for post_id in post_ids.tolist()], np.int32)

    @property
    def created_at_unix_ms(self) -> npt.NDArray[np.int64]:
        return np.array([*self.held.values(), 0], np.int64)

    def times(self, *, without: Ids) -> tuple[Ids, npt.NDArray[np.int64]]:
        self.scans += 1
        left = {n: time for n, time in self.held.items() if n not in set(without.tolist())}
        return np.array([*left], np.uint64), np.array([*left.values()], np.int64)

    def apply(self, changes: Sequence[Change]) -> None:
        """Apply changes; none may exceed the capacity."""
        for change in changes:
            if isinstance(change, Posts):
                times = change.created_at_unix_ms.tolist()
                self.held.update(zip(change.post_ids.tolist(), times, strict=True))
            else:
                for post_id in change.tolist():
                    self.held.pop(post_id, None)
            assert len(self.held) <= self.capacity


def eviction_queue(corpus: TimesOnly, **sizes: int) -> EvictionQueue:
    """Return the posts of a corpus of times, oldest first."""
    return EvictionQueue(cast(Any, corpus), **sizes)


def posts_at(times: dict[int, int], names: tuple[str, ...] = ()) -> Posts:
    """Return posts with some times, all with the same labels."""
    n, count = len(times), len(names)
    indices = np.tile(np.arange(count, dtype=np.int32), n)
    return Posts(
        post_ids=np.array([*times], np.uint64),
        author_ids=np.ones(n, np.uint64),
        created_at_unix_ms=np.array([*times.values()], np.int64),
        labels=Labels(names, np.full(n, count, np.int32), indices),
        vectors=np.zeros((n, 1), np.float32),
    )
