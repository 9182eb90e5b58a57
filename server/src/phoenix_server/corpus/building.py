"""Make a corpus of posts: the exported candidate tower encodes them, streaming."""

# pyarrow makes the functions of `pc` when it is imported, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from phoenix_server.bundle import Bundle
from phoenix_server.corpus.writer import Posts, new_snapshot, select_posts, snowflake_times
from phoenix_server.errors import CorpusError
from phoenix_server.towers import Towers

BATCH_ROWS = 8192
_TIMES = pa.timestamp("ms", "UTC")


def build_corpus(
    path: Path,
    bundle: Bundle,
    out: Path,
    *,
    drop_duplicates: bool = False,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Encode posts and write them as a corpus.

    Args:
        path: A Parquet file: post_id and author_id, integers; if it likes created_at, a timestamp
            (default: the time that a post id carries), and labels, a list of strings or a string.
        bundle: The bundle whose candidate tower encodes; its files have been verified.
        out: The directory to write; must not exist.
        drop_duplicates: Keep the first of posts that come more than once.
        report: Called with the posts written so far and their total.

    Returns:
        How many posts were written.

    Raises:
        CorpusError: The file is damaged, incomplete or odd, or `out` cannot be written.
        BundleError: The bundle cannot be used.
    """
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow)
            keep = select_posts(
                path,
                _ids(path, "post_id", file.read(columns=["post_id"]).column(0).combine_chunks()),
                drop_duplicates=drop_duplicates,
            )
            towers = Towers(bundle, jax.devices()[0])
            towers.compile_candidates(BATCH_ROWS)
            with new_snapshot(
                out,
                embedding_size=bundle.manifest.model.embedding_size,
                tower_fingerprint=bundle.manifest.tower_fingerprint,
            ) as writer:
                for posts in _encoded(path, file, keep, bundle, towers):
                    writer.write(posts)
                    report(writer.rows, int(keep.sum()))
                return writer.rows
    except FileNotFoundError:
        raise CorpusError(path, "no such file") from None
    except pa.ArrowException as exc:
        raise CorpusError(path, f"is not a Parquet file that can be read: {exc}") from exc


def _check_columns(path: Path, schema: pa.Schema) -> None:
    for name in ("post_id", "author_id"):
        if name not in schema.names:
            raise CorpusError(path, f"column {name} is missing; it has {', '.join(schema.names)}")
        if not pa.types.is_integer(schema.field(name).type):
            raise CorpusError(path, f"{name} is {schema.field(name).type}, should be uint64")
    if "created_at" in schema.names:
        found = schema.field("created_at").type
        if not pa.types.is_timestamp(found):
            raise CorpusError(path, f"created_at is {found}, should be a timestamp")
    if "labels" in schema.names:
        found = schema.field("labels").type
        inner = found.value_type if pa.types.is_list(found) else found
        if not (pa.types.is_string(inner) or pa.types.is_large_string(inner)):
            raise CorpusError(path, f"labels is {found}, should be a list of strings")


def _encoded(
    path: Path,
    file: pq.ParquetFile,
    keep: npt.NDArray[np.bool_],
    bundle: Bundle,
    towers: Towers,
) -> Iterator[Posts]:
    """Yield the posts with their vectors, a batch at a time."""
    wanted = [
        name
        for name in ("post_id", "author_id", "created_at", "labels")
        if name in file.schema_arrow.names
    ]
    row = 0
    for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=wanted):
        kept = batch.filter(pa.array(keep[row : row + batch.num_rows]))
        post_ids = _ids(path, "post_id", kept.column("post_id"), row)
        author_ids = _ids(path, "author_id", kept.column("author_id"), row)
        row += batch.num_rows
        if not len(post_ids):
            continue
        inputs = bundle.features.candidates(post_ids, author_ids, BATCH_ROWS)
        yield Posts(
            post_ids=post_ids,
            author_ids=author_ids,
            created_at=_created_at(kept, post_ids),
            labels=_labels(path, kept),
            vectors=np.asarray(towers.encode_candidates(inputs))[: len(post_ids)],
        )


def _ids(path: Path, name: str, column: pa.Array, row: int = 0) -> npt.NDArray[np.uint64]:
    if column.null_count:
        raise CorpusError(path, f"{name} is null in a row from {row} on")
    if pa.types.is_signed_integer(column.type) and len(column) and pc.min(column).as_py() < 0:
        raise CorpusError(path, f"{name} is negative in a row from {row} on")
    ids = column.to_numpy(zero_copy_only=False).astype(np.uint64)
    if (ids == 0).any():
        raise CorpusError(path, f"{name} is 0 in a row from {row} on; 0 means padding")
    return ids


def _created_at(batch: pa.RecordBatch, post_ids: npt.NDArray[np.uint64]) -> pa.Array:
    carried = snowflake_times(post_ids)
    if "created_at" not in batch.schema.names:
        return carried
    return pc.coalesce(batch.column("created_at").cast(_TIMES, safe=False), carried)


def _labels(path: Path, batch: pa.RecordBatch) -> pa.Array:
    lists = pa.list_(pa.string())
    if "labels" not in batch.schema.names:
        return pa.array([[]] * batch.num_rows, lists)
    labels = batch.column("labels")
    if not pa.types.is_list(labels.type):
        lengths = np.concatenate([[0], np.cumsum(labels.is_valid().to_numpy(zero_copy_only=False))])
        offsets = pa.array(lengths.astype(np.int32))
        return pa.ListArray.from_arrays(offsets, labels.drop_null().cast(pa.string()))
    if labels.flatten().null_count:
        raise CorpusError(path, "labels holds a list with a null in it")
    return labels.cast(lists)
