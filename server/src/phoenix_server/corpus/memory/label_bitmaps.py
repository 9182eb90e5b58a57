"""The labels of the posts of a corpus, as one bitmap over the rows per label.

Shapes:
    R  rows of all shards        L  the maximum number of labels        n  rows of a call
"""

from collections.abc import Sequence

import numpy as np

from phoenix_server.corpus.changes import Labels
from phoenix_server.corpus.memory.bitmaps import Rows, bits_of, by_word, distinct
from phoenix_server.runtime.arrays import I64
from phoenix_server.search.eligibility import ABSENT
from phoenix_server.search.shard import WORD


class LabelBitmaps:
    """Labels by row; free rows have none. One thread writes at a time.

    A label that no row has any more stays known until a new label needs its code: a code is valid
    until the next `add_names`.

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
        self._names = list(names)  # by code
        self._codes = {name: code for code, name in enumerate(names)}
        self._counts = np.zeros(limit, np.int64)

    @property
    def names(self) -> tuple[str, ...]:
        """The known labels, by code."""
        return tuple(self._names)

    @property
    def counts(self) -> I64:
        """The number of rows that have each of the known labels."""
        return self._counts[: len(self._names)]

    @property
    def used(self) -> tuple[str, ...]:
        """The labels that some row has."""
        return tuple(self._names[code] for code in np.flatnonzero(self.counts))

    def codes(self, names: Sequence[str]) -> list[int]:
        """Return the codes of labels, `ABSENT` for labels that are not known."""
        return [self._codes.get(name, ABSENT) for name in names]

    def knows(self, name: str) -> bool:
        """Return whether a label is known."""
        return name in self._codes

    def add_names(self, names: Sequence[str]) -> None:
        """Assign codes to labels that are not known yet.

        If all codes are taken, those of labels that no row has are assigned again.

        Raises:
            ValueError: There would be more than L labels; nothing has changed.
        """
        new = [name for name in names if name not in self._codes]
        free = list(range(len(self._names), len(self.words)))
        if len(new) > len(free):
            wanted = set(names)
            unused = np.flatnonzero(self.counts == 0).tolist()
            free += [code for code in unused if self._names[code] not in wanted]
        if len(new) > len(free):
            raise ValueError(f"there is no room for {len(new)} more labels")
        for name, code in zip(new, free, strict=False):
            if code == len(self._names):
                self._names.append(name)
            else:
                del self._codes[self._names[code]]
                self._names[code] = name
            self._codes[name] = code

    def remember(self, names: Sequence[str]) -> None:
        """Assign codes to labels as far as there are codes that were never assigned."""
        new = [name for name in names if name not in self._codes]
        self.add_names(new[: len(self.words) - len(self._names)])

    def clear(self, rows: Rows) -> None:
        """Remove all labels of [n] rows."""
        known = slice(len(self._names))
        places, bits = by_word(rows)
        words = self.words[known, places]
        self._counts[known] -= np.bitwise_count(words & bits).sum(axis=1, dtype=np.int64)
        self.words[known, places] = words & ~bits

    def add(self, rows: Rows, labels: Labels) -> None:
        """Add labels, whose names are known, to [n] rows that have none."""
        total = WORD * self.words.shape[1]
        codes = np.array(self.codes(labels.names), np.int64)[labels.indices]
        pairs = distinct(codes * total + np.repeat(rows, labels.counts))  # a post may repeat one
        codes, rows = np.divmod(pairs, total)
        np.bitwise_or.at(self.words, (codes, rows // WORD), bits_of(rows))
        self._counts += np.bincount(codes, minlength=len(self._counts))

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
