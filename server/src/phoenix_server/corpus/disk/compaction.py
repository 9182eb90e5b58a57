"""Write a newer snapshot of a corpus: the last one, and the changes since, from disk to disk.

The posts in memory are not touched, so reads and writes go on. What has vectors of other towers is
encoded anew.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from phoenix_server.corpus.changes import History, Labels, NetChange, Posts
from phoenix_server.corpus.disk.journal import Journal
from phoenix_server.corpus.disk.reencode import Encoder, reencode_batch, reencode_history
from phoenix_server.corpus.disk.snapshot import ArrowPosts, Snapshot, open_snapshot
from phoenix_server.corpus.disk.snapshot_writer import new_snapshot
from phoenix_server.corpus.disk.store import SNAPSHOTS, Store
from phoenix_server.corpus.snowflake import UNKNOWN
from phoenix_server.errors import CorpusError

_CHUNK_ROWS = 1 << 14
_STAGING = re.compile(r"\.\d+(-\w+)?\.")
_KEPT = 2  # snapshots besides the corpus as it was built


def write_snapshot(store: Store, encoder: Encoder, folder: Path | None = None) -> Snapshot:
    """Write a snapshot with all changes in the journal; return the last one if nothing is new.

    Args:
        store: The corpus.
        encoder: The towers whose vectors it is to hold.
        folder: Where to write it. Default: among the others.

    Raises:
        CorpusError: The journal is damaged, or the disk refuses.
    """
    last = store.snapshot
    history = read_history(store, last.manifest.sequence)
    if not history.changes and last.manifest.tower_fingerprint == encoder.tower:
        return last
    sequence = last.manifest.sequence + history.changes
    change = reencode_history(history, encoder).net()
    out = store.snapshot_path(sequence, encoder.tower)
    if folder is not None:
        out = folder / out.name
    elif out.is_dir() and out != last.path:  # of towers that served before, or were only loaded
        return open_snapshot(out)
    with new_snapshot(
        out,
        source=last.path,
        embedding_size=_width(last, encoder),
        tower_fingerprint=encoder.tower,
        sequence=sequence,
        built_as=store.identity,
        label_names=(*last.manifest.label_names, *change.label_names),
    ) as writer:
        for posts in merged(last, change, encoder):
            writer.write(posts)
    return open_snapshot(out)


def _width(last: Snapshot, encoder: Encoder) -> int:
    if last.manifest.tower_fingerprint == encoder.tower:
        return last.manifest.embedding_size
    nobody = np.zeros(0, np.uint64)
    return encoder.encode_posts(nobody, nobody).shape[1]


def read_history(store: Store, after: int) -> History:
    """Return the changes after one; from any thread, while others are written.

    Raises:
        CorpusError: One is missing, or damaged.
    """
    if not store.journal_path.exists():  # read-only, and nobody has changed it
        return History.of([])
    journal = Journal(store.journal_path, store.names, read_only=True)
    try:
        return journal.read_history(after)
    finally:
        journal.close()


def prune_snapshots(store: Store) -> None:
    """Remove what is left of snapshots that were interrupted, and all but the newest few.

    What does not look like either is somebody else's, and stays.
    """
    folder = store.path / SNAPSHOTS
    if not folder.is_dir():
        return
    names = [entry.name for entry in folder.iterdir()]
    old = [name for _, name in store.named_snapshots()[:-_KEPT]]
    interrupted = [name for name in names if _STAGING.match(name)]  # see `new_directory`
    for name in (*old, *interrupted):
        if folder / name != store.snapshot.path:
            shutil.rmtree(folder / name, ignore_errors=True)


def list_snapshots(store: Store) -> list[Snapshot]:
    """Return the snapshots there are, the oldest first; the corpus as it was built among them."""
    folder = store.path / SNAPSHOTS
    found = [open_snapshot(store.path)]
    for _, name in store.named_snapshots():
        try:
            found.append(open_snapshot(folder / name))
        except CorpusError:  # it was removed meanwhile, or is not whole
            continue
    return found


def merged(
    last: Snapshot, change: NetChange, encoder: Encoder | None = None
) -> Iterator[ArrowPosts]:
    """Yield the posts of a snapshot after changes, some at a time, as `Snapshot.batches` does.

    Args:
        last: The snapshot.
        change: The changes, with an encoder's vectors.
        encoder: Makes the vectors of the snapshot, if those that it has are of other towers.
    """
    if encoder is not None and last.manifest.tower_fingerprint == encoder.tower:
        encoder = None
    written = change.written
    gone = change.deleted
    if written is not None:
        gone = np.concatenate([gone, written.post_ids])
    gone = np.sort(gone)
    for posts in last.batches():
        keep = pa.array(~_among(posts.post_ids, gone))
        if keep.true_count:
            kept = posts.filter(keep)
            yield reencode_batch(kept, encoder) if encoder else kept
    if written is not None:
        for start in range(0, len(written), _CHUNK_ROWS):
            yield as_arrow(written.take(np.arange(start, min(start + _CHUNK_ROWS, len(written)))))


def _among(ids: npt.NDArray[np.uint64], ascending: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    if not len(ascending):
        return np.zeros(len(ids), np.bool_)
    places = np.minimum(np.searchsorted(ascending, ids), len(ascending) - 1)
    return ascending[places] == ids


def as_arrow(posts: Posts) -> ArrowPosts:
    """Return posts as a snapshot has them."""
    times = pa.array(posts.created_at_unix_ms, mask=posts.created_at_unix_ms == UNKNOWN)
    return ArrowPosts(
        post_ids=posts.post_ids,
        author_ids=posts.author_ids,
        created_at=times.cast(pa.timestamp("ms", "UTC")),
        labels=_label_lists(posts.labels),
        vectors=posts.vectors,
    )


def _label_lists(labels: Labels) -> pa.Array:
    names = pa.array(labels.names, pa.string())
    offsets = np.concatenate([[0], np.cumsum(labels.counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), names.take(pa.array(labels.indices)))
