"""The reference model itself, against answers that are written down."""

from dataclasses import replace

import numpy as np

from phoenix_server.corpus.changes import Labels, Posts
from phoenix_server.engine.filters import Filter
from server.corpus.change_cases import id_array
from server.corpus.reference import Model, Post

_POSTS = Posts(
    post_ids=id_array(2**64 - 1, 5, 3, 8),
    author_ids=id_array(10, 11, 11, 2**64 - 2),
    created_at_unix_ms=np.array([400, 0, 300, 300]),
    labels=Labels(("a", "b"), np.array([2, 0, 1, 1], np.int32), np.array([1, 0, 0, 1], np.int32)),
    vectors=np.array([[1, 0], [0, 1], [0.5, 0.5], [1, -1]], np.float32),
)


def test_posts_have_their_labels_and_vectors() -> None:
    model = Model.of(_POSTS)
    vector = np.array([0.5, 0.5], np.float32).tobytes()
    assert model[3] == Post(11, 300, ("a",), vector)
    assert model[2**64 - 1].labels == ("b", "a")
    assert model[2**64 - 1].columns() == (10, 400, ("a", "b"))
    assert model.unordered()[5] == ((11, 0, ()), np.array([0, 1], np.float32).tobytes())
    assert (list(model), model.sequence) == ([2**64 - 1, 5, 3, 8], 0)
    assert model.label_names == {"a", "b"}


def test_changes_replace_and_delete_posts_and_are_counted() -> None:
    model = Model.of(_POSTS)
    before = model.copy()
    changed = replace(_POSTS.take(np.array([1])), labels=Labels(("c",), *Labels.none(1)[1:]))
    model.apply(replace(changed, author_ids=id_array(99)))
    model.apply(id_array(3, 4))
    assert sorted(model) == [5, 8, 2**64 - 1]
    assert model[5] == before[5]._replace(author_id=99)
    assert (model.sequence, model.label_names) == (2, {"a", "b", "c"})
    assert (before.sequence, before.label_names) == (0, {"a", "b"})
    assert before == Model.of(_POSTS) != model


def test_the_oldest_posts_that_are_not_written_are_evicted() -> None:
    model = Model.of(_POSTS)
    assert (model.evict(id_array(5, 77), 5), model.sequence) == ([], 0)
    assert model.evict(id_array(5, 77), 3) == [3, 8]  # equal times: by id; 5 is written itself
    assert (sorted(model), model.sequence) == ([5, 2**64 - 1], 1)


def test_a_query_is_answered_with_the_posts_that_meet_its_filter() -> None:
    model, query = Model.of(_POSTS), np.array([1, 1], np.float32)
    ranking = [(3, 1.0), (5, 1.0), (2**64 - 1, 1.0), (8, 0.0)]
    assert model.answer(query) == model.answer(query, Filter()) == ranking
    for wanted, ids in (
        (Filter(since_unix_ms=300), [3, 2**64 - 1, 8]),
        (Filter(since_unix_ms=0), [3, 2**64 - 1, 8]),  # not those of unknown time
        (Filter(before_unix_ms=400), [3, 8]),
        (Filter(any_labels=("a", "b")), [3, 2**64 - 1, 8]),
        (Filter(all_labels=("a", "b")), [2**64 - 1]),
        (Filter(none_labels=("b",)), [3, 5]),
        (Filter(excluded_post_ids=id_array(3, 2**64 - 1)), [5, 8]),
        (Filter(excluded_author_ids=id_array(11, 2**64 - 2)), [2**64 - 1]),
        (Filter(since_unix_ms=300, none_labels=("a",)), [8]),
        (Filter(all_labels=("c",)), []),
    ):
        assert [post_id for post_id, _ in model.answer(query, wanted)] == ids
