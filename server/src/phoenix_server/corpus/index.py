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
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.authors import RowsOfAuthors
from phoenix_server.corpus.changes import Ids, Labels, Net, Posts
from phoenix_server.corpus.ids import NOWHERE, RowsOfIds
from phoenix_server.corpus.snapshot import Snapshot
from phoenix_server.devices import Device
from phoenix_server.errors import PostNotFoundError, StartupError
from phoenix_server.filtering import ColumnsUpdate, FilterColumns, update_columns
from phoenix_server.programs import Programs
from phoenix_server.selection import WORD, Scan
from phoenix_server.topk import DeviceCorpus, ShardedLayout, Update, pack, split_ids

T = TypeVar("T")

# A tile of scores and the blocks of a query should stay in a CPU's cache; an accelerator wants
# tiles that are few and large, and many queries at once.
_TILES: dict[str, Any] = {"cpu": {"tile_rows": 4096, "block_rows": 8, "queries_at_once": 1}}
_TILES_ACCELERATOR: dict[str, Any] = {"tile_rows": 1 << 18, "block_rows": 32, "queries_at_once": 32}
_KERNEL: dict[str, Any] = {"tile_rows": 1 << 13, "block_rows": 32}

_UPDATE_ROWS = (64, 1024)  # sizes that updates are compiled for
_FULL = np.uint32(0xFFFFFFFF)
_REMEMBERED = 256  # changes

Rows = npt.NDArray[np.int32]


