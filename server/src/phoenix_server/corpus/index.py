"""A corpus in memory: vectors on the devices, the other columns on the host.

Shapes:
    N  posts        n  posts asked for
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from phoenix_server.corpus.snapshot import Snapshot
from phoenix_server.devices import Device
from phoenix_server.errors import PostNotFoundError, StartupError
from phoenix_server.selection import Scan
from phoenix_server.topk import ShardedLayout

# A tile of scores and the blocks of a query should stay in a CPU's cache; an accelerator wants
# tiles that are few and large, and many queries at once.
_TILES: dict[str, Any] = {"cpu": {"tile_rows": 4096, "block_rows": 8, "queries_at_once": 1}}
_TILES_ACCELERATOR: dict[str, Any] = {"tile_rows": 1 << 18, "block_rows": 32, "queries_at_once": 32}
_KERNEL: dict[str, Any] = {"tile_rows": 1 << 13, "block_rows": 32}


class CorpusIndex:
    """The posts that are searched.

    Attributes:
        layout: How the vectors lie on the devices.
        device: The vectors, and which rows are valid.
        label_names: The labels by code.
        columns: What the host keeps of the posts, by row.
    """

    def __init__(
        self, snapshot: Snapshot, devices: tuple[Device, ...], scan: Scan = "tiles"
    ) -> None:
        """Copy a corpus to the devices.

        Args:
            snapshot: The corpus; its files have been verified.
            devices: One a shard.
            scan: What it is searched with.

        Raises:
            CorpusError: A vector is not finite or not of unit length, or a label is unknown.
            StartupError: It cannot be searched so on these devices.
        """
        manifest = snapshot.manifest
        self.layout = choose_layout(
            devices, rows=manifest.rows, width=manifest.embedding_size, scan=scan
        )
        self.device = self.layout.place(snapshot.vectors())
        self.label_names = tuple(manifest.label_names)
        self.columns = snapshot.columns()
        self._order = np.argsort(self.columns.post_ids).astype(np.int32)  # [N], rows by post id
        self._sorted_ids = self.columns.post_ids[self._order]  # [N]

    def rows_of(self, post_ids: npt.NDArray[np.uint64]) -> npt.NDArray[np.int32]:
        """Return the rows of posts, [n].

        Raises:
            PostNotFoundError: Some are not in the corpus; lists them.
        """
        places = np.searchsorted(self._sorted_ids, post_ids)
        places = np.minimum(places, len(self._sorted_ids) - 1)
        found = self._sorted_ids[places] == post_ids
        if not found.all():
            raise PostNotFoundError([int(post_id) for post_id in post_ids[~found]])
        return self._order[places]

    def labels_of(
        self, rows: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        """Return how many labels each row has, [n], and their codes, one row after the other."""
        offsets, codes = self.columns.label_offsets, self.columns.label_codes
        counts = offsets[rows + 1] - offsets[rows]
        starts = np.repeat(offsets[rows] - np.cumsum(counts) + counts, counts)
        return counts, codes[starts + np.arange(counts.sum())]


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
