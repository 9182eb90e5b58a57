"""Columns of equal length that read as a sequence of rows, each built on access."""

from __future__ import annotations

import operator
from abc import abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self, TypeVar, overload

_Row = TypeVar("_Row")


def u64_column(name: str, values: Iterable[int]) -> tuple[int, ...]:
    """Return `values` as a tuple, checked to be unsigned 64-bit integers.

    Raises:
        ValueError: A value is not such an integer. The message starts with `name`.
    """
    return _column("Q", 64, name, values)


def u32_column(name: str, values: Iterable[int]) -> tuple[int, ...]:
    """Return `values` as a tuple, checked to be unsigned 32-bit integers.

    Raises:
        ValueError: A value is not such an integer. The message starts with `name`.
    """
    return _column("I", 32, name, values)


def _column(typecode: str, bits: int, name: str, values: Iterable[int]) -> tuple[int, ...]:
    if isinstance(values, bytes | bytearray):  # an array would take them as its memory
        raise ValueError(f"{name}: must be integers from 0 to 2**{bits} - 1, is bytes")
    # An array checks in C; a loop in Python takes fifty times as long.
    try:
        return tuple(array(typecode, values))
    except (OverflowError, TypeError) as error:
        raise ValueError(f"{name}: must be integers from 0 to 2**{bits} - 1 ({error})") from error


def vectors_column(vectors: Iterable[tuple[str, Sequence[float]]]) -> array[float]:
    """Return the floats of vectors of one width, one vector after the other.

    Args:
        vectors: The name of each vector, for errors, and the vector.

    Raises:
        ValueError: A vector is empty, longer or shorter than the first, or does not hold floats.
            The message starts with its name.
    """
    floats = array("f")
    first, width = "", 0
    for name, vector in vectors:
        if len(vector) == 0:
            raise ValueError(f"{name}: is empty")
        if not first:
            first, width = name, len(vector)
        if len(vector) != width:
            raise ValueError(f"{name}: has {len(vector)} floats where {first} has {width}")
        try:
            # An array extends by an array of its own type only; of others it takes the numbers.
            whole = not isinstance(vector, array) or vector.typecode == floats.typecode
            floats.extend(vector if whole else iter(vector))
        except (OverflowError, TypeError) as error:
            raise ValueError(f"{name}: must be floats ({error})") from error
    return floats


@dataclass(frozen=True)
class Columns(Sequence[_Row]):
    """A sequence of rows that is stored as columns, each a field of the dataclass.

    A subclass names in `_may_be_empty` the columns that are empty if nothing is known. A slice has
    the same type.

    Attributes:
        post_ids: Ids of the posts. Every other column has the same length.
    """

    _may_be_empty: ClassVar[frozenset[str]] = frozenset()

    post_ids: Sequence[int]

    def __post_init__(self) -> None:
        """Check that the columns fit together.

        Raises:
            ValueError: A column is longer or shorter than `post_ids`.
        """
        for field in fields(self):
            length = len(getattr(self, field.name))
            if length == 0 and field.name in self._may_be_empty:
                continue
            if length != len(self.post_ids):
                raise ValueError(
                    f"{field.name}: has {length} entries where post_ids has {len(self.post_ids)}"
                )

    @abstractmethod
    def row(self, index: int, /) -> _Row:
        """Build row `index`, which lies from 0 to `len(self) - 1`."""

    def __len__(self) -> int:
        return len(self.post_ids)

    def __iter__(self) -> Iterator[_Row]:
        return map(self.row, range(len(self)))

    @overload
    def __getitem__(self, index: int) -> _Row: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> _Row | Self:
        if isinstance(index, slice):
            return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})
        position = operator.index(index)
        if not -len(self) <= position < len(self):
            raise IndexError(f"row {position} of {len(self)}")
        return self.row(position % len(self))
