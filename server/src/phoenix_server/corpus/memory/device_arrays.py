"""The arrays of a corpus on the devices, updated in place.

Shapes:
    R  rows of all shards        S  shards        L  the maximum number of labels
    n  rows that are written     m  words whose bits change
"""

import threading
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from phoenix_server.corpus.changes import Posts
from phoenix_server.corpus.memory.bitmaps import Rows, Words
from phoenix_server.runtime.arrays import I32, I64
from phoenix_server.runtime.program_cache import ProgramCache
from phoenix_server.search.eligibility import ColumnsUpdate, FilterColumns, update_columns
from phoenix_server.search.shard import WORD
from phoenix_server.search.sharded import DeviceCorpus, ShardedLayout, Update, split_ids

T = TypeVar("T")

_UPDATE_ROWS = (64, 1024)  # update programs are compiled for these numbers of rows


class RowWrites(NamedTuple):
    """The effect of changes on the rows.

    Attributes:
        rows: [n], the rows that are written.
        posts: The [n] posts written there; None if there are none.
        words: [m] i32, the words whose bits change; they include those of `rows`.
        live: [R/32] u32, bitmap of the rows that hold posts afterwards.
        labels: [L, R/32] u32, bitmaps of the labels afterwards.
        tiles: [S] i32, the number of leading tiles of each shard that hold posts afterwards.
    """

    rows: Rows
    posts: Posts | None
    words: Rows
    live: Words
    labels: Words
    tiles: I32


class DeviceArrays:
    """The arrays on the devices. One thread updates them, any thread may use them.

    Attributes:
        torn: Whether an update failed half-way; then `use` raises.
    """

    def __init__(
        self, layout: ShardedLayout, corpus: DeviceCorpus, created_at_unix_ms: I64, labels: Words
    ) -> None:
        """Copy the columns that filters need to the devices.

        Args:
            layout: How the rows lie on the devices.
            corpus: The arrays that are on the devices already.
            created_at_unix_ms: [R], milliseconds since 1970 UTC, 0 where unknown.
            labels: [L, R/32].
        """
        self.torn = False
        self._layout = layout
        self._labels = len(labels)
        self._lock = threading.Lock()
        self._corpus = corpus
        self._columns = FilterColumns(
            jax.device_put(split_ids(created_at_unix_ms.astype(np.uint64)), layout.by_rows),
            # A copy: a CPU device may alias a numpy array, and the host updates this one.
            jax.device_put(labels.copy(), layout.words),
        )
        self._updates: dict[int, Any] = {}  # compiled programs by number of rows

    def use(self, run: Callable[[DeviceCorpus, FilterColumns], T]) -> T:
        """Call a function that starts work on the devices with the current arrays.

        Updates donate these buffers; `run` must keep no reference.

        Raises:
            RuntimeError: An update failed half-way; only a restart helps.
        """
        with self._lock:
            if self.torn:
                raise RuntimeError("a change of the corpus failed half-way; restart the server")
            return run(self._corpus, self._columns)

    @property
    def column_specs(self) -> FilterColumns:
        """The shapes and shardings of the columns that filters need."""
        layout = self._layout
        spec: Any = jax.ShapeDtypeStruct
        words = layout.total_rows // WORD
        return FilterColumns(
            spec((layout.total_rows, 2), np.uint32, sharding=layout.by_rows),
            spec((self._labels, words), np.uint32, sharding=layout.words),
        )

    def compile_updates(self, programs: ProgramCache) -> None:
        """Compile the update programs."""
        layout = self._layout

        def update(
            corpus: DeviceCorpus, columns: FilterColumns, posts: Update, changed: ColumnsUpdate
        ) -> tuple[DeviceCorpus, FilterColumns]:
            return layout.update(corpus, posts), update_columns(layout, columns, changed)

        for size in _UPDATE_ROWS:
            key = ("update", layout, self._labels, size)
            changes = jax.device_put(self._padding(size), layout.replicated)
            specs = layout.specs, self.column_specs, *changes
            self._updates[size] = programs.compile(key, update, *specs, donate_argnums=(0, 1))

    def update(self, writes: RowWrites) -> None:
        """Update the arrays, up to 1,024 rows and words at a time; call between two searches."""
        largest = _UPDATE_ROWS[-1]
        for start in range(0, max(len(writes.rows), len(writes.words)), largest):
            posts, columns = self._chunk(writes, slice(start, start + largest))
            size = len(posts.rows)
            changes = jax.device_put((posts, columns), self._layout.replicated)
            with self._lock:
                self._corpus, self._columns = self._updates[size](
                    self._corpus, self._columns, *changes
                )

    def _chunk(self, writes: RowWrites, chunk: slice) -> tuple[Update, ColumnsUpdate]:
        """Return the update of some rows and words, padded to a compiled size."""
        rows, words = writes.rows[chunk], writes.words[chunk]
        size = next(s for s in _UPDATE_ROWS if s >= max(len(rows), len(words)))
        posts, columns = self._padding(size)
        posts.rows[: len(rows)] = rows
        if len(rows) and writes.posts is not None:
            posts.vectors[: len(rows)] = writes.posts.vectors[chunk]
            posts.ids[: len(rows)] = split_ids(writes.posts.post_ids[chunk])
            times = writes.posts.created_at_unix_ms[chunk].astype(np.uint64)
            columns.times[: len(rows)] = split_ids(times)
        longest = np.float32(1.0001 * float(np.linalg.norm(posts.vectors, axis=1).max()))
        posts.words[: len(words)] = words
        posts.bits[: len(words)] = writes.live[words]
        columns.labels[:, : len(words)] = writes.labels[:, words]
        return posts._replace(longest=longest, tiles=writes.tiles), columns

    def _padding(self, size: int) -> tuple[Update, ColumnsUpdate]:
        """Return an update that is all padding: its indices are out of range and are ignored."""
        layout = self._layout
        rows, words = np.full((2, size), layout.total_rows, np.int32)
        posts = Update(
            rows=rows,
            vectors=np.zeros((size, layout.width), np.float32),
            ids=np.zeros((size, 2), np.uint32),
            words=words,
            bits=np.zeros(size, np.uint32),
            longest=np.float32(0),
            tiles=np.zeros(layout.shards, np.int32),
        )
        columns = ColumnsUpdate(
            rows=rows,
            times=np.zeros((size, 2), np.uint32),
            words=words,
            labels=np.zeros((self._labels, size), np.uint32),
        )
        return posts, columns
