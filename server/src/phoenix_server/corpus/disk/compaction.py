"""Write a newer snapshot of a corpus: merge the last snapshot with the changes since, on disk.

The corpus in memory is not involved, so reads and writes go on meanwhile. Vectors of other towers
are re-encoded.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from phoenix_server.corpus.changes import NetChange
from phoenix_server.corpus.disk.reencode import Encoder, reencode_history
from phoenix_server.corpus.disk.snapshot import (
    SNAPSHOTS,
    Snapshot,
    open_snapshot,
    to_record_batch,
    with_vectors,
)
from phoenix_server.corpus.disk.snapshot_writer import new_snapshot
from phoenix_server.corpus.disk.store import Store
from phoenix_server.runtime.arrays import U64, Bools

_CHUNK_ROWS = 1 << 14
_STAGING = re.compile(r"\.\d+(-\w+)?\.")  # a snapshot being written; see `new_directory`
_KEPT_SNAPSHOTS = 2  # besides the corpus as built


def write_snapshot(
    store: Store, encoder: Encoder, folder: Path | None = None, *, max_labels: int = 0
) -> Snapshot:
    """Write a snapshot that includes all changes in the journal.

    Its manifest lists the labels of the posts. Labels that posts had before are listed, too, unless
    there are more of them than `max_labels`, or than the last manifest lists if that are more.

    Args:
        store: The corpus.
        encoder: The towers for whose vectors the snapshot is written.
        folder: The parent directory of the snapshot. Default: that of the other snapshots.
        max_labels: The maximum number of labels that are known.

    Returns:
        The new snapshot; the last one if it has the same changes and towers.

    Raises:
        CorpusError: The journal is damaged, or writing fails.
        StorageError: The journal may hold changes that were not acknowledged.
    """
    store.check_working()
    last = store.snapshot
    history = store.read_history(last.manifest.sequence)
    same_tower = last.manifest.tower_fingerprint == encoder.tower
    if not history.changes and same_tower:
        return last
    sequence = last.manifest.sequence + history.changes
    change = reencode_history(history, encoder).net()
    out = store.snapshot_path(sequence, encoder.tower)
    if folder is not None:
        out = folder / out.name
    elif out.is_dir() and out != last.path:  # of towers that were loaded or served before
        return open_snapshot(out)
    with new_snapshot(
        out,
        source=last.path,
        embedding_size=last.manifest.embedding_size if same_tower else _width(encoder),
        tower_fingerprint=encoder.tower,
        sequence=sequence,
        built_as=store.identity,
    ) as writer:
        for batch in merge(last, change, encoder):
            writer.write(batch)
        known, used = last.manifest.label_names, writer.label_names
        unused = [name for name in dict.fromkeys((*change.label_names, *known)) if name not in used]
        used.update(unused[: max(0, max(max_labels, len(known)) - len(used))])
    return open_snapshot(out)


def _width(encoder: Encoder) -> int:
    no_ids = np.zeros(0, np.uint64)
    return encoder.encode_posts(no_ids, no_ids).shape[1]


def merge(
    snapshot: Snapshot, change: NetChange, encoder: Encoder | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield the posts of a snapshot after changes, as `Snapshot.batches` does.

    Args:
        snapshot: The snapshot.
        change: The net effect of the changes, with the encoder's vectors.
        encoder: Re-encodes the posts of a snapshot of other towers. Default: leave the vectors.
    """
    if encoder is not None and snapshot.manifest.tower_fingerprint == encoder.tower:
        encoder = None
    written = change.written
    replaced = change.deleted if written is None else np.append(change.deleted, written.post_ids)
    replaced = np.sort(replaced)
    for batch in snapshot.batches():
        keep = pa.array(~_contains(replaced, batch.column("post_id").to_numpy()))
        if keep.true_count:
            kept = batch.filter(keep)
            if encoder is not None:
                ids = kept.column("post_id").to_numpy(), kept.column("author_id").to_numpy()
                kept = with_vectors(kept, encoder.encode_posts(*ids))
            yield kept
    if written is not None:
        batch = to_record_batch(written)
        for start in range(0, batch.num_rows, _CHUNK_ROWS):
            yield batch.slice(start, _CHUNK_ROWS)


def _contains(ascending: U64, ids: U64) -> Bools:
    """Return which of [n] ids are among some sorted ids."""
    if not len(ascending):
        return np.zeros(len(ids), np.bool_)
    places = np.minimum(np.searchsorted(ascending, ids), len(ascending) - 1)
    return ascending[places] == ids


def prune_snapshots(store: Store) -> None:
    """Remove interrupted snapshots, and all but the newest two.

    The corpus as built, the snapshot in use and files of unknown names stay.
    """
    folder = store.path / SNAPSHOTS
    if not folder.is_dir():
        return
    old = [name for _, name in store.named_snapshots()[:-_KEPT_SNAPSHOTS]]
    interrupted = [entry.name for entry in folder.iterdir() if _STAGING.match(entry.name)]
    removed = [folder / name for name in interrupted]
    for name in old:
        if folder / name != store.snapshot.path:  # a name that only whole snapshots have
            removed.append((folder / name).rename(folder / f".{name}.removed"))
    for path in removed:
        shutil.rmtree(path, ignore_errors=True)
