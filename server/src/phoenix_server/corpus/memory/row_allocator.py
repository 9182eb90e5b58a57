"""Which rows of a corpus hold posts and which are free.

Shapes:
    R  rows of all shards        S  shards        n  rows of a call
"""

import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.memory.bitmaps import Rows, bits_of, clear, unpack
from phoenix_server.runtime.arrays import I32, U32
from phoenix_server.search.shard import WORD
from phoenix_server.search.sharded import ShardedLayout, pack

_FULL = np.uint32(0xFFFFFFFF)


class RowAllocator:
    """The rows that hold posts. Not thread-safe.

    Attributes:
        words: [R/32] u32; bit i of word j says whether row 32 j + i holds a post.
    """

    def __init__(self, layout: ShardedLayout, rows: Rows, *, limit: int) -> None:
        """Create an allocator.

        Args:
            layout: How the rows lie on the devices.
            rows: [n], the rows that hold posts.
            limit: The maximum number of rows that hold posts.
        """
        self._layout = layout
        self._limit = limit
        live = np.zeros(layout.total_rows, np.bool_)
        live[rows] = True
        self.words = pack(live)
        self._counts = live.reshape(layout.shards, -1).sum(axis=1)  # [S]

    def bits(self) -> npt.NDArray[np.uint8]:
        """Return which rows hold posts: [R], 0 or 1."""
        return unpack(self.words)

    def allocate(self, count: int) -> Rows:
        """Allocate free rows, the first of each shard, so that shards fill equally.

        Raises:
            ValueError: There are fewer free rows.
        """
        total = int(self._counts.sum()) + count
        if total > self._limit:
            raise ValueError(f"{total} posts do not fit in {self._limit} rows")
        level, missing = -(-total // self._layout.shards), count
        parts = [np.zeros(0, np.int32)]
        for shard, words in enumerate(self._by_shard()):
            here = min(missing, max(0, level - int(self._counts[shard])))
            missing -= here
            if here:
                open_words = np.flatnonzero(words != _FULL)[:here].astype(np.int32)
                rows = (open_words[:, None] * WORD + np.arange(WORD, dtype=np.int32)).ravel()
                free_rows = rows[unpack(words[open_words]) == 0][:here]
                parts.append(free_rows + np.int32(shard * self._layout.padded_rows))
        rows = np.concatenate(parts)
        np.bitwise_or.at(self.words, rows // WORD, bits_of(rows))
        self._add_to_counts(rows, 1)
        return rows

    def release(self, rows: Rows) -> None:
        """Free [n] rows that hold posts."""
        clear(self.words, rows)
        self._add_to_counts(rows, -1)

    def tiles(self) -> I32:
        """Return the number of leading tiles of each shard up to its last post: [S]."""
        ends = [
            WORD * (int(np.flatnonzero(words)[-1]) + 1) if words.any() else 0
            for words in self._by_shard()
        ]
        return np.array([self._layout.tiles_of(end) if end else 0 for end in ends], np.int32)

    def _by_shard(self) -> U32:
        return self.words.reshape(self._layout.shards, -1)

    def _add_to_counts(self, rows: Rows, change: int) -> None:
        shards = rows // self._layout.padded_rows
        self._counts += change * np.bincount(shards, minlength=self._layout.shards)
