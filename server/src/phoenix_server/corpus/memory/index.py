"""A corpus in memory: vectors on the devices, the other columns on the host.

Shapes:
    R  rows of all shards        n, m  counts of a call

A row is a place for a post; it holds one or is free. The thread that searches also applies changes,
between two searches, so that the rows which a search returned still hold the same posts when its
answer is assembled.
"""

import threading
from collections import deque
from typing import NamedTuple

import numpy as np

from phoenix_server.corpus.changes import Ids, NetChange, PostColumns, Posts
from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.corpus.memory.author_index import AuthorIndex
from phoenix_server.corpus.memory.bitmaps import Rows, distinct
from phoenix_server.corpus.memory.device_arrays import DeviceArrays, RowWrites
from phoenix_server.corpus.memory.id_map import NOWHERE, IdMap
from phoenix_server.corpus.memory.label_bitmaps import LabelBitmaps
from phoenix_server.corpus.memory.row_allocator import RowAllocator
from phoenix_server.errors import PostNotFoundError
from phoenix_server.runtime.arrays import I64, Bools
from phoenix_server.runtime.devices import Device
from phoenix_server.search.choice import ScanOption, choose_layout
from phoenix_server.search.placement import place_corpus
from phoenix_server.search.shard import WORD

_NO_ROWS = np.zeros(0, np.int32)
_LOGGED_CHANGES = 256  # for `excluded_rows`; a query that waits longer is looked up again


class PostLookup(NamedTuple):
    """What the corpus holds of the posts that a caller asked for.

    Attributes:
        held: [n] bool, True for the posts that the corpus holds.
        posts: The [m] posts that it holds, in the order of the request.
        sequence: The number of the last change.
    """

    held: Bools
    posts: PostColumns
    sequence: int


class Exclusions(NamedTuple):
    """The posts that a query excludes.

    Attributes:
        post_ids: [n] u64, posts to exclude.
        author_ids: [m] u64, authors whose posts to exclude.
        rows: The rows of these posts after change `sequence`, ascending.
        sequence: The number of the last change when the rows were found.
    """

    post_ids: Ids
    author_ids: Ids
    rows: Rows
    sequence: int


class _RowLogEntry(NamedTuple):
    """The rows that the changes after `first`, up to `last`, have written."""

    first: int
    last: int
    rows: Rows


