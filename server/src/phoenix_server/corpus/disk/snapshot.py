"""Read a corpus on disk: Arrow IPC data beside a manifest.

`posts.arrow` has the columns post_id (u64), author_id (u64), created_at (timestamp[ms, UTC], null
where unknown), labels (list of strings) and vector (fixed-size list of f32); pandas, polars and
DuckDB can open it. On disk and while they are copied, posts are record batches of these columns.

Shapes:
    N  posts of the corpus        n  posts of a batch        D  width of a vector
"""

# pyarrow creates the functions of `pc` at import, which type checkers cannot see.
# pyright: reportAttributeAccessIssue=false

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from phoenix_retrieval.v1.manifest_pb2 import CorpusManifest
from phoenix_server.artifacts import read_manifest, verify_files
from phoenix_server.corpus.changes import Labels, PostColumns, Posts
from phoenix_server.corpus.post_rules import UNKNOWN
from phoenix_server.errors import CorpusError
from phoenix_server.runtime.arrays import F32

FORMAT_VERSION = 1
DATA = "posts.arrow"
SNAPSHOTS = "snapshots"
_NAME = re.compile(r"(\d+)(-\w+)?")
_UNIT_TOLERANCE = 2e-3  # of a squared length; float16 rounding of a unit vector stays within


class SnapshotName(NamedTuple):
    """The name of a snapshot's directory, and the number of its last change, to sort by."""

    sequence: int
    name: str


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A corpus on disk.

    Attributes:
        path: Its directory.
        manifest: Its description.
    """

    path: Path
    manifest: CorpusManifest

    def columns(self) -> PostColumns:
        """Copy all columns but the vectors into memory; label indices refer to the manifest.

        Raises:
            CorpusError: The manifest does not list a label.
        """
        names = tuple(self.manifest.label_names)
        with pa.memory_map(str(self.path / DATA)) as source, pa.ipc.open_file(source) as reader:
            table = reader.read_all().drop_columns(["vector"])
            labels = pc.fill_null(table["labels"], [])
            indices = pc.index_in(pc.list_flatten(labels), pa.array(names, pa.string()))
            if indices.null_count:
                raise CorpusError(self.path, "holds labels that its manifest does not list")
            return PostColumns(
                post_ids=np.array(table["post_id"]),
                author_ids=np.array(table["author_id"]),
                created_at_unix_ms=np.array(table["created_at"].cast(pa.int64()).fill_null(0)),
                labels=Labels(names, np.array(pc.list_value_length(labels)), np.array(indices)),
            )

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield all posts, in order; each batch is valid until the next one is requested."""
        with pa.memory_map(str(self.path / DATA)) as source, pa.ipc.open_file(source) as reader:
            yield from map(reader.get_batch, range(reader.num_record_batches))

    def vectors(self) -> Iterator[F32]:
        """Yield all vectors, in chunks [n, D], each valid until the next one is requested.

        Raises:
            CorpusError: A vector is not finite or not of unit length.
        """
        for batch in self.batches():
            check_vectors(self.path, batch)
            yield batch_vectors(batch)


def list_snapshot_names(path: Path) -> list[SnapshotName]:
    """Return the names of all snapshots of a corpus but the corpus as built, oldest first."""
    folder = path / SNAPSHOTS
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    matches = map(_NAME.fullmatch, names)
    return sorted(SnapshotName(int(match[1]), match[0]) for match in matches if match)


def open_snapshot(path: Path) -> Snapshot:
    """Read and check a corpus's manifest, but not the data; see `verify`.

    Raises:
        CorpusError: It is not a corpus of a format version that this server reads.
    """
    manifest = read_manifest(path, CorpusManifest(), CorpusError, version=FORMAT_VERSION)
    if [file.path for file in manifest.files] != [DATA]:
        raise CorpusError(path, f"should list {DATA} alone; this corpus is incomplete")
    if not manifest.rows and not manifest.sequence:
        raise CorpusError(path, "holds no posts")
    return Snapshot(path=path, manifest=manifest)


