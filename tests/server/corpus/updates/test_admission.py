"""What changes will do, judged beside a plain model: who has to go, and how it is found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_server.corpus.changes import Change, ChangeResult, Ids, Labels, Posts
from phoenix_server.corpus.memory.id_map import NOWHERE
from phoenix_server.corpus.memory.label_bitmaps import LabelBitmaps
from phoenix_server.corpus.updates.admission import Admission
from phoenix_server.corpus.updates.eviction import EvictionQueue
from phoenix_server.errors import CorpusFullError
from server.corpus.change_cases import id_array

_CAPACITY = 24
_LARGEST = 2**64 - 1


class _Corpus:
    """The times of posts, and how often all of them were looked at."""

    labels = LabelBitmaps(("a",), limit=2, rows=0)
    max_labels = 2

    def __init__(self, times: dict[int, int], capacity: int = _CAPACITY) -> None:
        self.held = dict(times)
        self.capacity = capacity
        self.looks = 0

    def __len__(self) -> int:
        return len(self.held)

    def find(self, post_ids: Ids) -> npt.NDArray[np.int32]:
        rows = {post_id: row for row, post_id in enumerate(self.held)}
        return np.array([rows.get(post_id, NOWHERE) for post_id in post_ids.tolist()], np.int32)

    @property
    def created_at_unix_ms(self) -> npt.NDArray[np.int64]:
        return np.array([*self.held.values(), 0], np.int64)

    def times(self, *, without: Ids) -> tuple[Ids, npt.NDArray[np.int64]]:
        self.looks += 1
        left = {n: time for n, time in self.held.items() if n not in set(without.tolist())}
        return np.array([*left], np.uint64), np.array([*left.values()], np.int64)

    def make(self, changes: Sequence[Change]) -> None:
        """Make changes; each leaves no more posts than there is room for."""
        for change in changes:
            if isinstance(change, Posts):
                times = change.created_at_unix_ms.tolist()
                self.held.update(zip(change.post_ids.tolist(), times, strict=True))
            else:
                for post_id in change.tolist():
                    self.held.pop(post_id, None)
            assert len(self.held) <= self.capacity


def _posts(times: dict[int, int], names: tuple[str, ...] = ()) -> Posts:
    n = len(times)
    return Posts(
        post_ids=np.array([*times], np.uint64),
        author_ids=np.ones(n, np.uint64),
        created_at_unix_ms=np.array([*times.values()], np.int64),
        labels=Labels(names, np.zeros(n, np.int32), np.zeros(0, np.int32)),
        vectors=np.zeros((n, 1), np.float32),
    )


def _evicted(held: dict[int, int], posts: dict[int, int], capacity: int) -> list[int]:
    """Return who has to go, by what `--evict-oldest` promises."""
    others = sorted((time, n) for n, time in held.items() if n not in posts)
    return [n for _, n in others[: max(0, len(others) + len(posts) - capacity)]]


_ids = st.one_of(st.integers(1, 40), st.integers(_LARGEST - 5, _LARGEST))
_times = st.integers(0, 6)  # so that many are equal, and some unknown
_writes = st.dictionaries(_ids, _times, min_size=1, max_size=_CAPACITY + 2)
_changes = st.one_of(_writes, _writes, _writes, st.lists(_ids, min_size=1, max_size=9, unique=True))
_groups = st.lists(
    st.tuples(st.lists(_changes, min_size=1, max_size=5), st.integers(0, 4)), max_size=12
)


@settings(max_examples=300, deadline=None)
@given(
    first=st.dictionaries(_ids, _times, max_size=_CAPACITY),
    groups=_groups,
    most=st.integers(1, 30),
    at_once=st.integers(1, 8),
)
def test_the_oldest_go_and_no_others(
    first: dict[int, int],
    groups: list[tuple[list[dict[int, int] | list[int]], int]],
    most: int,
    at_once: int,
) -> None:
    corpus, model = _Corpus(first), dict(first)
    oldest, last = EvictionQueue(corpus, sorted_posts=most, heap_chunk=at_once), 0
    for group, luck in groups:
        admission = Admission(corpus, last + 1, oldest)  # pyright: ignore[reportArgumentType]
        before, first_number = dict(model), last
        for change in group:
            if isinstance(change, list):
                known = len({*change} & {*model})
                last += 1
                assert admission.take(id_array(*change)) == ChangeResult(last, 0, 0, known)
                for n in change:
                    model.pop(n, None)
                continue
            if len(change) > _CAPACITY:
                with pytest.raises(CorpusFullError, match=f"posts of {_CAPACITY}, "):
                    admission.take(_posts(change))
                continue
            gone, known = _evicted(model, change, _CAPACITY), len({*change} & {*model})
            last += 1 + bool(gone)
            done = admission.take(_posts(change))
            assert done == ChangeResult(last, len(change) - known, known, 0, len(gone))
            if gone:
                deletion = admission.changes[-2]
                assert not isinstance(deletion, Posts)
                assert deletion.tolist() == gone
            for n in gone:
                del model[n]
            model.update(change)
        assert len(admission.changes) == last - first_number
        if luck:
            corpus.make(admission.changes)
        else:  # the disk refuses: nothing is made, and what was found is thrown away
            model, last = before, first_number
            oldest = EvictionQueue(corpus, sorted_posts=most, heap_chunk=at_once)
        assert corpus.held == model


def test_all_posts_are_looked_at_only_now_and_then() -> None:
    rows, batch, most = 2000, 10, 200
    corpus = _Corpus({n: n // 3 for n in range(1, rows + 1)}, capacity=rows)
    oldest, last = EvictionQueue(corpus, sorted_posts=most, heap_chunk=16), 0
    for n in range(rows, 3 * rows, batch):
        admission = Admission(corpus, last + 1, oldest)  # pyright: ignore[reportArgumentType]
        posts = {n + i + 1: (n + i + 1) // 3 for i in range(batch)}
        last = admission.take(_posts(posts)).sequence
        corpus.make(admission.changes)
    assert sorted(corpus.held) == list(range(2 * rows + 1, 3 * rows + 1))
    assert corpus.looks == 2 * rows // most


def test_posts_that_are_older_than_what_was_found_are_the_next_to_go() -> None:
    corpus = _Corpus({n: 5 for n in range(100, 120)}, capacity=20)
    oldest, last = EvictionQueue(corpus, sorted_posts=4, heap_chunk=2), 0
    for n in range(99, 9, -1):  # each is the next to go, once it is there
        admission = Admission(corpus, last + 1, oldest)  # pyright: ignore[reportArgumentType]
        last = admission.take(_posts({n: 5})).sequence
        assert not isinstance(admission.changes[0], Posts)
        assert admission.changes[0].tolist() == [100 if n == 99 else n + 1]
        corpus.make(admission.changes)
    for _ in range(50):  # the same again and again: what no longer counts does not pile up
        admission = Admission(corpus, last + 1, oldest)  # pyright: ignore[reportArgumentType]
        last = admission.take(_posts({10: 5})).sequence
        corpus.make(admission.changes)
    assert corpus.looks < 50
    admission = Admission(corpus, last + 1, oldest)  # pyright: ignore[reportArgumentType]
    admission.take(_posts({200: 9}))
    assert [change.tolist() for change in admission.changes if not isinstance(change, Posts)] == [
        [10]
    ]


def test_too_many_labels_evict_nobody() -> None:
    corpus = _Corpus({n: n for n in range(1, _CAPACITY + 1)})
    admission = Admission(corpus, 1, EvictionQueue(corpus))  # pyright: ignore[reportArgumentType]
    with pytest.raises(CorpusFullError, match="1 of at most 2 labels, 2 more came"):
        admission.take(_posts({99: 1}, ("b", "c")))
    assert admission.changes == []
    assert admission.take(_posts({99: 1}, ("b",))) == ChangeResult(2, 1, 0, 0, 1)
