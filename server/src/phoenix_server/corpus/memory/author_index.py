"""The rows of authors' posts.

Shapes:
    n  rows that are sorted        m  rows that came since        a  authors asked for
"""

import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.memory.bitmaps import Rows, distinct

Ids = npt.NDArray[np.uint64]

_MOST_UNSORTED = 1 << 12


class AuthorIndex:
    """Finds the posts of authors. Not for several threads at once.

    Most rows are sorted by author; those that came lately are looked through. Rows stay where they
    were when their posts are gone: whoever asks gives what the rows hold now.
    """

    def __init__(self, rows: Rows, author_ids: Ids) -> None:
        """Sort [n] rows by their authors, [n]."""
        order = np.argsort(author_ids)
        self._authors, self._rows = author_ids[order], rows[order]
        self._new = np.zeros(0, np.int32)

    def add(self, rows: Rows, held: Ids) -> None:
        """Add rows.

        Args:
            rows: Their posts have been written.
            held: [R], the authors of all rows as they are now.
        """
        self._new = np.concatenate([self._new, rows])
        if len(self._new) <= _MOST_UNSORTED:
            return
        new = distinct(self._new)
        is_new = np.zeros(len(held), np.bool_)
        is_new[new] = True
        stay = (held[self._rows] == self._authors) & ~is_new[self._rows]
        authors, old = self._authors[stay], self._rows[stay]
        new = new[np.argsort(held[new], kind="stable")]
        places = np.searchsorted(authors, held[new])
        self._authors = np.insert(authors, places, held[new])
        self._rows = np.insert(old, places, new)
        self._new = np.zeros(0, np.int32)

    def find(self, author_ids: Ids, held: Ids) -> Rows:
        """Return the rows of [a] distinct authors; some may hold no post any more.

        Args:
            author_ids: The authors.
            held: As for `add`.
        """
        begins = np.searchsorted(self._authors, author_ids, side="left")
        counts = np.searchsorted(self._authors, author_ids, side="right") - begins
        ends = np.cumsum(counts)
        places = np.arange(counts.sum()) + np.repeat(begins - ends + counts, counts)
        rows = self._rows[places]
        rows = rows[held[rows] == np.repeat(author_ids, counts)]
        new = self._new[np.isin(held[self._new], author_ids)]
        return distinct(np.concatenate([rows, new]))
