"""The part of a corpus that lies on the devices, changed in place.

Shapes:
    R  rows of all shards        L  labels that there may be
    n  rows that are written     m  words whose bits change
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.changes import Posts
from phoenix_server.corpus.memory.bitmaps import Rows, Words
from phoenix_server.errors import StartupError
from phoenix_server.runtime.devices import Device
from phoenix_server.runtime.program_cache import ProgramCache
from phoenix_server.search.eligibility import ColumnsUpdate, FilterColumns, update_columns
from phoenix_server.search.shard import WORD, Scan
from phoenix_server.search.sharded import DeviceCorpus, ShardedLayout, Update, split_ids

T = TypeVar("T")

# A tile of scores and the blocks of a query should stay in a CPU's cache; an accelerator wants
# tiles that are few and large, and many queries at once.
_TILES: dict[str, Any] = {"cpu": {"tile_rows": 4096, "block_rows": 8, "queries_at_once": 1}}
_TILES_ACCELERATOR: dict[str, Any] = {"tile_rows": 1 << 18, "block_rows": 32, "queries_at_once": 32}
_KERNEL: dict[str, Any] = {"tile_rows": 1 << 13, "block_rows": 32}

_UPDATE_ROWS = (64, 1024)  # sizes that updates are compiled for


class Written(NamedTuple):
    """What a change has left on the host.

    Attributes:
        rows: [n], where posts are written.
        posts: Those posts; None: there are none.
        words: [m] i32, whose bits have changed; those of `rows` are among them.
        live: [R/32] u32, which rows hold posts now.
        labels: [L, R/32] u32, which rows have a label now.
        tiles: [S] i32, how many tiles of each shard hold posts now.
    """

    rows: Rows
    posts: Posts | None
    words: Rows
    live: Words
    labels: Words
    tiles: npt.NDArray[np.int32]


class DeviceArrays:
    """The arrays on the devices. One thread changes them, any may use them.

    Attributes:
        torn: Whether a change failed half-way; then nothing can be used any more.
    """

    def __init__(
        self,
        layout: ShardedLayout,
        corpus: DeviceCorpus,
        created_at_unix_ms: npt.NDArray[np.int64],
        labels: Words,
    ) -> None:
        """Bring what queries filter by to the devices.

        Args:
            layout: How the rows lie there.
            corpus: What lies there already.
            created_at_unix_ms: [R], milliseconds since 1970 UTC, 0 where unknown.
            labels: [L, R/32].
        """
        self.torn = False
        self._layout = layout
        self._labels = len(labels)
        self._lock = threading.Lock()
        self._corpus = corpus
        self._columns = FilterColumns(
            jax.device_put(_halves(created_at_unix_ms), layout.by_rows),
            # A copy: a CPU device may take an array as it is, and this one changes.
            jax.device_put(labels.copy(), layout.words),
        )
        self._updates: dict[int, Any] = {}  # by how many rows they change

    def use(self, run: Callable[[DeviceCorpus, FilterColumns], T]) -> T:
        """Start something on the devices with the arrays as they are now.

        A change takes the arrays themselves: whoever keeps them has nothing.

        Raises:
            RuntimeError: A change failed half-way; only a restart helps.
        """
        with self._lock:
            if self.torn:
                raise RuntimeError("a change of the corpus failed half-way; restart the server")
            return run(self._corpus, self._columns)

    @property
    def column_specs(self) -> FilterColumns:
        """The shapes of what queries filter by."""
        layout = self._layout
        spec: Any = jax.ShapeDtypeStruct
        words = layout.total_rows // WORD
        return FilterColumns(
            spec((layout.total_rows, 2), np.uint32, sharding=layout.by_rows),
            spec((self._labels, words), np.uint32, sharding=layout.words),
        )

    def compile_updates(self, programs: ProgramCache) -> None:
        """Compile what changes need."""
        for size in _UPDATE_ROWS:
            key = ("update", self._layout, self._labels, size)
            self._updates[size] = programs.get(key, partial(self._compile_update, size))

    def update(self, written: Written) -> None:
        """Change the arrays, some rows and words at a time; between two searches."""
        largest = _UPDATE_ROWS[-1]
        for start in range(0, max(len(written.rows), len(written.words)), largest):
            some = slice(start, start + largest)
            posts, columns = self._part(written, some)
            size = len(posts.rows)
            changes = jax.device_put((posts, columns), self._layout.replicated)
            with self._lock:
                self._corpus, self._columns = self._updates[size](
                    self._corpus, self._columns, *changes
                )

    def _part(self, written: Written, some: slice) -> tuple[Update, ColumnsUpdate]:
        """Return the change of some rows and words, padded to a size that is compiled for."""
        rows, words = written.rows[some], written.words[some]
        size = next(s for s in _UPDATE_ROWS if s >= max(len(rows), len(words)))
        posts, columns = self._nothing(size)
        posts.rows[: len(rows)] = rows
        if len(rows) and written.posts is not None:
            posts.vectors[: len(rows)] = written.posts.vectors[some]
            posts.ids[: len(rows)] = split_ids(written.posts.post_ids[some])
            columns.times[: len(rows)] = _halves(written.posts.created_at_unix_ms[some])
        longest = np.float32(1.0001 * float(np.linalg.norm(posts.vectors, axis=1).max()))
        posts.words[: len(words)] = words
        posts.bits[: len(words)] = written.live[words]
        columns.labels[:, : len(words)] = written.labels[:, words]
        return posts._replace(longest=longest, tiles=written.tiles), columns

    def _nothing(self, size: int) -> tuple[Update, ColumnsUpdate]:
        """Return a change of rows and words that are all beyond."""
        beyond, layout = self._layout.total_rows, self._layout
        rows, words = np.full((2, size), beyond, np.int32)
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

    def _compile_update(self, size: int) -> Any:
        layout = self._layout

        def update(
            corpus: DeviceCorpus, columns: FilterColumns, posts: Update, changed: ColumnsUpdate
        ) -> tuple[DeviceCorpus, FilterColumns]:
            return layout.update(corpus, posts), update_columns(layout, columns, changed)

        changes = jax.device_put(self._nothing(size), layout.replicated)
        jitted = jax.jit(update, donate_argnums=(0, 1))
        return jitted.lower(layout.specs, self.column_specs, *changes).compile()


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


def _halves(times: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """Return times as `FilterColumns` has them: [n] to [n, 2]."""
    return split_ids(times.astype(np.uint64))
