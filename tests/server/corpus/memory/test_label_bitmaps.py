import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_server.corpus.changes import Labels
from phoenix_server.corpus.memory.label_bitmaps import LabelBitmaps
from phoenix_server.search.eligibility import ABSENT

_ROWS = np.array([3, 40, 95], np.int32)
_LABELS = Labels(("a", "b"), np.array([2, 0, 1], np.int32), np.array([1, 0, 1], np.int32))


def _names_at(bitmaps: LabelBitmaps, rows: list[int]) -> list[set[str]]:
    labels = bitmaps.at(np.array(rows, np.int32))
    ends = np.cumsum(labels.counts)
    parts = np.split(labels.indices, ends[:-1])
    return [{labels.names[index] for index in part} for part in parts]


def test_labels_are_added_to_rows_and_cleared() -> None:
    bitmaps = LabelBitmaps(["c"], limit=3, rows=96)
    bitmaps.add_names(["a", "b", "c"])
    assert bitmaps.names == ("c", "a", "b")
    assert bitmaps.codes(["b", "c"]) == [2, 0]
    bitmaps.add(_ROWS, _LABELS)
    assert _names_at(bitmaps, [95, 3, 40, 4]) == [{"b"}, {"a", "b"}, set(), set()]
    assert bitmaps.at(np.array([95], np.int32)).names == ("b",)
    bitmaps.clear(_ROWS[:2])
    assert _names_at(bitmaps, [3, 40, 95]) == [set(), set(), {"b"}]


def test_more_labels_than_the_limit_are_refused() -> None:
    bitmaps = LabelBitmaps(["a"], limit=2, rows=32)
    with pytest.raises(ValueError, match="there is no room for 2 more labels"):
        bitmaps.add_names(["a", "b", "c"])
    assert bitmaps.names == ("a",)
    assert bitmaps.knows("a")
    assert not bitmaps.knows("b")


def _put(bitmaps: LabelBitmaps, row: int, *names: str) -> None:
    """Add labels to a row that has none."""
    bitmaps.add_names(names)
    indices = np.arange(len(names), dtype=np.int32)
    labels = Labels(names, np.array([len(names)], np.int32), indices)
    bitmaps.add(np.array([row], np.int32), labels)


def test_rows_are_counted_by_label() -> None:
    bitmaps = LabelBitmaps(["a", "b"], limit=3, rows=96)
    bitmaps.add(_ROWS, _LABELS)
    assert bitmaps.counts.tolist() == [1, 2]
    twice = Labels(("b",), np.array([2], np.int32), np.zeros(2, np.int32))
    bitmaps.add(np.array([4], np.int32), twice)
    assert bitmaps.counts.tolist() == [1, 3]
    bitmaps.clear(np.array([3, 5], np.int32))
    assert (bitmaps.counts.tolist(), bitmaps.used) == ([0, 2], ("b",))
    bitmaps.clear(np.array([4, 95, 3], np.int32))
    assert (bitmaps.counts.tolist(), bitmaps.used) == ([0, 0], ())
    assert bitmaps.names == ("a", "b")


def test_a_new_label_takes_the_place_of_one_that_no_row_has_only_if_there_is_no_other() -> None:
    bitmaps = LabelBitmaps(["a", "b"], limit=3, rows=32)
    _put(bitmaps, 7, "b", "c")
    assert bitmaps.names == ("a", "b", "c")
    _put(bitmaps, 8, "d")
    assert bitmaps.names == ("d", "b", "c")
    assert not bitmaps.knows("a")
    assert bitmaps.codes(["a", "d", "c"]) == [ABSENT, 0, 2]
    with pytest.raises(ValueError, match="there is no room for 1 more labels"):
        bitmaps.add_names(["e"])
    bitmaps.clear(np.array([7, 8], np.int32))
    _put(bitmaps, 9, "e", "d")  # "d" keeps its place, though no row has it
    assert bitmaps.names == ("d", "e", "c")
    assert _names_at(bitmaps, [7, 8, 9]) == [set(), set(), {"d", "e"}]


def test_labels_are_remembered_only_as_far_as_none_is_forgotten() -> None:
    bitmaps = LabelBitmaps(["a"], limit=3, rows=32)
    bitmaps.remember(["a", "b"])
    assert bitmaps.names == ("a", "b")
    bitmaps.remember(["c", "d"])
    bitmaps.remember(["e"])
    assert bitmaps.names == ("a", "b", "c")


@settings(max_examples=50)
@given(
    st.lists(
        st.dictionaries(
            st.integers(0, 63), st.frozensets(st.integers(0, 8), max_size=3), min_size=1
        ),
        max_size=8,
    )
)
def test_rows_have_their_labels_whatever_was_forgotten(
    changes: list[dict[int, frozenset[int]]],
) -> None:
    bitmaps, rows = LabelBitmaps([], limit=5, rows=64), dict[int, frozenset[str]]()
    for change in changes:
        written = {row: frozenset(map(str, labels)) for row, labels in change.items()}
        after = {**rows, **written}
        if len(frozenset[str]().union(*after.values())) > 5:
            continue
        bitmaps.clear(np.array([*written], np.int32))
        for row, labels in written.items():
            _put(bitmaps, row, *labels)
        rows = after
        used = frozenset[str]().union(*rows.values())
        assert used == set(bitmaps.used) <= set(bitmaps.names)
        assert len(set(bitmaps.names)) == len(bitmaps.names) <= 5
        assert _names_at(bitmaps, [*rows]) == [set(labels) for labels in rows.values()]
        for name, count in zip(bitmaps.names, bitmaps.counts.tolist(), strict=True):
            assert count == sum(name in labels for labels in rows.values())
