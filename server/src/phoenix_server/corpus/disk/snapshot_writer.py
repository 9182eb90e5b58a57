"""Write a corpus in batches; the directory gets its name only when it is complete."""

# pyarrow creates the functions of `pc` at import, which type checkers cannot see.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from phoenix_retrieval.v1.manifest_pb2 import CorpusManifest
from phoenix_server.artifacts import describe_file, new_directory, write_manifest
from phoenix_server.corpus.disk.snapshot import DATA, FORMAT_VERSION, check_vectors, corpus_schema
from phoenix_server.errors import CorpusError
from phoenix_server.runtime.arrays import U64, Bools


class SnapshotWriter:
    """Appends posts to a corpus.

    Attributes:
        rows: The number of posts written.
        label_names: The labels to list in the manifest: those of the posts written, and others.
    """

    def __init__(self, source: Path | str, file: pa.RecordBatchFileWriter) -> None:
        self._source = source
        self._file = file
        self.rows = 0
        self.label_names = set[str]()

    def write(self, batch: pa.RecordBatch) -> None:
        """Append posts, with the columns of `corpus_schema`.

        Raises:
            CorpusError: A vector is not finite or not of unit length; names source and post.
        """
        check_vectors(self._source, batch)
        self._file.write_batch(batch)
        self.label_names.update(pc.unique(batch.column("labels").flatten()).to_pylist())
        self.rows += batch.num_rows


@contextmanager
def new_snapshot(
    out: Path,
    *,
    source: Path | str,
    embedding_size: int,
    tower_fingerprint: str,
    sequence: int = 0,
    built_as: str = "",
    durable: bool = True,
) -> Generator[SnapshotWriter, None, None]:
    """Yield a writer of a corpus, which becomes `out` if, and only if, the block succeeds.

    Args:
        out: The directory to write; must not exist.
        source: Where the posts come from, for errors.
        embedding_size: D.
        tower_fingerprint: The fingerprint of the towers that made the vectors.
        sequence: The number of the last change that the corpus includes.
        built_as: The identity of the corpus as built, if this is a later state; see
            `CorpusManifest`.
        durable: Flush the files to the disk before the directory gets its name.

    Raises:
        CorpusError: The directory exists or cannot be written.
    """
    schema = corpus_schema(embedding_size)
    with new_directory(out, CorpusError, durable=durable) as directory:
        # A separate sink: on a full disk pyarrow cannot finish the file and would leave it open.
        with pa.OSFile(str(directory / DATA), "wb") as sink, pa.ipc.new_file(sink, schema) as file:
            writer = SnapshotWriter(source, file)
            yield writer
        manifest = CorpusManifest(
            format_version=FORMAT_VERSION,
            tower_fingerprint=tower_fingerprint,
            rows=writer.rows,
            embedding_size=embedding_size,
            dtype="float32",
            label_names=sorted(writer.label_names),
            files=[describe_file(directory, directory / DATA)],
            sequence=sequence,
            built_as=built_as,
        )
        manifest.created_at.FromDatetime(datetime.now(UTC).replace(microsecond=0))
        write_manifest(directory, manifest)


def select_posts(path: Path, post_ids: U64, *, drop_duplicates: bool) -> Bools:
    """Return which posts of a whole corpus to keep, [N] bool, by their ids, [N] u64.

    Raises:
        CorpusError: There are none, or one occurs twice and `drop_duplicates` is False.
    """
    if not len(post_ids):
        raise CorpusError(path, "holds no posts")
    _, first = np.unique(post_ids, return_index=True)
    keep = np.zeros(len(post_ids), np.bool_)
    keep[first] = True
    if not drop_duplicates and not keep.all():
        repeated = post_ids[np.flatnonzero(~keep)[0]]
        raise CorpusError(
            path,
            f"post_id {repeated} occurs more than once ({np.count_nonzero(~keep)} repeated rows); "
            "--drop-duplicates keeps the first of each",
        )
    return keep
