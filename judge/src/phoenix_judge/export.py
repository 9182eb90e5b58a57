"""Export the posts of a corpus to index libraries.

    OUT/index.json       the description; see `export_index`
    OUT/vectors.npy      [N, D] f32
    OUT/post_ids.npy     [N] u64; an index returns rows, and row i is the post `post_ids[i]`
    OUT/index.faiss      the FAISS index, if any
    OUT/scann/           the ScaNN searcher, if any

Indexes return rows because the id maps of FAISS are signed, and post ids use all 64 bits.

Shapes:
    N  posts        D  width of a vector
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from phoenix_judge.exported_index import FORMAT_VERSION, MANIFEST, POST_IDS, VECTORS
from phoenix_judge.index_builders import Options, Report, make_builder
from phoenix_server.artifacts import new_directory
from phoenix_server.corpus.changes import NetChange
from phoenix_server.corpus.disk.compaction import merge
from phoenix_server.corpus.disk.snapshot import Snapshot, batch_vectors, verify
from phoenix_server.corpus.disk.store import Store, read_with_retries
from phoenix_server.errors import CorpusError


@dataclass(frozen=True, kw_only=True)
class _Corpus:
    """The state of a corpus after one change: a snapshot and the changes since."""

    snapshot: Snapshot
    change: NetChange
    sequence: int

    def batches(self) -> Iterator[pa.RecordBatch]:
        return merge(self.snapshot, self.change)

    @property
    def width(self) -> int:
        return self.snapshot.manifest.embedding_size


def export_index(
    path: Path,
    out: Path,
    options: Options,
    *,
    tower: str = "",
    report: Report = lambda step, done, total: None,
) -> int:
    """Write the current posts of a corpus, and an index of them.

    A server may change the corpus meanwhile; the export is the state after one change. `index.json`
    describes it: format, tower_fingerprint, sequence (of the last change), rows,
    embedding_size, metric, and the options of the index.

    Args:
        path: The corpus's directory.
        out: The directory to write; must not exist.
        options: The index to build.
        tower: The fingerprint of the towers whose vectors to write. Default: the only one.
        report: Called with a step, and the number of posts done and in total.

    Returns:
        The number of posts written.

    Raises:
        CorpusError: The corpus is damaged or empty, lacks vectors of these towers or has vectors of
            several, or `out` cannot be written.
        IndexOptionError: The options do not fit the corpus.
        MissingPackageError: The library of the index is not installed.
    """
    corpus = read_with_retries(path, partial(_read, tower=tower), tower=tower)
    verify(corpus.snapshot)
    rows = sum(batch.num_rows for batch in corpus.batches())
    if not rows:
        raise CorpusError(path, "holds no posts to export")
    builder = make_builder(options, rows, corpus.width)
    manifest = {
        "format_version": FORMAT_VERSION,
        "format": "npy",
        "tower_fingerprint": corpus.snapshot.manifest.tower_fingerprint,
        "sequence": corpus.sequence,
        "rows": rows,
        "embedding_size": corpus.width,
        "metric": "inner_product",
    }
    with new_directory(out, CorpusError) as directory:
        _write_arrays(directory, corpus, rows, report)
        if builder is not None:
            vectors = np.load(directory / VECTORS, mmap_mode="r")
            builder.write(vectors, directory, report)
            manifest |= {"format": builder.format, **builder.describe()}
        text = json.dumps(manifest, indent=1)
        (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")
    return rows


def _read(store: Store, tower: str) -> _Corpus:
    """Read the current state of a corpus, without the vectors of its snapshot.

    Raises:
        CorpusError: It is damaged, lacks vectors of `tower`, or has vectors of several towers.
    """
    snapshot = store.snapshot
    history = store.read_history(snapshot.manifest.sequence)
    written = {posts.tower for posts in history.writes}
    if tower and {snapshot.manifest.tower_fingerprint, *written} != {tower}:
        raise CorpusError(
            store.path,
            f"does not hold vectors of the towers {tower[:12]} for all posts; have a server that "
            "serves them write a snapshot",
        )
    if not tower and len(written | store.towers) > 1:
        raise CorpusError(store.path, "holds vectors of several towers; choose them with --bundle")
    last = snapshot.manifest.sequence + history.changes
    return _Corpus(snapshot=snapshot, change=history.net(), sequence=last)


def _write_arrays(directory: Path, corpus: _Corpus, rows: int, report: Report) -> None:
    post_ids = np.empty(rows, np.uint64)
    start = 0
    with (directory / VECTORS).open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (rows, corpus.width)}
        )
        for batch in corpus.batches():
            file.write(np.ascontiguousarray(batch_vectors(batch), "<f4").data)
            post_ids[start : start + batch.num_rows] = batch.column("post_id").to_numpy()
            start += batch.num_rows
            report("vectors", start, rows)
    np.save(directory / POST_IDS, post_ids, allow_pickle=False)
