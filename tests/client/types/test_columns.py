from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from phoenix_client.types.columns import Columns, u32_column, u64_column


@dataclass(frozen=True)
class _Rows(Columns[tuple[int, str]]):
    _may_be_empty: ClassVar[frozenset[str]] = frozenset({"scores"})

    names: Sequence[str]
    scores: Sequence[float] = ()

    def row(self, index: int, /) -> tuple[int, str]:
        return self.post_ids[index], self.names[index]


_ROWS = _Rows([5, 7, 9], ["a", "b", "c"])


def test_columns_read_as_rows() -> None:
    assert list(_ROWS) == [(5, "a"), (7, "b"), (9, "c")]
    assert (len(_ROWS), _ROWS[0], _ROWS[-1]) == (3, (5, "a"), (9, "c"))
    assert (7, "b") in _ROWS
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"row {index} of 3"):
            _ = _ROWS[index]


def test_a_slice_has_the_same_type() -> None:
    assert _ROWS[1:] == _Rows([7, 9], ["b", "c"])
    assert _Rows([5, 7], ["a", "b"], [0.5, 1.0])[:1] == _Rows([5], ["a"], [0.5])


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="names: has 1 entries where post_ids has 2"):
        _Rows([1, 2], ["a"])
    with pytest.raises(ValueError, match="names: has 0 entries where post_ids has 2"):
        _Rows([1, 2], [])
    with pytest.raises(ValueError, match="scores: has 1 entries where post_ids has 2"):
        _Rows([1, 2], ["a", "b"], [1.0])


def test_unsigned_integers_become_a_tuple() -> None:
    assert u64_column("ids", iter([0, 2**64 - 1])) == (0, 2**64 - 1)
    assert u32_column("surfaces", [2**32 - 1]) == (2**32 - 1,)


@pytest.mark.parametrize("values", [[-1], [2**64], [1.0], ["1"], [None], b"12", bytearray(8)])
def test_other_values_are_refused(values: Iterable[Any]) -> None:
    with pytest.raises(ValueError, match=r"ids: must be integers from 0 to 2\*\*64 - 1"):
        u64_column("ids", values)


def test_a_value_of_more_than_32_bits_is_refused() -> None:
    with pytest.raises(ValueError, match=r"surfaces: must be integers from 0 to 2\*\*32 - 1"):
        u32_column("surfaces", [2**32])
