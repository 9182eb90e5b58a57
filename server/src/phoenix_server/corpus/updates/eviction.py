"""Which posts of a corpus are the oldest, while others are written and deleted.

The oldest have the smallest times, unknown ones (0) first; of equal times, the smallest ids.

Only the oldest sixteenth of the posts is kept in order, as it was at some moment; it is found anew
when it is used up, so that a change does not look at all posts. Most of it waits in sorted arrays,
the first few thousand in a heap, where posts that are written later and are as old go as well.
What is taken from the heap counts only if the post is still there, with that time.

Shapes:
    n  posts of a call
"""

from collections.abc import MutableMapping, Set
from heapq import heapify, heappop, heappush
from typing import Protocol

import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.changes import Ids, Posts
from phoenix_server.corpus.memory.bitmaps import Rows
from phoenix_server.corpus.memory.id_map import NOWHERE

Times = npt.NDArray[np.int64]
Pending = MutableMapping[int, int | None]
"""The times of posts, by id, as changes that are not applied yet will leave them; None: deleted."""

_LEAST = 1 << 12  # posts that are kept in order
_FRACTION = 16  # of the capacity
_AT_ONCE = 1 << 12  # posts that go into the heap
_Key = tuple[int, int]  # time and id


class Corpus(Protocol):
    """What is asked about posts; a `CorpusIndex`."""

    capacity: int

    @property
    def created_at_unix_ms(self) -> Times:
        """The creation times of the posts, by row."""
        ...

    def find(self, post_ids: Ids) -> Rows:
        """Return the rows of posts, [n], `NOWHERE` for those that are not there."""
        ...

    def times(self, *, without: Ids) -> tuple[Ids, Times]:
        """Return the ids and times of all posts but some."""
        ...


class EvictionQueue:
    """The oldest posts of a corpus, from which they are taken. One thread at a time.

    It must be told of all that is written, and be thrown away when a change that it was told of is
    not made.
    """

    def __init__(self, corpus: Corpus, *, most: int | None = None, at_once: int = _AT_ONCE) -> None:
        """Begin with a corpus; it is looked at when posts are to be taken.

        Args:
            corpus: It, as it is whenever this is used.
            most: How many posts to keep in order. Default: a sixteenth, or a few thousand.
            at_once: How many of them to bring into the heap.
        """
        self._corpus = corpus
        self._most = most or max(_LEAST, corpus.capacity // _FRACTION)
        self._at_once = at_once
        self._clear()

    def note(self, posts: Posts) -> None:
        """Take note of posts that are written."""
        if self._last is None:  # the next look at all posts finds them
            return
        time, post_id = self._last
        ids, times = posts.post_ids, posts.created_at_unix_ms
        old = (times < time) | ((times == time) & (ids <= post_id))
        for key in zip(times[old].tolist(), ids[old].tolist(), strict=True):
            heappush(self._heap, key)
        if len(self._heap) > self._most + self._at_once:  # most of it no longer counts
            self._clear()

    def take(self, count: int, pending: Pending, but: Set[int]) -> Ids:
        """Take the oldest posts out.

        Args:
            count: n; there must be as many.
            pending: What changes so far will have made of posts; what is taken is put down in it
                as deleted.
            but: Posts that are left, and written afterwards; `note` must be told of them.

        Returns:
            Their ids, [n].
        """
        taken: list[int] = []
        while len(taken) < count:
            keys = self._next(count - len(taken), pending, but)
            now = self._times([post_id for _, post_id in keys])
            for (time, post_id), applied in zip(keys, now, strict=True):
                if pending.get(post_id, applied) == time and post_id not in but:
                    pending[post_id] = None
                    taken.append(post_id)
        return np.array(taken, np.uint64)

    def _next(self, count: int, pending: Pending, but: Set[int]) -> list[_Key]:
        """Return at most `count` keys of the oldest, in order, and at least one."""
        keys: list[_Key] = []
        while len(keys) < count:
            if len(self._ids) and (not self._heap or self._heap[0] > self._front):
                self._load()
            elif self._heap:
                keys.append(heappop(self._heap))
            elif keys:
                break
            else:
                self._find(pending, but)
        return keys

    def _load(self) -> None:
        """Bring the next posts of the arrays into the heap."""
        ids, times = self._ids[: self._at_once], self._sorted_times[: self._at_once]
        self._ids = self._ids[self._at_once :]
        self._sorted_times = self._sorted_times[self._at_once :]
        self._heap.extend(zip(times.tolist(), ids.tolist(), strict=True))
        heapify(self._heap)
        self._front = int(times[-1]), int(ids[-1])

    def _find(self, pending: Pending, but: Set[int]) -> None:
        """Find the oldest posts among all."""
        changed = np.array([*pending, *but], np.uint64)
        ids, times = self._corpus.times(without=changed)
        new = [
            (post_id, time)
            for post_id, time in pending.items()
            if time is not None and post_id not in but
        ]
        ids = np.concatenate([ids, np.array([post_id for post_id, _ in new], np.uint64)])
        times = np.concatenate([times, np.array([time for _, time in new], np.int64)])
        self._ids, self._sorted_times = _oldest(ids, times, self._most)
        if not len(self._ids):
            raise ValueError("there are not as many posts as are to be taken")
        self._last = int(self._sorted_times[-1]), int(self._ids[-1])

    def _times(self, post_ids: list[int]) -> list[int | None]:
        """Return the times of [n] posts as they are in the corpus; None for those not there."""
        rows = self._corpus.find(np.array(post_ids, np.uint64))
        times = self._corpus.created_at_unix_ms[rows]
        return [
            None if row == NOWHERE else time
            for row, time in zip(rows.tolist(), times.tolist(), strict=True)
        ]

    def _clear(self) -> None:
        self._ids, self._sorted_times = np.zeros(0, np.uint64), np.zeros(0, np.int64)
        self._heap: list[_Key] = []
        self._front: _Key = (-1, 0)  # the last of the arrays that went into the heap
        self._last: _Key | None = None  # the last of the arrays


def _oldest(ids: Ids, times: Times, most: int) -> tuple[Ids, Times]:
    """Return ids and times of the oldest of [n] posts, in order."""
    if len(ids) > most:
        limit = np.partition(times, most - 1)[most - 1]
        before = np.flatnonzero(times < limit)
        equal = np.flatnonzero(times == limit)
        missing = most - len(before)
        equal = equal[np.argpartition(ids[equal], missing - 1)[:missing]]
        chosen = np.concatenate([before, equal])
        ids, times = ids[chosen], times[chosen]
    order = np.lexsort((ids, times))
    return ids[order], times[order]