class Columns(NamedTuple):
    """What the host keeps of the posts, by row; of free rows it means nothing.

    Attributes:
        post_ids: [R] u64.
        author_ids: [R] u64.
        created_at_unix_ms: [R] i64, milliseconds since 1970 UTC, 0 where unknown.
        labels: [L, R/32] u32; bit i of word j says whether row 32 j + i has the label.
    """

    post_ids: Ids
    author_ids: Ids
    created_at_unix_ms: npt.NDArray[np.int64]
    labels: npt.NDArray[np.uint32]


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
        self._device = self.layout.place(snapshot.vectors(), found.post_ids)
        self._device_lock = threading.Lock()
        self._lock = threading.Lock()
        self._torn = False
        # What was written lately: after and through which change, and which rows.
        self._written: deque[tuple[int, int, Rows]] = deque(maxlen=_REMEMBERED)
        self._names = list(manifest.label_names)
        self._codes = {name: code for code, name in enumerate(self._names)}
        rows = self.layout.spread(manifest.rows)
        total = self.layout.total_rows
        self._columns = Columns(
            np.zeros(total, np.uint64),
            np.zeros(total, np.uint64),
            np.zeros(total, np.int64),
            np.zeros((self.max_labels, total // WORD), np.uint32),
        )
        self._columns.post_ids[rows] = found.post_ids
        self._columns.author_ids[rows] = found.author_ids
        self._columns.created_at_unix_ms[rows] = found.created_at_unix_ms
        self._set_labels(np.repeat(rows, np.diff(found.label_offsets)), found.label_codes)
        live = np.zeros(total, np.bool_)
        live[rows] = True
        self._live = pack(live)
        self._rows = RowsOfIds(self.capacity)
        self._rows.put(found.post_ids, rows)
        self._counts = live.reshape(self.layout.shards, -1).sum(axis=1)  # [S], live rows
        self._authors = RowsOfAuthors(rows, found.author_ids)
        self._filter_columns = FilterColumns(
            jax.device_put(_halves(self._columns.created_at_unix_ms), self.layout.by_rows),
            # A copy: a CPU device may take an array as it is, and this one changes.
            jax.device_put(self._columns.labels.copy(), self.layout.words),
        )
        self._updates: dict[int, Any] = {}  # by how many rows they change

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def torn(self) -> bool:
        """Whether a change failed half-way; then it is searched no more."""
        return self._torn

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels that any post has had, by code."""
        return tuple(self._names)

    def use(self, run: Callable[[DeviceCorpus], T]) -> T:
        """Start something on the devices with the corpus as it is now.

        A change takes the arrays themselves: whoever keeps them has nothing.

        Raises:
            RuntimeError: A change failed half-way; only a restart helps.
        """
        return self.use_columns(lambda device, _: run(device))

    def use_columns(self, run: Callable[[DeviceCorpus, FilterColumns], T]) -> T:
        """Do as `use` does, with the columns that queries filter by as well."""
        with self._device_lock:
            if self._torn:
                raise RuntimeError("a change of the corpus failed half-way; restart the server")
            return run(self._device, self._filter_columns)

    @property
    def column_specs(self) -> FilterColumns:
        """The shapes of what queries filter by."""
        layout = self.layout
        spec: Any = jax.ShapeDtypeStruct
        words = layout.total_rows // WORD
        return FilterColumns(
            spec((layout.total_rows, 2), np.uint32, sharding=layout.by_rows),
            spec((self.max_labels, words), np.uint32, sharding=layout.words),
        )

    def compile_updates(self, programs: Programs) -> None:
        """Compile what changes need."""
        layout, labels = self.layout, self.max_labels

        def update(
            corpus: DeviceCorpus, columns: FilterColumns, posts: Update, changed: ColumnsUpdate
        ) -> tuple[DeviceCorpus, FilterColumns]:
            return layout.update(corpus, posts), update_columns(layout, columns, changed)

        def compile_one(size: int) -> Any:
            beyond = np.full(size, layout.total_rows, np.int32)
            posts = Update(
                rows=beyond,
                vectors=np.zeros((size, layout.width), np.float32),
                ids=np.zeros((size, 2), np.uint32),
                words=beyond,
                bits=np.zeros(size, np.uint32),
                longest=np.float32(0),
                tiles=np.zeros(layout.shards, np.int32),
            )
            columns = ColumnsUpdate(
                rows=beyond,
                times=np.zeros((size, 2), np.uint32),
                words=beyond,
                labels=np.zeros((labels, size), np.uint32),
            )
            changes = jax.device_put((posts, columns), layout.replicated)
            jitted = jax.jit(update, donate_argnums=(0, 1))
            return jitted.lower(layout.specs, self.column_specs, *changes).compile()

        for size in _UPDATE_ROWS:
            key = ("update", layout, labels, size)
            self._updates[size] = programs.get(key, partial(compile_one, size))

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
            rows = np.unique(rows[rows != NOWHERE])
            if len(author_ids):
                found = self._authors.find(np.unique(author_ids), self._columns.author_ids)
                rows = np.union1d(rows, found).astype(np.int32)
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
        written = np.unique(np.concatenate([np.zeros(0, np.int32), *since]))
        post_ids, author_ids, _ = self.posts_at(written)
        mine = np.isin(post_ids, excluded.post_ids) | np.isin(author_ids, excluded.author_ids)
        others = np.setdiff1d(excluded.rows, written, assume_unique=True)
        return np.union1d(others, written[mine]).astype(np.int32)

    def knows_label(self, name: str) -> bool:
        """Return whether any post has had a label."""
        return name in self._codes

    def label_codes(self, names: Sequence[str]) -> list[int]:
        """Return the codes of labels.

        Raises:
            KeyError: The corpus does not know one.
        """
        return [self._codes[name] for name in names]

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
            return int((self._columns.created_at_unix_ms * self._live_rows()).max())

    def times(self, *, without: Ids) -> tuple[Ids, npt.NDArray[np.int64]]:
        """Return the ids and times of all posts but some: [n] each."""
        with self._lock:
            live = self._live_rows().astype(np.bool_)
            rows = self._rows.find(without)
            live[rows[rows != NOWHERE]] = False
            return self._columns.post_ids[live], self._columns.created_at_unix_ms[live]

    def _live_rows(self) -> npt.NDArray[np.uint8]:
        """Return which rows hold a post: [R]."""
        return np.unpackbits(self._live.astype("<u4").view(np.uint8), bitorder="little")

    def posts_at(self, rows: Rows) -> tuple[Ids, Ids, npt.NDArray[np.int64]]:
        """Return ids, authors and times of posts, [...] each, for [...] rows."""
        columns = self._columns
        return columns.post_ids[rows], columns.author_ids[rows], columns.created_at_unix_ms[rows]

    def labels_at(self, rows: Rows) -> Labels:
        """Return the labels of posts, for [n] rows."""
        words = self._columns.labels[: len(self._names), rows // WORD]  # [names, n]
        bits = (words >> (rows % WORD).astype(np.uint32)) & np.uint32(1)
        _, codes = np.nonzero(bits.T)
        distinct, indices = np.unique(codes, return_inverse=True)
        return Labels(
            tuple(self._names[code] for code in distinct),
            bits.sum(axis=0, dtype=np.int32),
            indices.astype(np.int32),
        )

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
                self._know(change.label_names)
                if change.written is not None:
                    rows = self._write(change.written)
                words = np.unique(np.concatenate([gone, rows]) // WORD).astype(np.int32)
                self._written.append((self.sequence, sequence, rows))
                self.sequence = sequence
            self._update(rows, change.written, words)
        except BaseException:
            self._torn = True
            raise

    def _delete(self, post_ids: Ids) -> Rows:
        rows = self._rows.find(post_ids)
        there = rows != NOWHERE
        self._rows.take_out(post_ids[there])
        rows = rows[there]
        self._clear(self._live, rows)
        self._count(rows, -1)
        return rows

    def _write(self, posts: Posts) -> Rows:
        rows = self._rows.find(posts.post_ids)
        new = rows == NOWHERE
        rows[new] = self._free(int(np.count_nonzero(new)))
        self._count(rows[new], 1)
        self._rows.put(posts.post_ids, rows)
        self._columns.post_ids[rows] = posts.post_ids
        self._columns.author_ids[rows] = posts.author_ids
        self._columns.created_at_unix_ms[rows] = posts.created_at_unix_ms
        np.bitwise_or.at(self._live, rows // WORD, _bits(rows))
        self._clear(self._columns.labels, rows)
        codes = np.array([self._codes[name] for name in posts.labels.names], np.int32)
        codes = codes[posts.labels.indices]
        self._set_labels(np.repeat(rows, posts.labels.counts), codes)
        self._authors.add(rows, self._columns.author_ids)
        return rows

    def _know(self, names: Sequence[str]) -> None:
        """Give codes to labels that have none.

        Raises:
            ValueError: They are too many.
        """
        new = [name for name in names if name not in self._codes]
        if len(self._names) + len(new) > self.max_labels:
            raise ValueError(f"there is no room for {len(new)} more labels")
        for name in new:
            self._codes[name] = len(self._names)
            self._names.append(name)

    def _set_labels(self, rows: Rows, codes: npt.NDArray[np.int32]) -> None:
        np.bitwise_or.at(self._columns.labels, (codes, rows // WORD), _bits(rows))

    def _clear(self, words: npt.NDArray[np.uint32], rows: Rows) -> None:
        """Clear the bits of rows in [..., R/32] words."""
        distinct, inverse = np.unique(rows // WORD, return_inverse=True)
        bits = np.zeros(len(distinct), np.uint32)
        np.bitwise_or.at(bits, inverse, _bits(rows))
        words[..., distinct] &= ~bits

    def _count(self, rows: Rows, change: int) -> None:
        shards = rows // self.layout.padded_rows
        self._counts += change * np.bincount(shards, minlength=self.layout.shards)

    def _free(self, count: int) -> Rows:
        """Return free rows, the first of each shard, so that the shards come to be equally full.

        Raises:
            ValueError: There are not as many.
        """
        total = int(self._counts.sum()) + count
        if total > self.capacity:
            raise ValueError(f"{total} posts do not fit in {self.capacity} rows")
        level, missing = -(-total // self.layout.shards), count
        chosen = [np.zeros(0, np.int32)]
        for shard, live in enumerate(self._live.reshape(self.layout.shards, -1)):
            here = min(missing, max(0, level - int(self._counts[shard])))
            missing -= here
            if here:
                open_words = np.flatnonzero(live != _FULL)[:here].astype(np.int32)
                bits = np.unpackbits(
                    live[open_words].astype("<u4").view(np.uint8), bitorder="little"
                )
                rows = (open_words[:, None] * WORD + np.arange(WORD, dtype=np.int32)).ravel()
                chosen.append(rows[bits == 0][:here] + np.int32(shard * self.layout.padded_rows))
        return np.concatenate(chosen)

    def _update(self, rows: Rows, posts: Posts | None, words: Rows) -> None:
        """Bring rows and words to the devices."""
        tiles = np.array(
            [
                self.layout.tiles_of(WORD * (int(np.flatnonzero(live)[-1]) + 1))
                if live.any()
                else 0
                for live in self._live.reshape(self.layout.shards, -1)
            ],
            np.int32,
        )
        largest = _UPDATE_ROWS[-1]
        for start in range(0, max(len(rows), len(words)), largest):
            own, own_words = rows[start : start + largest], words[start : start + largest]
            size = next(s for s in _UPDATE_ROWS if s >= max(len(own), len(own_words)))
            width = self.layout.width
            vectors = np.zeros((size, width), np.float32)
            ids = np.zeros((size, 2), np.uint32)
            longest = np.float32(0)
            if len(own) and posts is not None:
                vectors[: len(own)] = posts.vectors[start : start + largest]
                ids[: len(own)] = split_ids(posts.post_ids[start : start + largest])
                longest = np.float32(1.0001 * float(np.linalg.norm(vectors, axis=1).max()))
            beyond = self.layout.total_rows
            update = Update(
                rows=np.pad(own, (0, size - len(own)), constant_values=beyond),
                vectors=vectors,
                ids=ids,
                words=np.pad(own_words, (0, size - len(own_words)), constant_values=beyond),
                bits=np.pad(self._live[own_words], (0, size - len(own_words))),
                longest=longest,
                tiles=tiles,
            )
            columns = ColumnsUpdate(
                rows=update.rows,
                times=_padded(_halves(self._columns.created_at_unix_ms[own]), size),
                words=update.words,
                labels=_padded(self._columns.labels[:, own_words].T, size).T,
            )
            changes = jax.device_put((update, columns), self.layout.replicated)
            with self._device_lock:
                self._device, self._filter_columns = self._updates[size](
                    self._device, self._filter_columns, *changes
                )


def default_capacity(rows: int) -> int:
    """Return how many posts a corpus may come to hold that was built with so many."""
    return rows + max(rows // 4, 1024)


def _halves(times: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """Return times as `FilterColumns` has them: [n] to [n, 2]."""
    return split_ids(times.astype(np.uint64))


def _padded(array: npt.NDArray[np.uint32], size: int) -> npt.NDArray[np.uint32]:
    return np.pad(array, ((0, size - len(array)), (0, 0)))


def _bits(rows: Rows) -> npt.NDArray[np.uint32]:
    return np.uint32(1) << (rows % WORD).astype(np.uint32)


def choose_layout(
    devices: tuple[Device, ...], *, rows: int, width: int, scan: Scan = "tiles"
) -> ShardedLayout:
    """Return how a corpus lies on devices of their kind.

    Args:
        devices: One a shard.
        rows: N.
        width: D.
        scan: What it is searched with.

    Raises:
        StartupError: The kernels are not for these devices, or not for this width.
    """
    platform = devices[0].platform
    if scan == "kernel" and platform != "gpu":
        raise StartupError(f"scan: the kernels are for GPUs, not for {platform}")
    sizes = _KERNEL if scan == "kernel" else _TILES.get(platform, _TILES_ACCELERATOR)
    try:
        return ShardedLayout(devices=devices, rows=rows, width=width, scan=scan, **sizes)
    except ValueError as exc:
        raise StartupError(f"scan: {exc}") from exc
