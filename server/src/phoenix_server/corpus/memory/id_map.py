"""A hash table in numpy from post ids to rows, for thousands of ids at a time.

Shapes:
    n  ids of a call
"""

import numpy as np

from phoenix_server.corpus.changes import Ids
from phoenix_server.corpus.memory.bitmaps import Rows
from phoenix_server.runtime.arrays import I64

NOWHERE = -1

_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio (Knuth, volume 3, section 6.4)
_MAX_LOAD = 0.6


class IdMap:
    """A map from ids, never 0, to rows. Not thread-safe.

    Open addressing with linear probing. A removed id keeps its slot, without a row, until the
    table is rebuilt.
    """

    def __init__(self, expected: int = 0) -> None:
        """Create an empty table.

        Args:
            expected: The number of ids that the table holds without being rebuilt.
        """
        self._allocate(expected)
        self._live = 0

    def __len__(self) -> int:
        return self._live

    def find(self, ids: Ids) -> Rows:
        """Return the rows of [n] ids: [n], `NOWHERE` for ids that are not in the map."""
        rows = np.full(len(ids), NOWHERE, np.int32)
        left = np.arange(len(ids))
        slots = self._first_slots(ids)
        while len(left):
            keys = self._keys[slots]
            found = keys == ids[left]
            rows[left[found]] = self._rows[slots[found]]
            go_on = ~found & (keys != 0)
            left, slots = left[go_on], (slots[go_on] + 1) & self._mask
        return rows

    def put(self, ids: Ids, rows: Rows) -> None:
        """Set the rows of [n] distinct ids, none of them 0."""
        if self._used + len(ids) > _MAX_LOAD * (self._mask + 1):
            self._rebuild(len(ids))
        self._live += int(np.count_nonzero(self._set(ids, rows) == NOWHERE))

    def remove(self, ids: Ids) -> None:
        """Remove [n] distinct ids, all of which are in the map."""
        self._set(ids, np.full(len(ids), NOWHERE, np.int32))
        self._live -= len(ids)

    def _set(self, ids: Ids, rows: Rows) -> Rows:
        """Set rows and return the previous ones."""
        before = np.full(len(ids), NOWHERE, np.int32)
        left = np.arange(len(ids))
        slots = self._first_slots(ids)
        while len(left):
            empty = self._keys[slots] == 0
            # If several ids claim one empty slot, numpy stores the last of them.
            self._keys[slots[empty]] = ids[left[empty]]
            own = self._keys[slots] == ids[left]
            self._used += int(np.count_nonzero(own & empty))
            before[left[own]] = self._rows[slots[own]]
            self._rows[slots[own]] = rows[left[own]]
            left, slots = left[~own], (slots[~own] + 1) & self._mask
        return before

    def _first_slots(self, ids: Ids) -> I64:
        """Return the slots where the search for ids begins."""
        return ((ids * _MIX) >> self._shift).astype(np.int64)

    def _rebuild(self, more: int) -> None:
        live = self._rows != NOWHERE
        ids, rows = self._keys[live], self._rows[live]
        self._allocate(2 * (len(ids) + more))
        self._set(ids, rows)

    def _allocate(self, expected: int) -> None:
        bits = max(int(expected / _MAX_LOAD).bit_length(), 6)
        self._keys = np.zeros(1 << bits, np.uint64)
        self._rows = np.full(1 << bits, NOWHERE, np.int32)
        self._mask = (1 << bits) - 1
        self._shift = np.uint64(64 - bits)
        self._used = 0