def verify(snapshot: Snapshot) -> None:
    """Check the data of a corpus against its manifest.

    Raises:
        CorpusError: The data are missing, truncated, changed, or do not match the manifest.
    """
    manifest, path = snapshot.manifest, snapshot.path / DATA
    verify_files(snapshot.path, manifest.files, CorpusError)
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
            schema = reader.schema
            rows = sum(reader.get_batch(i).num_rows for i in range(reader.num_record_batches))
    except (pa.ArrowException, OSError) as exc:
        raise CorpusError(path, f"is not Arrow IPC data: {exc}") from exc
    if not schema.equals(corpus_schema(manifest.embedding_size)):
        raise CorpusError(path, f"has other columns than a corpus: {', '.join(schema.names)}")
    if rows != manifest.rows:
        raise CorpusError(path, f"holds {rows} posts, the manifest says {manifest.rows}")


def corpus_schema(embedding_size: int) -> pa.Schema:
    """Return the schema of `posts.arrow`."""
    return pa.schema(
        [
            pa.field("post_id", pa.uint64(), nullable=False),
            pa.field("author_id", pa.uint64(), nullable=False),
            pa.field("created_at", pa.timestamp("ms", "UTC")),
            pa.field("labels", pa.list_(pa.string())),
            pa.field("vector", pa.list_(pa.float32(), embedding_size), nullable=False),
        ]
    )


def with_vectors(batch: pa.RecordBatch, vectors: F32) -> pa.RecordBatch:
    """Return [n] posts with [n, D] vectors, as `corpus_schema` has them.

    Args:
        batch: The other columns, in the order of the schema, with or without a column of vectors.
        vectors: The vectors.
    """
    schema = corpus_schema(vectors.shape[1])
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]).cast(schema[-1].type)
    return pa.RecordBatch.from_arrays([*batch.columns[:4], column], schema=schema)


def to_record_batch(posts: Posts) -> pa.RecordBatch:
    """Convert posts to a record batch of `corpus_schema`."""
    schema = corpus_schema(posts.vectors.shape[1])
    times = pa.array(posts.created_at_unix_ms, mask=posts.created_at_unix_ms == UNKNOWN)
    ends = np.cumsum(posts.labels.counts, dtype=np.int32)
    names = pa.array(posts.labels.names, pa.string()).take(pa.array(posts.labels.indices))
    columns = [
        pa.array(posts.post_ids),
        pa.array(posts.author_ids),
        times.cast(schema.field("created_at").type),
        pa.ListArray.from_arrays(pa.array(np.append(np.int32(0), ends)), names),
    ]
    return with_vectors(pa.RecordBatch.from_arrays(columns, names=schema.names[:4]), posts.vectors)


def batch_vectors(batch: pa.RecordBatch) -> F32:
    """Return the vectors of [n] posts, [n, D], without copying them."""
    column = batch.column("vector")
    return column.flatten().to_numpy().reshape(-1, column.type.list_size)


def check_vectors(path: Path | str, batch: pa.RecordBatch) -> None:
    """Check that the vectors of posts are finite and of unit length.

    Raises:
        CorpusError: One is not; names the file and the post.
    """
    if odd := find_odd_vectors(batch_vectors(batch)):
        place, what = odd[0]
        post_id = batch.column("post_id")[place]
        raise CorpusError(
            path, f"the vector of post {post_id} {what} ({len(odd)} such vectors in this batch)"
        )


def find_odd_vectors(vectors: F32) -> list[tuple[int, str]]:
    """Return which of [n, D] vectors are not unit vectors, and what is wrong with each."""
    squares = np.einsum("nd,nd->n", vectors, vectors)
    odd = np.flatnonzero(~(np.abs(squares - 1) <= _UNIT_TOLERANCE))
    lengths = np.linalg.norm(vectors[odd].astype(np.float64), axis=1)  # squares may overflow
    return [
        (int(i), f"has length {length:.6g}, not 1" if np.isfinite(length) else "is not finite")
        for i, length in zip(odd, lengths, strict=True)
    ]
