"""Admission of labels against the reference model: a corpus whose rows are the posts' ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_server.corpus.changes import Change, ChangeResult, Ids, Labels, Posts
from phoenix_server.corpus.memory.id_map import NOWHERE
from phoenix_server.corpus.memory.label_bitmaps import LabelBitmaps
from phoenix_server.corpus.updates.admission import Admission
from phoenix_server.corpus.updates.label_usage import LabelUsage
from phoenix_server.errors import CorpusFullError
from server.corpus.change_cases import id_array
from server.corpus.reference import Model
from server.corpus.updates.cases import TimesOnly, eviction_queue, posts_at

_CAPACITY = 6
_MAX_LABELS = 3

_ids = st.integers(1, 9)
_labels = st.frozensets(st.sampled_from("abcdefg"), max_size=2)
_writes = st.dictionaries(_ids, _labels, min_size=1, max_size=4)
_deletions = st.lists(_ids, min_size=1, max_size=3, unique=True)
_changes = st.one_of(_writes, _writes, _deletions)
_groups = st.lists(st.lists(_changes, min_size=1, max_size=5), max_size=8)


def _posts(labels: Mapping[int, frozenset[str]]) -> Posts:
    """Return posts with some labels, and an old time if their id is small."""
    posts = posts_at({post_id: post_id for post_id in labels})
    names = tuple(sorted(frozenset[str]().union(*labels.values())))
    indices = [names.index(name) for each in labels.values() for name in sorted(each)]
    counts = [len(each) for each in labels.values()]
    own = Labels(names, np.array(counts, np.int32), np.array(indices, np.int32))
    return replace(posts, labels=own)


class _Corpus(TimesOnly):
    """The times and labels of posts."""

    max_labels = _MAX_LABELS

    def __init__(self) -> None:
        super().__init__({}, _CAPACITY)
        self.labels = LabelBitmaps([], limit=_MAX_LABELS, rows=32)

    def find(self, post_ids: Ids) -> Any:
        rows = [post_id if post_id in self.held else NOWHERE for post_id in post_ids.tolist()]
        return np.array(rows, np.int32)

    @property
    def created_at_unix_ms(self) -> Any:
        return np.array([self.held.get(row, 0) for row in range(32)], np.int64)

    def set(self, model: Model) -> None:
        """Hold the posts of a model."""
        self.held = {post_id: post.created_at_unix_ms for post_id, post in model.items()}
        self.labels.clear(np.arange(32, dtype=np.int32))
        self.labels.add_names(sorted(model.used_labels))
        posts = _posts({post_id: frozenset(post.labels) for post_id, post in model.items()})
        self.labels.add(posts.post_ids.astype(np.int32), posts.labels)


def _change(drawn: dict[int, frozenset[str]] | list[int]) -> Change:
    return id_array(*drawn) if isinstance(drawn, list) else _posts(drawn)


@settings(max_examples=300)
@given(_groups, st.booleans())
def test_a_change_is_admitted_if_its_labels_fit_after_those_before_it(
    groups: list[list[dict[int, frozenset[str]] | list[int]]], evict_oldest: bool
) -> None:
    corpus, model = _Corpus(), Model()
    evictions = eviction_queue(corpus, sorted_posts=3, heap_chunk=1) if evict_oldest else None
    for group in groups:
        admission = Admission(cast(Any, corpus), model.sequence + 1, evictions)
        for change in map(_change, group):
            after = model.copy()
            evicted: list[int] = []
            if isinstance(change, Posts) and evict_oldest:
                evicted = after.evict(change.post_ids, _CAPACITY)
            after.apply(change)
            before = list(admission.changes)
            try:
                result = admission.take(change)
            except CorpusFullError:
                assert len(after) > _CAPACITY or len(after.used_labels) > _MAX_LABELS
                assert admission.changes == before
                continue
            assert len(after) <= _CAPACITY
            assert len(after.used_labels) <= _MAX_LABELS
            assert result.evicted == len(evicted)
            assert result.sequence == after.sequence
            if evicted:
                assert cast(Ids, admission.changes[-2]).tolist() == evicted
            model = after
        corpus.set(model)
        assert set(corpus.labels.used) == model.used_labels


def test_what_a_change_replaces_deletes_or_evicts_makes_room() -> None:
    corpus, model = _Corpus(), Model.of(_posts({1: frozenset("ab"), 2: frozenset("c")}))
    corpus.set(model)
    admission = Admission(cast(Any, corpus), 1)
    assert admission.take(_posts({2: frozenset("d")})) == ChangeResult(1, 0, 1, 0)
    assert admission.take(id_array(1)) == ChangeResult(2, 0, 0, 1)
    assert admission.take(_posts({3: frozenset("ef")})) == ChangeResult(3, 1, 0, 0)
    try:
        admission.take(_posts({4: frozenset("ag"), 3: frozenset("f")}))
    except CorpusFullError as exc:
        assert str(exc).startswith("the corpus has 1 of at most 3 labels, 3 more came; ")
    else:
        raise AssertionError("it has too many labels")
    assert admission.take(_posts({4: frozenset("d")})) == ChangeResult(4, 1, 0, 0)


def test_labels_are_counted_after_changes() -> None:
    corpus = _Corpus()
    corpus.set(Model.of(_posts({1: frozenset("ab"), 2: frozenset("b")})))
    usage = LabelUsage(cast(Any, corpus), [_posts({3: frozenset("c"), 1: frozenset("b")})])
    assert usage.names == {"b", "c"}
    assert usage.names_without(id_array(1, 2), id_array(7)) == {"c"}
    assert usage.names_without(id_array(3), id_array(2)) == {"b"}
    usage.apply(id_array(3, 8))
    assert usage.names == {"b"}
