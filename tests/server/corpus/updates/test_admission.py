from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_server.corpus.changes import ChangeResult, Posts
from phoenix_server.corpus.updates.admission import Admission
from phoenix_server.errors import CorpusFullError
from server.corpus.change_cases import id_array
from server.corpus.reference import Model
from server.corpus.updates.cases import CAPACITY, TimesOnly, eviction_queue, posts_at

_LARGEST = 2**64 - 1

_ids = st.one_of(st.integers(1, 40), st.integers(_LARGEST - 5, _LARGEST))
_times = st.integers(0, 6)  # so that many are equal, and some unknown
_writes = st.dictionaries(_ids, _times, min_size=1, max_size=CAPACITY + 2)
_changes = st.one_of(_writes, _writes, _writes, st.lists(_ids, min_size=1, max_size=9, unique=True))
_groups = st.lists(
    st.tuples(st.lists(_changes, min_size=1, max_size=5), st.integers(0, 4)), max_size=12
)


@settings(max_examples=300)
@given(
    first=st.dictionaries(_ids, _times, max_size=CAPACITY),
    groups=_groups,
    most=st.integers(1, 30),
    at_once=st.integers(1, 8),
)
def test_the_oldest_posts_are_evicted_and_no_others(
    first: dict[int, int],
    groups: list[tuple[list[dict[int, int] | list[int]], int]],
    most: int,
    at_once: int,
) -> None:
    corpus, model = TimesOnly(first), Model.of(posts_at(first))
    oldest = eviction_queue(corpus, sorted_posts=most, heap_chunk=at_once)
    for group, luck in groups:
        admission = Admission(
            corpus,  # pyright: ignore[reportArgumentType]
            model.sequence + 1,
            oldest,
        )
        before = model.copy()
        for change in group:
            known = len({*change} & {*model})
            if isinstance(change, list):
                deleted = id_array(*change)
                model.apply(deleted)
                assert admission.take(deleted) == ChangeResult(model.sequence, 0, 0, known)
                continue
            posts = posts_at(change)
            if len(change) > CAPACITY:
                with pytest.raises(CorpusFullError, match=f"posts of {CAPACITY}, "):
                    admission.take(posts)
                continue
            gone = model.evict(posts.post_ids, CAPACITY)
            model.apply(posts)
            done = admission.take(posts)
            assert done == ChangeResult(model.sequence, len(change) - known, known, 0, len(gone))
            if gone:
                deletion = admission.changes[-2]
                assert not isinstance(deletion, Posts)
                assert deletion.tolist() == gone
        assert len(admission.changes) == model.sequence - before.sequence
        if luck:
            corpus.apply(admission.changes)
        else:  # writing fails: no change is applied, and the queue is discarded
            model = before
            oldest = eviction_queue(corpus, sorted_posts=most, heap_chunk=at_once)
        assert corpus.held == {n: post.created_at_unix_ms for n, post in model.items()}


def test_too_many_labels_evict_no_posts() -> None:
    corpus = TimesOnly({n: n for n in range(1, CAPACITY + 1)})
    admission = Admission(corpus, 1, eviction_queue(corpus))  # pyright: ignore[reportArgumentType]
    with pytest.raises(CorpusFullError, match="0 of at most 2 labels, 3 more came"):
        admission.take(posts_at({99: 1}, ("b", "c", "d")))
    assert admission.changes == []
    assert admission.take(posts_at({99: 1}, ("b",))) == ChangeResult(2, 1, 0, 0, 1)
