"""Make a corpus of posts: the exported candidate tower encodes them, streaming."""

# pyarrow makes the functions of `pc` when it is imported, out of a type checker's sight.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from phoenix_server.bundle import Bundle
from phoenix_server.corpus.snapshot import ArrowPosts
from phoenix_server.corpus.writer import new_snapshot, select_posts, snowflake_times
from phoenix_server.errors import CorpusError
from phoenix_server.towers import Towers

BATCH_ROWS = 8192
_COLUMNS = ("post_id", "author_id", "created_at", "labels")
_TIMES = pa.timestamp("ms", "UTC")
_EPOCH, _LAST = pa.scalar(0, _TIMES), pa.scalar(253_402_300_799_999, _TIMES)  # to 9999-12-31


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
            since 1970, in UTC unless it names a zone (default: the time that a post id carries),
            and labels, a list of strings or a string.
        bundle: The bundle whose candidate tower encodes; its files have been verified.
        out: The directory to write; must not exist.
        drop_duplicates: Keep the first of posts that come more than once.
        report: Called with the posts written so far and their total.

    Returns:
        How many posts were written.

    Raises:
        CorpusError: The file is damaged, incomplete or odd, or `out` cannot be written.
        BundleError: The bundle cannot be used, or its towers fail the self-test on this device.
    """
    with _reading(path):
        file = pq.ParquetFile(path, page_checksum_verification=True)
    with file:
        _check_columns(path, file.schema_arrow)
        with _reading(path):
            post_ids = file.read(columns=["post_id"]).column(0).combine_chunks()
        keep = select_posts(path, _ids(path, "post_id", post_ids), drop_duplicates=drop_duplicates)
        towers = Towers(bundle, jax.devices()[0])
        towers.compile_candidates(BATCH_ROWS)
        towers.self_test()
        with new_snapshot(
            out,
            source=path,
            embedding_size=bundle.manifest.model.embedding_size,
            tower_fingerprint=bundle.manifest.tower_fingerprint,
        ) as writer:
            for posts in _encoded(path, file, keep, bundle, towers):
                writer.write(posts)
                report(writer.rows, int(keep.sum()))
            return writer.rows


@contextmanager
def _reading(path: Path) -> Generator[None, None, None]:
    """Say of what goes wrong that it is the file's fault."""
    try:
        yield
    except FileNotFoundError:
        raise CorpusError(path, "no such file") from None
    except (pa.ArrowException, OSError) as exc:  # OSError: what is compressed is damaged
        raise CorpusError(path, f"is not a Parquet file that can be read: {exc}") from exc


def _check_columns(path: Path, schema: pa.Schema) -> None:
    for name in _COLUMNS:
        if schema.names.count(name) > 1:
            raise CorpusError(path, f"column {name} comes more than once")
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
        if not _is_text(found.value_type if _is_list(found) else found):
            raise CorpusError(path, f"labels is {found}, should be a list of strings")


def _is_list(found: pa.DataType) -> bool:
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(found) for is_kind in kinds)


def _is_text(found: pa.DataType) -> bool:
    value = found.value_type if pa.types.is_dictionary(found) else found
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_kind(value) for is_kind in kinds)


def _encoded(
    path: Path,
    file: pq.ParquetFile,
    keep: npt.NDArray[np.bool_],
    bundle: Bundle,
    towers: Towers,
) -> Iterator[ArrowPosts]:
    """Yield the posts with their vectors, a batch at a time."""
    row = 0
    for batch in _batches(path, file):
        mask = pa.array(keep[row : row + batch.num_rows])
        labels = _labels(path, batch).filter(mask)  # first: Arrow cannot filter all kinds
        kept = batch.select([name for name in batch.schema.names if name != "labels"]).filter(mask)
        post_ids = _ids(path, "post_id", kept.column("post_id"), row)
        author_ids = _ids(path, "author_id", kept.column("author_id"), row)
        row += batch.num_rows
        if not len(post_ids):
            continue
        inputs = bundle.features.candidates(post_ids, author_ids, BATCH_ROWS)
        yield ArrowPosts(
            post_ids=post_ids,
            author_ids=author_ids,
            created_at=_created_at(path, kept, post_ids),
            labels=labels,
            vectors=np.asarray(towers.encode_candidates(inputs))[: len(post_ids)],
        )


def _batches(path: Path, file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    wanted = [name for name in _COLUMNS if name in file.schema_arrow.names]
    with _reading(path):
        yield from file.iter_batches(batch_size=BATCH_ROWS, columns=wanted)


def _ids(path: Path, name: str, column: pa.Array, row: int = 0) -> npt.NDArray[np.uint64]:
    if column.null_count:
        raise CorpusError(path, f"{name} is null in a row from {row} on")
    if pa.types.is_signed_integer(column.type) and len(column) and pc.min(column).as_py() < 0:
        raise CorpusError(path, f"{name} is negative in a row from {row} on")
    ids = column.to_numpy(zero_copy_only=False).astype(np.uint64)
    if (ids == 0).any():
        raise CorpusError(path, f"{name} is 0 in a row from {row} on; 0 means padding")
    return ids


def _created_at(path: Path, batch: pa.RecordBatch, post_ids: npt.NDArray[np.uint64]) -> pa.Array:
    carried = snowflake_times(post_ids)
    if "created_at" not in batch.schema.names:
        return carried
    given = batch.column("created_at").cast(_TIMES, safe=False)  # drops what is below 1 ms
    if pc.any(pc.or_(pc.less(given, _EPOCH), pc.greater(given, _LAST))).as_py():
        raise CorpusError(path, "created_at holds a time that is not from 1970 to 9999")
    return pc.coalesce(given, carried)


def _labels(path: Path, batch: pa.RecordBatch) -> pa.Array:
    lists = pa.list_(pa.string())
    if "labels" not in batch.schema.names:
        return pa.array([[]] * batch.num_rows, lists)
    labels = batch.column("labels")
    if not _is_list(labels.type):
        texts = labels.cast(pa.string()).fill_null("")
        given = pc.not_equal(texts, "")
        offsets = np.concatenate([[0], np.cumsum(given.to_numpy(zero_copy_only=False))])
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), texts.filter(given))
    labels = labels.cast(lists)
    if labels.flatten().null_count:
        raise CorpusError(path, "labels holds a list with a null in it")
    return labels
