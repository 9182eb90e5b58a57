"""The labels of the posts of a corpus, a row of bits for each label.

Shapes:
    R  rows of all shards        L  labels that there may be        n  some rows
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.changes import Labels
from phoenix_server.corpus.memory.bitmaps import Rows, bits_of, clear
from phoenix_server.search.shard import WORD


class LabelBitmaps:
    """Labels by row; of free rows they mean nothing. Not for several threads at once.

    Attributes:
        most: L.
        words: [L, R/32] u32; bit i of word j says whether row 32 j + i has the label.
    """

    def __init__(self, names: Sequence[str], *, most: int, rows: int) -> None:
        """Begin with rows that have no labels.

        Args:
            names: Labels that are known, by code.
            most: L.
            rows: R.
        """
        self.most = most
        self.words = np.zeros((most, rows // WORD), np.uint32)
        self._names = list(names)
        self._codes = {name: code for code, name in enumerate(names)}

    @property
    def names(self) -> tuple[str, ...]:
        """The labels that are known, by code."""
        return tuple(self._names)

    def knows(self, name: str) -> bool:
        """Return whether a label is known."""
        return name in self._codes

    def codes(self, names: Sequence[str]) -> list[int]:
        """Return the codes of labels.

        Raises:
            KeyError: One is not known.
        """
        return [self._codes[name] for name in names]

    def learn(self, names: Sequence[str]) -> None:
        """Give codes to labels that have none.

        Raises:
            ValueError: They are too many.
        """
        new = [name for name in names if name not in self._codes]
        if len(self._names) + len(new) > self.most:
            raise ValueError(f"there is no room for {len(new)} more labels")
        for name in new:
            self._codes[name] = len(self._names)
            self._names.append(name)

    def give(self, rows: Rows, codes: npt.NDArray[np.int32]) -> None:
        """Give labels to rows: [n] each, one after the other."""
        np.bitwise_or.at(self.words, (codes, rows // WORD), bits_of(rows))

    def replace(self, rows: Rows, labels: Labels) -> None:
        """Replace the labels of [n] rows by others, which are known."""
        clear(self.words, rows)
        codes = np.array(self.codes(labels.names), np.int32)
        self.give(np.repeat(rows, labels.counts), codes[labels.indices])

    def at(self, rows: Rows) -> Labels:
        """Return the labels of [n] rows."""
        words = self.words[: len(self._names), rows // WORD]  # [names, n]
        bits = (words >> (rows % WORD).astype(np.uint32)) & np.uint32(1)
        _, codes = np.nonzero(bits.T)
        distinct, indices = np.unique(codes, return_inverse=True)
        return Labels(
            tuple(self._names[code] for code in distinct),
            bits.sum(axis=0, dtype=np.int32),
            indices.astype(np.int32),
        )
