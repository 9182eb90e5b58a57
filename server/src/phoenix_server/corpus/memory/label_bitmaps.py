"""The labels of the posts of a corpus, as one bitmap over the rows per label.

Shapes:
    R  rows of all shards        L  the maximum number of labels        n  rows of a call
"""

from collections.abc import Sequence

import numpy as np

from phoenix_server.corpus.changes import Labels
from phoenix_server.corpus.memory.bitmaps import Rows, bits_of, clear
from phoenix_server.search.shard import WORD


class LabelBitmaps:
    """Labels by row; bits of free rows are undefined. One thread writes at a time.

    Attributes:
        words: [L, R/32] u32; bit i of word j says whether row 32 j + i has the label.
    """

    def __init__(self, names: Sequence[str], *, limit: int, rows: int) -> None:
        """Create bitmaps in which no row has a label.

        Args:
            names: The known labels; the code of a label is its place.
            limit: L.
            rows: R.
        """
        self.words = np.zeros((limit, rows // WORD), np.uint32)
        self._codes = {name: code for code, name in enumerate(names)}

    @property
    def names(self) -> tuple[str, ...]:
        """The known labels, by code: the labels that any post has had."""
        return tuple(self._codes)

    def codes(self, names: Sequence[str]) -> list[int]:
        """Return the codes of labels.

        Raises:
            KeyError: A label is not known.
        """
        return [self._codes[name] for name in names]

    def knows(self, name: str) -> bool:
        """Return whether a label is known."""
        return name in self._codes

    def add_names(self, names: Sequence[str]) -> None:
        """Assign codes to labels that are not known yet.

        Raises:
            ValueError: There would be more than L labels.
        """
        new = [name for name in names if name not in self._codes]
        if len(self._codes) + len(new) > len(self.words):
            raise ValueError(f"there is no room for {len(new)} more labels")
        for name in new:
            self._codes[name] = len(self._codes)

    def clear(self, rows: Rows) -> None:
        """Remove all labels of [n] rows."""
        clear(self.words, rows)

    def add(self, rows: Rows, labels: Labels) -> None:
        """Add labels to [n] rows; their names are known."""
        rows = np.repeat(rows, labels.counts)
        codes = np.array(self.codes(labels.names), np.int32)[labels.indices]
        np.bitwise_or.at(self.words, (codes, rows // WORD), bits_of(rows))

    def at(self, rows: Rows) -> Labels:
        """Return the labels of [n] rows."""
        names = self.names
        words = self.words[: len(names), rows // WORD]  # [names, n]
        bits = (words >> (rows % WORD).astype(np.uint32)) & np.uint32(1)
        _, codes = np.nonzero(bits.T)
        used, indices = np.unique(codes, return_inverse=True)
        return Labels(
            tuple(names[code] for code in used),
            bits.sum(axis=0, dtype=np.int32),
            indices.astype(np.int32),
        )
