"""A corpus in memory: vectors on the devices, the other columns on the host.

Shapes:
    R  rows, places for posts, of all shards        n  posts asked for
    D  width of a vector                            L  labels of some posts

A row holds a post or is free. Whoever changes the index does so between two searches, so that rows
which a search has found still hold what it saw when its answer is put together.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.changes import Ids, Labels, Net, Posts
from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.corpus.memory.author_index import AuthorIndex
from phoenix_server.corpus.memory.bitmaps import Rows, distinct
from phoenix_server.corpus.memory.device_arrays import DeviceArrays, Written, choose_layout
from phoenix_server.corpus.memory.id_map import NOWHERE, IdMap
from phoenix_server.corpus.memory.label_bitmaps import LabelBitmaps
from phoenix_server.corpus.memory.row_allocator import RowAllocator
from phoenix_server.errors import PostNotFoundError
from phoenix_server.runtime.devices import Device
from phoenix_server.runtime.program_cache import ProgramCache
from phoenix_server.search.eligibility import FilterColumns
from phoenix_server.search.placement import place_corpus
from phoenix_server.search.shard import WORD, Scan
from phoenix_server.search.sharded import DeviceCorpus

T = TypeVar("T")

_REMEMBERED = 256  # changes


class Columns(NamedTuple):
    """What the host keeps of the posts, by row; of free rows it means nothing.

    Attributes:
        post_ids: [R] u64.
        author_ids: [R] u64.
        created_at_unix_ms: [R] i64, milliseconds since 1970 UTC, 0 where unknown.
    """

    post_ids: Ids
    author_ids: Ids
    created_at_unix_ms: npt.NDArray[np.int64]


class Found(NamedTuple):
    """What is known of posts.

    Attributes:
        rows: [n] i32, `NOWHERE` for posts that are not there; then the next two mean nothing.
        author_ids: [n] u64.
        created_at_unix_ms: [n] i64.
        labels: Of those that are there.
        sequence: The number of the last change.
    """

    rows: Rows
    author_ids: Ids
    created_at_unix_ms: npt.NDArray[np.int64]
    labels: Labels
    sequence: int


class Excluded(NamedTuple):
    """Posts that a query may not find.

    Attributes:
        post_ids: [n] u64.
        author_ids: [m] u64; none of their posts.
        rows: Where these posts were, ascending.
        sequence: After which change.
    """

    post_ids: Ids
    author_ids: Ids
    rows: Rows
    sequence: int


class CorpusIndex:
    """The posts that are searched.

    One thread changes it, the one that searches; any may read.

    Attributes:
        layout: How the rows lie on the devices.
        capacity: Most posts.
        max_labels: Most distinct labels.
        sequence: The number of the last change.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        devices: tuple[Device, ...],
        *,
        capacity: int,
        max_labels: int,
        scan: Scan = "tiles",
    ) -> None:
        """Copy a corpus to the devices.

        Args:
            snapshot: The corpus; its files have been verified.
            devices: One a shard.
            capacity: Most posts that it may come to hold.
            max_labels: Most distinct labels, likewise.
            scan: What it is searched with.

        Raises:
            CorpusError: A vector is not finite or not of unit length, or a label is unknown.
            StartupError: It cannot be searched so on these devices.
        """
        manifest = snapshot.manifest
        self.capacity = max(capacity, manifest.rows)
        self.max_labels = max(max_labels, len(manifest.label_names))
        self.layout = choose_layout(
            devices, rows=self.capacity, width=manifest.embedding_size, scan=scan
        )
        found = snapshot.columns()
        self.sequence = manifest.sequence
        placed = place_corpus(self.layout, snapshot.vectors(), found.post_ids)
        self._lock = threading.Lock()
        # What was written lately: after and through which change, and which rows.
        self._written: deque[tuple[int, int, Rows]] = deque(maxlen=_REMEMBERED)
        rows = self.layout.spread(manifest.rows)
        total = self.layout.total_rows
        self._columns = Columns(
            np.zeros(total, np.uint64), np.zeros(total, np.uint64), np.zeros(total, np.int64)
        )
        self._columns.post_ids[rows] = found.post_ids
        self._columns.author_ids[rows] = found.author_ids
        self._columns.created_at_unix_ms[rows] = found.created_at_unix_ms
        self._labels = LabelBitmaps(manifest.label_names, most=self.max_labels, rows=total)
        self._labels.give(np.repeat(rows, np.diff(found.label_offsets)), found.label_codes)
        self._live = RowAllocator(self.layout, rows, most=self.capacity)
        self._rows = IdMap(self.capacity)
        self._rows.put(found.post_ids, rows)
        self._authors = AuthorIndex(rows, found.author_ids)
        self._resident = DeviceArrays(
            self.layout, placed, self._columns.created_at_unix_ms, self._labels.words
        )

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def torn(self) -> bool:
        """Whether a change failed half-way; then it is searched no more."""
        return self._resident.torn

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels that any post has had, by code."""
        return self._labels.names

    def use(self, run: Callable[[DeviceCorpus], T]) -> T:
        """Start something on the devices with the corpus as it is now.

        A change takes the arrays themselves: whoever keeps them has nothing.

        Raises:
            RuntimeError: A change failed half-way; only a restart helps.
        """
        return self._resident.use(lambda corpus, _: run(corpus))

    def use_columns(self, run: Callable[[DeviceCorpus, FilterColumns], T]) -> T:
        """Do as `use` does, with the columns that queries filter by as well."""
        return self._resident.use(run)

    @property
    def column_specs(self) -> FilterColumns:
        """The shapes of what queries filter by."""
        return self._resident.column_specs

    def compile_updates(self, programs: ProgramCache) -> None:
        """Compile what changes need."""
        self._resident.compile_updates(programs)

    def find(self, post_ids: Ids) -> Rows:
        """Return the rows of posts, [n], `NOWHERE` for those that are not there."""
        with self._lock:
            return self._rows.find(post_ids)

    def rows_of(self, post_ids: Ids) -> Rows:
        """Return the rows of posts, [n].

        Raises:
            PostNotFoundError: Some are not in the corpus; lists them.
        """
        rows = self.find(post_ids)
        if (missing := rows == NOWHERE).any():
            raise PostNotFoundError([int(post_id) for post_id in post_ids[missing]])
        return rows

    def excluded(self, post_ids: Ids, author_ids: Ids) -> Excluded:
        """Find posts, [n], and all posts of authors, [m]."""
        with self._lock:
            rows = self._rows.find(post_ids)
            rows = distinct(rows[rows != NOWHERE])
            if len(author_ids):
                found = self._authors.find(np.unique(author_ids), self._columns.author_ids)
                rows = distinct(np.concatenate([rows, found]))
            return Excluded(post_ids, author_ids, rows, self.sequence)

    def still_excluded(self, excluded: Excluded) -> Rows:
        """Return the rows of posts that were found before, as they are now; ascending.

        A row of a post that was deleted may be among them, as long as it is free.
        """
        if excluded.sequence == self.sequence:
            return excluded.rows
        with self._lock:
            since = [rows for _, last, rows in self._written if last > excluded.sequence]
            forgotten = not self._written or self._written[0][0] > excluded.sequence
        if forgotten:
            return self.excluded(excluded.post_ids, excluded.author_ids).rows
        written = distinct(np.concatenate([np.zeros(0, np.int32), *since]))
        post_ids, author_ids, _ = self.posts_at(written)
        mine = np.isin(post_ids, excluded.post_ids) | np.isin(author_ids, excluded.author_ids)
        others = np.setdiff1d(excluded.rows, written, assume_unique=True)
        return distinct(np.concatenate([others, written[mine]]))

    def knows_label(self, name: str) -> bool:
        """Return whether any post has had a label."""
        return self._labels.knows(name)

    def label_codes(self, names: Sequence[str]) -> list[int]:
        """Return the codes of labels.

        Raises:
            KeyError: The corpus does not know one.
        """
        return self._labels.codes(names)

    def look_up(self, post_ids: Ids) -> "Found":
        """Return what is known of posts, [n], as it is now."""
        with self._lock:
            rows = self._rows.find(post_ids)
            _, author_ids, created_at = self.posts_at(rows)
            labels = self.labels_at(rows[rows != NOWHERE])
            return Found(rows, author_ids, created_at, labels, self.sequence)

    def newest(self) -> int:
        """Return when the newest post was created, in milliseconds since 1970 UTC, or 0."""
        with self._lock:
            return int((self._columns.created_at_unix_ms * self._live.bits()).max())

    def times(self, *, without: Ids) -> tuple[Ids, npt.NDArray[np.int64]]:
        """Return the ids and times of all posts but some: [n] each."""
        with self._lock:
            live = self._live.bits().astype(np.bool_)
            rows = self._rows.find(without)
            live[rows[rows != NOWHERE]] = False
            return self._columns.post_ids[live], self._columns.created_at_unix_ms[live]

    def posts_at(self, rows: Rows) -> tuple[Ids, Ids, npt.NDArray[np.int64]]:
        """Return ids, authors and times of posts, [...] each, for [...] rows."""
        columns = self._columns
        return columns.post_ids[rows], columns.author_ids[rows], columns.created_at_unix_ms[rows]

    def labels_at(self, rows: Rows) -> Labels:
        """Return the labels of posts, for [n] rows."""
        return self._labels.at(rows)

    def all_ids(self) -> Ids:
        """Return a copy of the ids of all rows: [R]."""
        return self._columns.post_ids.copy()

    def apply(self, change: Net, sequence: int) -> None:
        """Change the corpus; between two searches.

        Args:
            change: What to write and to delete.
            sequence: The number of the last change in it.

        Raises:
            ValueError: It does not fit; whoever changes a corpus has looked before.
        """
        try:
            with self._lock:
                gone = self._delete(change.deleted)
                rows = np.zeros(0, np.int32)
                self._labels.learn(change.label_names)
                if change.written is not None:
                    rows = self._write(change.written)
                words = distinct(np.concatenate([gone, rows]) // WORD)
                self._written.append((self.sequence, sequence, rows))
                self.sequence = sequence
            self._resident.update(
                Written(
                    rows=rows,
                    posts=change.written,
                    words=words,
                    live=self._live.words,
                    labels=self._labels.words,
                    tiles=self._live.tiles(),
                )
            )
        except BaseException:
            self._resident.torn = True
            raise

    def _delete(self, post_ids: Ids) -> Rows:
        rows = self._rows.find(post_ids)
        there = rows != NOWHERE
        self._rows.take_out(post_ids[there])
        self._live.remove(rows[there])
        return rows[there]

    def _write(self, posts: Posts) -> Rows:
        rows = self._rows.find(posts.post_ids)
        new = rows == NOWHERE
        rows[new] = self._live.free(int(np.count_nonzero(new)))
        self._live.add(rows[new])
        self._rows.put(posts.post_ids, rows)
        self._columns.post_ids[rows] = posts.post_ids
        self._columns.author_ids[rows] = posts.author_ids
        self._columns.created_at_unix_ms[rows] = posts.created_at_unix_ms
        self._labels.replace(rows, posts.labels)
        self._authors.add(rows, self._columns.author_ids)
        return rows


def default_capacity(rows: int) -> int:
    """Return how many posts a corpus may come to hold that was built with so many."""
    return rows + max(rows // 4, 1024)
