"""Which rows of a corpus hold posts, and which are free for others.

Shapes:
    R  rows of all shards        S  shards        n  some rows
"""

import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.memory.bitmaps import Rows, bits_of, clear, unpack
from phoenix_server.search.shard import WORD
from phoenix_server.search.sharded import ShardedLayout, pack

_FULL = np.uint32(0xFFFFFFFF)


class RowAllocator:
    """The rows that hold posts. Not for several threads at once.

    Attributes:
        words: [R/32] u32; bit i of word j says whether row 32 j + i holds a post.
    """

    def __init__(self, layout: ShardedLayout, rows: Rows, *, most: int) -> None:
        """Begin.

        Args:
            layout: How the rows lie on the devices.
            rows: [n], those that hold posts.
            most: How many may come to hold one.
        """
        self._layout = layout
        self._most = most
        live = np.zeros(layout.total_rows, np.bool_)
        live[rows] = True
        self.words = pack(live)
        self._counts = live.reshape(layout.shards, -1).sum(axis=1)  # [S]

    def add(self, rows: Rows) -> None:
        """Have [n] rows that are free hold posts."""
        np.bitwise_or.at(self.words, rows // WORD, bits_of(rows))
        self._count(rows, 1)

    def remove(self, rows: Rows) -> None:
        """Have [n] rows that hold posts be free."""
        clear(self.words, rows)
        self._count(rows, -1)

    def bits(self) -> npt.NDArray[np.uint8]:
        """Return which rows hold posts: [R], 0 or 1."""
        return unpack(self.words)

    def free(self, count: int) -> Rows:
        """Return free rows, the first of each shard, so that the shards come to be equally full.

        Raises:
            ValueError: There are not as many.
        """
        total = int(self._counts.sum()) + count
        if total > self._most:
            raise ValueError(f"{total} posts do not fit in {self._most} rows")
        level, missing = -(-total // self._layout.shards), count
        chosen = [np.zeros(0, np.int32)]
        for shard, words in enumerate(self._by_shard()):
            here = min(missing, max(0, level - int(self._counts[shard])))
            missing -= here
            if here:
                open_words = np.flatnonzero(words != _FULL)[:here].astype(np.int32)
                rows = (open_words[:, None] * WORD + np.arange(WORD, dtype=np.int32)).ravel()
                open_rows = rows[unpack(words[open_words]) == 0][:here]
                chosen.append(open_rows + np.int32(shard * self._layout.padded_rows))
        return np.concatenate(chosen)

    def tiles(self) -> npt.NDArray[np.int32]:
        """Return how many tiles of each shard hold posts: [S]."""
        ends = [
            WORD * (int(np.flatnonzero(words)[-1]) + 1) if words.any() else 0
            for words in self._by_shard()
        ]
        return np.array([self._layout.tiles_of(end) if end else 0 for end in ends], np.int32)

    def _by_shard(self) -> npt.NDArray[np.uint32]:
        return self.words.reshape(self._layout.shards, -1)

    def _count(self, rows: Rows, change: int) -> None:
        shards = rows // self._layout.padded_rows
        self._counts += change * np.bincount(shards, minlength=self._layout.shards)
