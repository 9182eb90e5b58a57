import numpy as np
import pytest

from phoenix_server.corpus.changes import Labels
from phoenix_server.corpus.memory.label_bitmaps import LabelBitmaps

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
