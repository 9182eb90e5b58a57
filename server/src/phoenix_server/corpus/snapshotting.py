"""Write a newer snapshot of a corpus: the last one, and the changes since, from disk to disk.

Neither the posts in memory nor the devices are touched, so reads and writes go on.
"""

import re
import shutil
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from phoenix_server.artifacts import MANIFEST
from phoenix_server.corpus.changes import Labels, Net, Posts, net
from phoenix_server.corpus.journal import Journal
from phoenix_server.corpus.snapshot import ArrowPosts, Snapshot, open_snapshot
from phoenix_server.corpus.store import SNAPSHOTS, Store
from phoenix_server.corpus.times import UNKNOWN
from phoenix_server.corpus.writer import new_snapshot
from phoenix_server.errors import CorpusError

_CHUNK_ROWS = 1 << 14
_STAGING = re.compile(r"\.\d+\.")
_KEPT = 2  # snapshots besides the corpus as it was built


def write_snapshot(store: Store) -> Snapshot:
    """Write a snapshot with all changes in the journal; return the last one if there are none.

    Raises:
        CorpusError: The journal is damaged, or the disk refuses.
    """
    last = store.snapshot
    journal = Journal(store.journal_path, store.names, read_only=True)
    try:
        changes = list(journal.read(last.manifest.sequence))
    finally:
        journal.close()
    if not changes:
        return last
    numbers, made = zip(*changes, strict=True)
    sequence = int(numbers[-1])
    change = net(made)
    out = store.path / SNAPSHOTS / str(sequence)
    with new_snapshot(
        out,
        source=last.path,
        embedding_size=last.manifest.embedding_size,
        tower_fingerprint=last.manifest.tower_fingerprint,
        sequence=sequence,
        built_as=store.identity,
        label_names=(*last.manifest.label_names, *change.label_names),
    ) as writer:
        for posts in merged(last, change):
            writer.write(posts)
    return open_snapshot(out)


def remove_old(store: Store) -> None:
    """Remove what is left of snapshots that were interrupted, and all but the newest few.

    What does not look like either is somebody else's, and stays.
    """
    folder = store.path / SNAPSHOTS
    if not folder.is_dir():
        return
    names = [entry.name for entry in folder.iterdir()]
    numbers = sorted((name for name in names if name.isdecimal()), key=int)
    interrupted = [name for name in names if _STAGING.match(name)]  # see `new_directory`
    for name in (*numbers[:-_KEPT], *interrupted):
        shutil.rmtree(folder / name, ignore_errors=True)


def list_snapshots(store: Store) -> list[Snapshot]:
    """Return the snapshots there are, the oldest first; the corpus as it was built among them."""
    folder = store.path / SNAPSHOTS
    names = [path.parent.name for path in folder.glob(f"*/{MANIFEST}")]
    newer = sorted(int(name) for name in names if name.isdecimal())
    found = [open_snapshot(store.path)]
    for number in newer:
        try:
            found.append(open_snapshot(folder / str(number)))
        except CorpusError:  # it was removed meanwhile, or is not whole
            continue
    return found


def merged(last: Snapshot, change: Net) -> Iterator[ArrowPosts]:
    """Yield the posts of a snapshot after changes, some at a time, as `Snapshot.batches` does."""
    written = change.written
    gone = change.deleted
    if written is not None:
        gone = np.concatenate([gone, written.post_ids])
    gone = np.sort(gone)
    for posts in last.batches():
        keep = pa.array(~_among(posts.post_ids, gone))
        if keep.true_count:
            yield posts.filter(keep)
    if written is not None:
        for start in range(0, len(written), _CHUNK_ROWS):
            yield as_arrow(written.of(np.arange(start, min(start + _CHUNK_ROWS, len(written)))))


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
