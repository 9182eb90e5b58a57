"""Read a corpus on disk: Arrow IPC data beside a manifest.

`posts.arrow` has the columns post_id (u64), author_id (u64), created_at (timestamp[ms, UTC], null
where unknown), labels (list of strings) and vector (fixed-size list of f32), and opens in pandas,
polars or DuckDB.

Shapes:
    N  posts        n  posts of a chunk        D  width of a vector        L  labels of all posts
"""

# pyarrow makes the functions of `pc` when it is imported, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from phoenix_retrieval.v1.manifest_pb2 import CorpusManifest
from phoenix_server.artifacts import read_manifest, verify_files
from phoenix_server.corpus.changes import Labels, PostColumns
from phoenix_server.errors import CorpusError

FORMAT_VERSION = 1
DATA = "posts.arrow"
_UNIT_TOLERANCE = 2e-3  # of a squared length; what float16 leaves of a unit vector is within


class ArrowPosts(NamedTuple):
    """ArrowPosts as they are on the disk, in columns of equal length n.

    Attributes:
        post_ids: [n] u64.
        author_ids: [n] u64.
        created_at: [n] timestamp[ms, UTC], null where unknown.
        labels: [n] lists of strings.
        vectors: [n, D] f32 unit vectors.
    """

    post_ids: npt.NDArray[np.uint64]
    author_ids: npt.NDArray[np.uint64]
    created_at: pa.Array
    labels: pa.Array
    vectors: npt.NDArray[np.float32]

    def filter(self, keep: pa.Array) -> "ArrowPosts":
        """Return the posts for which [n] bool is true."""
        mask = keep.to_numpy(zero_copy_only=False)
        return ArrowPosts(
            self.post_ids[mask],
            self.author_ids[mask],
            self.created_at.filter(keep),
            self.labels.filter(keep),
            self.vectors[mask],
        )


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A corpus on disk.

    Attributes:
        path: Its directory.
        manifest: What it says of itself.
    """

    path: Path
    manifest: CorpusManifest

    def columns(self) -> PostColumns:
        """Copy all columns but the vectors into memory.

        Raises:
            CorpusError: A label is not one of the manifest's.
        """
        names = tuple(self.manifest.label_names)
        with pa.memory_map(str(self.path / DATA)) as source, pa.ipc.open_file(source) as reader:
            table = reader.read_all().drop_columns(["vector"])
            labels = pc.fill_null(table["labels"], [])
            indices = pc.index_in(pc.list_flatten(labels), pa.array(names, pa.string()))
            if indices.null_count:
                raise CorpusError(self.path, "holds labels that its manifest does not list")
            created_at = table["created_at"].cast(pa.int64()).fill_null(0)
            counts = pc.list_value_length(labels)
            return PostColumns(
                post_ids=np.array(table["post_id"]),
                author_ids=np.array(table["author_id"]),
                created_at_unix_ms=np.array(created_at),
                labels=Labels(names, np.array(counts), np.array(indices)),
            )

    def batches(self) -> Iterator[ArrowPosts]:
        """Yield all posts, in order, a batch at a time; each good until the next is asked for."""
        with _batches(self.path / DATA) as batches:
            for batch in batches:
                vectors = batch.column("vector").flatten().to_numpy()
                yield ArrowPosts(
                    batch.column("post_id").to_numpy(),
                    batch.column("author_id").to_numpy(),
                    batch.column("created_at"),
                    batch.column("labels"),
                    vectors.reshape(-1, self.manifest.embedding_size),
                )

    def vectors(self) -> Iterator[npt.NDArray[np.float32]]:
        """Yield the vectors in chunks [n, D], each good until the next is asked for.

        Raises:
            CorpusError: A vector is not finite or not of unit length.
        """
        with _batches(self.path / DATA) as batches:
            for batch in batches:
                vectors = batch.column("vector").flatten().to_numpy()
                vectors = vectors.reshape(-1, self.manifest.embedding_size)
                check_vectors(self.path, batch.column("post_id").to_numpy(), vectors)
                yield vectors


def open_snapshot(path: Path) -> Snapshot:
    """Read a corpus's manifest, and check what it lists but not the contents (`verify`).

    Raises:
        CorpusError: It is not a corpus of a version that this server reads.
    """
    manifest = read_manifest(path, CorpusManifest(), CorpusError)
    if manifest.format_version != FORMAT_VERSION:
        raise CorpusError(
            path,
            f"has format version {manifest.format_version}, this server reads {FORMAT_VERSION}",
        )
    if [file.path for file in manifest.files] != [DATA]:
        raise CorpusError(path, f"should list {DATA} alone; this corpus is not whole")
    if not manifest.rows and not manifest.sequence:
        raise CorpusError(path, "holds no posts")
    return Snapshot(path=path, manifest=manifest)


def verify(snapshot: Snapshot) -> None:
    """Check the contents of a corpus.

    Raises:
        CorpusError: The data are missing, truncated, changed, or not what the manifest says.
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
    """Return the columns of `posts.arrow`."""
    return pa.schema(
        [
            pa.field("post_id", pa.uint64(), nullable=False),
            pa.field("author_id", pa.uint64(), nullable=False),
            pa.field("created_at", pa.timestamp("ms", "UTC")),
            pa.field("labels", pa.list_(pa.string())),
            pa.field("vector", pa.list_(pa.float32(), embedding_size), nullable=False),
        ]
    )


def check_vectors(
    path: Path | str, post_ids: npt.NDArray[np.uint64], vectors: npt.NDArray[np.float32]
) -> None:
    """Check that vectors [n, D] are finite and of unit length.

    Raises:
        CorpusError: One is not; names the file and the post.
    """
    squares = np.einsum("nd,nd->n", vectors, vectors)
    odd = odd_vectors(squares)
    if odd.size:
        length = float(squares[odd[0]]) ** 0.5
        what = f"has length {length:.6g}, not 1" if np.isfinite(length) else "is not finite"
        raise CorpusError(
            path, f"the vector of post {post_ids[odd[0]]} {what} ({odd.size} such near it)"
        )


def odd_vectors(squares: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Return which of [n] squared lengths are not those of unit vectors."""
    return np.flatnonzero(~(np.abs(squares - 1) <= _UNIT_TOLERANCE))


@contextmanager
def _batches(path: Path) -> Generator[Iterator[pa.RecordBatch], None, None]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        yield (reader.get_batch(i) for i in range(reader.num_record_batches))
