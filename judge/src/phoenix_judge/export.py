"""Write the posts of a corpus for indexes of other libraries.

    OUT/index.json       what it is: see `export_index`
    OUT/vectors.npy      [N, D] f32
    OUT/post_ids.npy     [N] u64; an index answers with rows, and row i is the post `post_ids[i]`
    OUT/index.faiss      the FAISS index, if it is one
    OUT/scann/           the ScaNN searcher, if it is one

Rows are not ids: FAISS's own maps of ids are signed, and post ids use all 64 bits.

Shapes:
    N  posts        n  posts of a chunk        D  width of a vector
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from phoenix_judge.index_builders import (
    FaissBuilder,
    FaissOptions,
    Report,
    ScannBuilder,
    ScannOptions,
)
from phoenix_server.artifacts import new_directory
from phoenix_server.corpus.changes import NetChange
from phoenix_server.corpus.disk.compaction import merged
from phoenix_server.corpus.disk.snapshot import ArrowPosts, Snapshot, verify
from phoenix_server.corpus.disk.store import Store, read_with_retries
from phoenix_server.errors import CorpusError

MANIFEST = "index.json"
VECTORS = "vectors.npy"
POST_IDS = "post_ids.npy"
FORMAT_VERSION = 1

Options = FaissOptions | ScannOptions | None
"""An index besides the posts; None: the posts alone."""


@dataclass(frozen=True, kw_only=True)
class _Corpus:
    """A corpus at one moment: a snapshot and what came after it."""

    snapshot: Snapshot
    change: NetChange
    sequence: int

    def batches(self) -> Iterator[ArrowPosts]:
        return merged(self.snapshot, self.change)

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
    """Write the posts that a corpus holds now, and an index of them.

    A server may take changes of the corpus meanwhile; what is written is the state after one of
    them. `index.json` names it: format, tower_fingerprint, sequence (of the last change), rows,
    embedding_size, metric, and how the index was made.

    Args:
        path: The corpus's directory.
        out: The directory to write; must not exist.
        options: The index to make.
        tower: The fingerprint of the towers whose vectors to write. Default: there is one.
        report: Called with a step, and with how many of how many posts are through it.

    Returns:
        How many posts were written.

    Raises:
        CorpusError: The corpus is damaged or empty, has no vectors of these towers or of several,
            or `out` cannot be written.
        IndexOptionError: The index cannot be made as the options say.
        StartupError: The library of the index is not installed.
    """
    corpus = read_with_retries(path, partial(_read, tower=tower), tower=tower)
    verify(corpus.snapshot)
    rows = sum(len(posts.post_ids) for posts in corpus.batches())
    if not rows:
        raise CorpusError(path, "holds no posts to export")
    builder = _builder(options, rows, corpus.width)
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


def _builder(options: Options, rows: int, width: int) -> FaissBuilder | ScannBuilder | None:
    match options:
        case FaissOptions():
            return FaissBuilder(options, width)
        case ScannOptions():
            return ScannBuilder(options, rows)
        case None:
            return None


def _read(store: Store, tower: str) -> _Corpus:
    """Read what a corpus holds now, without the vectors of its snapshot.

    Raises:
        CorpusError: It is damaged, has no vectors of some towers, or of several.
    """
    history = store.history()
    snapshot = store.snapshot
    written = {posts.tower for posts in history.writes}
    if tower and {snapshot.manifest.tower_fingerprint, *written} != {tower}:
        raise CorpusError(
            store.path,
            f"does not hold vectors of the towers {tower[:12]} for all posts; have a server that "
            "serves them write a snapshot",
        )
    if not tower and len(written | store.towers) > 1:
        raise CorpusError(store.path, "holds vectors of several towers; --bundle tells of which")
    last = snapshot.manifest.sequence + history.changes
    return _Corpus(snapshot=snapshot, change=history.net(), sequence=last)


def _write_arrays(directory: Path, corpus: _Corpus, rows: int, report: Report) -> None:
    post_ids = np.empty(rows, np.uint64)
    start = 0
    with (directory / VECTORS).open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (rows, corpus.width)}
        )
        for posts in corpus.batches():
            vectors: npt.NDArray[np.float32] = np.ascontiguousarray(posts.vectors, "<f4")
            file.write(vectors.data)
            post_ids[start : start + len(vectors)] = posts.post_ids
            start += len(vectors)
            report("vectors", start, rows)
    np.save(directory / POST_IDS, post_ids, allow_pickle=False)
