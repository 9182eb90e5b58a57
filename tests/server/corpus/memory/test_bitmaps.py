import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from phoenix_server.corpus.memory.bitmaps import Rows, bits_of, clear, distinct, unpack

_rows = st.lists(st.integers(0, 4 * 32 - 1)).map(lambda rows: np.array(rows, np.int32))


@given(st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_distinct_rows_ascend(rows: list[int]) -> None:
    found = distinct(np.array(rows, np.int32))
    assert found.dtype == np.int32
    assert found.tolist() == sorted(set(rows))


@given(_rows, _rows)
def test_bits_are_cleared_alone(rows: Rows, cleared: Rows) -> None:
    words = np.zeros((2, 4), np.uint32)
    np.bitwise_or.at(words[1], rows // 32, bits_of(rows))
    clear(words, cleared)
    left = set(rows.tolist()) - set(cleared.tolist())
    assert np.flatnonzero(unpack(words[1])).tolist() == sorted(left)
    assert not words[0].any()
