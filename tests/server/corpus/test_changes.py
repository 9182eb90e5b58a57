import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from phoenix_server.corpus.changes import Change, Labels, Posts, concatenate, net
from server.corpus.change_cases import NAMES, id_array, posts_of
from server.corpus.reference import Model

_ids = st.lists(st.integers(1, 12) | st.just(2**64 - 1), unique=True, max_size=8)
_names = st.lists(st.sampled_from(NAMES), unique=True, max_size=4)
_posts = st.builds(posts_of, _ids, st.integers(0, 2**32), _names)
_changes = st.lists(_posts | _ids.map(lambda ids: id_array(*ids)), max_size=8)


@given(_changes)
def test_the_net_change_has_the_effect_of_all_changes(changes: list[Change]) -> None:
    everything = range(1, 14)
    model = Model.of(posts_of(everything, seed=5))
    before = model.copy()
    for change in changes:
        model.apply(change)
    left = net(changes)
    touched = [
        post_id
        for change in changes
        for post_id in (change.post_ids if isinstance(change, Posts) else change).tolist()
    ]
    mentioned = [] if left.written is None else left.written.post_ids.tolist()
    mentioned += left.deleted.tolist()
    assert sorted(mentioned) == sorted(set(touched))
    before.apply(left.deleted)
    if left.written is not None:
        assert len(left.written)
        before.apply(left.written)
    assert before == model


@given(_changes)
def test_the_net_change_has_the_labels_of_all_written_posts(changes: list[Change]) -> None:
    names = {name for each in changes if isinstance(each, Posts) for name in each.labels.names}
    left = net(changes)
    assert len(left.label_names) == len(names)
    assert set(left.label_names) == names


@given(st.lists(_posts, min_size=1, max_size=5))
def test_parts_are_concatenated_with_their_labels(parts: list[Posts]) -> None:
    whole = concatenate(parts)
    assert len(whole) == sum(map(len, parts))
    assert len(set(whole.labels.names)) == len(whole.labels.names)
    start = 0
    for part in parts:
        own = whole.take(np.arange(start, start + len(part)))
        assert list(Model.of(own).items()) == list(Model.of(part).items())
        start += len(part)


@given(
    st.lists(st.lists(st.integers(0, 3), unique=True), min_size=1),
    st.lists(st.integers(0, 10**6)),
)
def test_labels_of_chosen_posts_are_taken(labels: list[list[int]], chosen: list[int]) -> None:
    # In any order, and some of them twice.
    chosen = [place % len(labels) for place in chosen]
    columns = Labels(
        NAMES[:4],
        np.array([len(each) for each in labels], np.int32),
        np.array([code for each in labels for code in each], np.int32),
    )
    own = columns.take(np.array(chosen, np.intp))
    assert own.names == NAMES[:4]
    expected = [labels[place] for place in chosen]
    assert own.counts.tolist() == [len(each) for each in expected]
    assert own.indices.tolist() == [code for each in expected for code in each]


@given(st.lists(st.lists(st.integers(0, 3), unique=True)))
def test_names_that_no_post_has_are_dropped(labels: list[list[int]]) -> None:
    columns = Labels(
        NAMES[:4],
        np.array([len(each) for each in labels], np.int32),
        np.array([code for each in labels for code in each], np.int32),
    )
    left = columns.without_unused()
    assert set(left.names) == {NAMES[code] for each in labels for code in each}
    assert left.names == columns.used == left.used
    named = [left.names[index] for index in left.indices]
    assert named == [NAMES[code] for code in columns.indices]
    assert left.counts.tolist() == columns.counts.tolist()


def test_the_net_change_of_one_change_is_that_change() -> None:
    posts = posts_of([5, 2**64 - 1, 3])
    left = net([posts])
    assert left.written is posts
    assert left.deleted.tolist() == []
    left = net([id_array(4, 2)])
    assert (left.written, sorted(left.deleted.tolist()), left.label_names) == (None, [2, 4], ())


def test_no_changes_have_no_net_change() -> None:
    left = net([])
    assert (left.written, left.deleted.tolist(), left.label_names) == (None, [], ())
    assert left.deleted.dtype == np.uint64
