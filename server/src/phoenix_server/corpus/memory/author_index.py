"""The rows of each author's posts.

Shapes:
    R  rows of all shards        n, m  counts of a call
"""

import numpy as np

from phoenix_server.corpus.changes import Ids
from phoenix_server.corpus.memory.bitmaps import Rows, distinct

_MAX_UNSORTED = 1 << 12


class AuthorIndex:
    """Finds the posts of authors. Not thread-safe.

    Most rows are sorted by author; up to 4,096 recent ones are scanned. Entries of deleted posts
    stay in the index: callers pass the current author of each row, against which it checks them.
    """

    def __init__(self, rows: Rows, author_ids: Ids) -> None:
        """Sort [n] rows by their authors, [n]."""
        order = np.argsort(author_ids)
        self._authors, self._rows = author_ids[order], rows[order]
        self._recent = np.zeros(0, np.int32)

    def add(self, rows: Rows, row_authors: Ids) -> None:
        """Add rows.

        Args:
            rows: [n], whose posts have been written.
            row_authors: [R], the current author of every row.
        """
        self._recent = np.concatenate([self._recent, rows])
        if len(self._recent) <= _MAX_UNSORTED:
            return
        recent = distinct(self._recent)
        is_recent = np.zeros(len(row_authors), np.bool_)
        is_recent[recent] = True
        keep = (row_authors[self._rows] == self._authors) & ~is_recent[self._rows]
        authors, old = self._authors[keep], self._rows[keep]
        recent = recent[np.argsort(row_authors[recent], kind="stable")]
        places = np.searchsorted(authors, row_authors[recent])
        self._authors = np.insert(authors, places, row_authors[recent])
        self._rows = np.insert(old, places, recent)
        self._recent = np.zeros(0, np.int32)

    def find(self, author_ids: Ids, row_authors: Ids) -> Rows:
        """Return the rows of [m] distinct authors, ascending; some may be free.

        Args:
            author_ids: The authors.
            row_authors: As for `add`.
        """
        begins = np.searchsorted(self._authors, author_ids, side="left")
        counts = np.searchsorted(self._authors, author_ids, side="right") - begins
        ends = np.cumsum(counts)
        places = np.arange(counts.sum()) + np.repeat(begins - ends + counts, counts)
        rows = self._rows[places]
        rows = rows[row_authors[rows] == np.repeat(author_ids, counts)]
        recent = self._recent[np.isin(row_authors[self._recent], author_ids)]
        return distinct(np.concatenate([rows, recent]))
