"""Where posts are: a hash table from ids to rows, in numpy, for thousands of ids at a time.

Shapes:
    M  places of the table, a power of two        n  ids of a call
"""

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int32]

NOWHERE = -1

_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio (Knuth, volume 3, section 6.4)
_FULLEST = 0.6


class IdMap:
    """A map from ids, never 0, to rows. Not for several threads at once.

    Open addressing with linear probing. An id that is taken out keeps its place, without a row,
    until the table is made anew.
    """

    def __init__(self, expected: int = 0) -> None:
        """Make an empty table.

        Args:
            expected: How many ids it should hold without being made anew.
        """
        self._make(expected)
        self._live = 0

    def __len__(self) -> int:
        return self._live

    def find(self, ids: Ids) -> Rows:
        """Return the rows of [n] ids: [n], `NOWHERE` for those that are not there."""
        rows = np.full(len(ids), NOWHERE, np.int32)
        left = np.arange(len(ids))
        places = self._first(ids)
        while len(left):
            keys = self._keys[places]
            found = keys == ids[left]
            rows[left[found]] = self._rows[places[found]]
            go_on = ~found & (keys != 0)
            left, places = left[go_on], (places[go_on] + 1) & self._last
        return rows

    def put(self, ids: Ids, rows: Rows) -> None:
        """Set the rows of [n] ids that are not 0 and distinct."""
        if self._used + len(ids) > _FULLEST * (self._last + 1):
            self._grow(len(ids))
        self._live += int(np.count_nonzero(self._set(ids, rows) == NOWHERE))

    def take_out(self, ids: Ids) -> None:
        """Forget [n] distinct ids, all of which are there."""
        self._set(ids, np.full(len(ids), NOWHERE, np.int32))
        self._live -= len(ids)

    def _set(self, ids: Ids, rows: Rows) -> Rows:
        """Set rows, and return what they were."""
        before = np.full(len(ids), NOWHERE, np.int32)
        left = np.arange(len(ids))
        places = self._first(ids)
        while len(left):
            empty = self._keys[places] == 0
            # Of several ids that want one empty place the last gets it.
            self._keys[places[empty]] = ids[left[empty]]
            mine = self._keys[places] == ids[left]
            self._used += int(np.count_nonzero(mine & empty))
            before[left[mine]] = self._rows[places[mine]]
            self._rows[places[mine]] = rows[left[mine]]
            left, places = left[~mine], (places[~mine] + 1) & self._last
        return before

    def _first(self, ids: Ids) -> npt.NDArray[np.int64]:
        """Return where the search for ids begins."""
        return ((ids * _MIX) >> self._shift).astype(np.int64)

    def _grow(self, more: int) -> None:
        there = self._rows != NOWHERE
        ids, rows = self._keys[there], self._rows[there]
        self._make(2 * (len(ids) + more))
        self._set(ids, rows)

    def _make(self, expected: int) -> None:
        bits = max(int(expected / _FULLEST).bit_length(), 6)
        self._keys = np.zeros(1 << bits, np.uint64)
        self._rows = np.full(1 << bits, NOWHERE, np.int32)
        self._last = (1 << bits) - 1
        self._shift = np.uint64(64 - bits)
        self._used = 0
