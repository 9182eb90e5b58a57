"""Bitmaps over the rows of a corpus, as 32-bit words: bit i of word j is row 32 j + i.

Shapes:
    R  rows, a multiple of 32        n  rows of a call
"""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from phoenix_server.runtime.arrays import I32, I64, U32
from phoenix_server.search.shard import WORD

Rows = I32
Words = U32
Integer = TypeVar("Integer", np.int32, np.int64)


def distinct(rows: npt.NDArray[Integer]) -> npt.NDArray[Integer]:
    """Return the distinct values of [n] rows, or other integers, ascending.

    Same as `np.unique`, which first builds a hash table and takes ten times as long (numpy 2.4).
    """
    ascending = np.sort(rows)
    first = np.ones(len(rows), np.bool_)
    np.not_equal(ascending[1:], ascending[:-1], out=first[1:])
    return ascending[first]


def bits_of(rows: I32 | I64) -> Words:
    """Return the bit of each of [n] rows in its word: [n]."""
    return np.uint32(1) << (rows % WORD).astype(np.uint32)


def by_word(rows: Rows) -> tuple[Rows, Words]:
    """Return the words that hold the bits of [n] rows, ascending, and those bits of each."""
    touched, inverse = np.unique(rows // WORD, return_inverse=True)
    bits = np.zeros(len(touched), np.uint32)
    np.bitwise_or.at(bits, inverse, bits_of(rows))
    return touched, bits


def clear(words: Words, rows: Rows) -> None:
    """Clear the bits of [n] rows in [..., R/32] words."""
    touched, bits = by_word(rows)
    words[..., touched] &= ~bits


def unpack(words: Words) -> npt.NDArray[np.uint8]:
    """Return the bits of [R/32] words: [R], 0 or 1."""
    return np.unpackbits(words.astype("<u4").view(np.uint8), bitorder="little")