class CorpusIndex:
    """The posts that are searched.

    The thread that searches applies changes; any thread may read.

    Attributes:
        layout: How the rows lie on the devices.
        capacity: The maximum number of posts.
        max_labels: The maximum number of distinct labels.
        sequence: The number of the last change.
        post_ids: [R] u64, by row; entries of free rows are undefined.
        author_ids: [R] u64, likewise.
        created_at_unix_ms: [R] i64, likewise, milliseconds since 1970 UTC, 0 where unknown.
        labels: The labels of each row.
        arrays: The arrays on the devices.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        devices: tuple[Device, ...],
        *,
        capacity: int,
        max_labels: int,
        scan: ScanOption = "auto",
    ) -> None:
        """Copy a corpus to the devices.

        Args:
            snapshot: The corpus; its files have been verified.
            devices: One per shard.
            capacity: The maximum number of posts; at least those of the snapshot.
            max_labels: The maximum number of distinct labels, likewise.
            scan: The search algorithm.

        Raises:
            CorpusError: A vector is not finite or not of unit length, or a label is unknown.
            StartupError: The devices or the width do not support `scan`.
        """
        manifest = snapshot.manifest
        self.capacity = max(capacity, manifest.rows)
        self.max_labels = max(max_labels, len(manifest.label_names))
        self.sequence = manifest.sequence
        self.layout = choose_layout(
            devices, rows=self.capacity, width=manifest.embedding_size, scan=scan
        )
        posts = snapshot.columns()
        device_corpus = place_corpus(self.layout, snapshot.vectors(), posts.post_ids)
        rows, total = self.layout.spread(len(posts)), self.layout.total_rows
        self.post_ids, self.author_ids = np.zeros((2, total), np.uint64)
        self.created_at_unix_ms = np.zeros(total, np.int64)
        self.labels = LabelBitmaps(manifest.label_names, limit=self.max_labels, rows=total)
        self._lock = threading.Lock()
        self._row_log: deque[_RowLogEntry] = deque(maxlen=_LOGGED_CHANGES)
        self._allocator = RowAllocator(self.layout, rows, limit=self.capacity)
        self._rows = IdMap(self.capacity)
        self._set_columns(rows, posts)
        self._authors = AuthorIndex(rows, posts.author_ids)
        self.arrays = DeviceArrays(
            self.layout, device_corpus, self.created_at_unix_ms, self.labels.words
        )

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, post_ids: Ids) -> Rows:
        """Return the rows of [n] posts, `NOWHERE` for posts that the corpus does not hold."""
        with self._lock:
            return self._rows.find(post_ids)

    def rows_of(self, post_ids: Ids) -> Rows:
        """Return the rows of [n] posts.

        Raises:
            PostNotFoundError: The corpus does not hold some of them; lists them.
        """
        rows = self.find(post_ids)
        if (missing := rows == NOWHERE).any():
            raise PostNotFoundError([int(post_id) for post_id in post_ids[missing]])
        return rows

    def look_up(self, post_ids: Ids) -> PostLookup:
        """Return what the corpus holds of [n] posts now."""
        with self._lock:
            rows = self._rows.find(post_ids)
            held = rows != NOWHERE
            rows = rows[held]
            posts = PostColumns(
                post_ids=post_ids[held],
                author_ids=self.author_ids[rows],
                created_at_unix_ms=self.created_at_unix_ms[rows],
                labels=self.labels.at(rows),
            )
            return PostLookup(held, posts, self.sequence)

    def find_exclusions(self, post_ids: Ids, author_ids: Ids) -> Exclusions:
        """Find the rows of [n] posts and of all posts of [m] authors."""
        with self._lock:
            rows = self._rows.find(post_ids)
            rows = distinct(rows[rows != NOWHERE])
            if len(author_ids):
                by_author = self._authors.find(np.unique(author_ids), self.author_ids)
                rows = distinct(np.concatenate([rows, by_author]))
            return Exclusions(post_ids, author_ids, rows, self.sequence)

    def excluded_rows(self, exclusions: Exclusions) -> Rows:
        """Return the current rows of posts that were found before, ascending.

        Rows of posts deleted since may be among them while they are free. If the last 256 changes
        do not reach back to `exclusions.sequence`, the posts are looked up again.
        """
        if exclusions.sequence == self.sequence:
            return exclusions.rows
        with self._lock:
            log = list(self._row_log)
        if not log or log[0].first > exclusions.sequence:
            return self.find_exclusions(exclusions.post_ids, exclusions.author_ids).rows
        since = [entry.rows for entry in log if entry.last > exclusions.sequence]
        written = distinct(np.concatenate([_NO_ROWS, *since]))
        excluded = np.isin(self.post_ids[written], exclusions.post_ids)
        excluded |= np.isin(self.author_ids[written], exclusions.author_ids)
        unchanged = np.setdiff1d(exclusions.rows, written, assume_unique=True)
        return distinct(np.concatenate([unchanged, written[excluded]]))

    def newest_created_at_unix_ms(self) -> int:
        """Return the creation time of the newest post, milliseconds since 1970 UTC, or 0."""
        with self._lock:
            return int((self.created_at_unix_ms * self._allocator.bits()).max())

    def times(self, *, without: Ids) -> tuple[Ids, I64]:
        """Return the ids and creation times of all posts except some: [n] each."""
        with self._lock:
            live = self._allocator.bits().astype(np.bool_)
            rows = self._rows.find(without)
            live[rows[rows != NOWHERE]] = False
            return self.post_ids[live], self.created_at_unix_ms[live]

    def apply(self, change: NetChange, sequence: int) -> None:
        """Apply changes; call between two searches.

        A failure leaves host and devices inconsistent; `arrays.torn` is set and searches fail.

        Args:
            change: The net effect of the changes.
            sequence: The number of the last of them.

        Raises:
            ValueError: There is no room for the posts or their labels; see `Admission`.
        """
        try:
            with self._lock:
                deleted = self._delete(change.deleted)
                rows = _NO_ROWS if change.written is None else self._write(change.written)
                self.labels.remember(change.label_names)
                self._row_log.append(_RowLogEntry(self.sequence, sequence, rows))
                self.sequence = sequence
            self.arrays.update(
                RowWrites(
                    rows=rows,
                    posts=change.written,
                    words=distinct(np.concatenate([deleted, rows]) // WORD),
                    live=self._allocator.words,
                    labels=self.labels.words,
                    tiles=self._allocator.tiles(),
                )
            )
        except BaseException:
            self.arrays.torn = True
            raise

    def _delete(self, post_ids: Ids) -> Rows:
        rows = self._rows.find(post_ids)
        held = rows != NOWHERE
        self._rows.remove(post_ids[held])
        self._allocator.release(rows[held])
        self.labels.clear(rows[held])
        return rows[held]

    def _write(self, posts: Posts) -> Rows:
        rows = self._rows.find(posts.post_ids)
        new = rows == NOWHERE
        self.labels.clear(rows[~new])
        rows[new] = self._allocator.allocate(int(np.count_nonzero(new)))
        self.labels.add_names(posts.labels.used)
        self._set_columns(rows, posts)
        self._authors.add(rows, self.author_ids)
        return rows

    def _set_columns(self, rows: Rows, posts: PostColumns) -> None:
        """Store posts in [n] rows that have no labels."""
        self._rows.put(posts.post_ids, rows)
        self.post_ids[rows] = posts.post_ids
        self.author_ids[rows] = posts.author_ids
        self.created_at_unix_ms[rows] = posts.created_at_unix_ms
        self.labels.add(rows, posts.labels)


def default_capacity(rows: int) -> int:
    """Return the default capacity of a corpus that was built with `rows` posts."""
    return rows + max(rows // 4, 1024)
