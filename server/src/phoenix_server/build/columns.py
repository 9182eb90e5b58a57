"""The columns of Parquet input: check their types and convert them to those of a corpus."""

# pyarrow creates the functions of `pc` at import, which type checkers cannot see.
# pyright: reportAttributeAccessIssue=false

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from phoenix_server.corpus.snowflake import UNKNOWN, carried_times
from phoenix_server.errors import CorpusError
from phoenix_server.runtime.arrays import U64

COLUMNS = ("post_id", "author_id", "created_at", "labels")
_TIMES = pa.timestamp("ms", "UTC")
_EPOCH, _LAST = pa.scalar(0, _TIMES), pa.scalar(253_402_300_799_999, _TIMES)  # to 9999-12-31
_LISTS = pa.list_(pa.string())


def check_columns(name: Path | str, schema: pa.Schema) -> None:
    """Check the columns of a file.

    Raises:
        CorpusError: A column is missing, occurs twice or has an unsupported type.
    """
    for column in COLUMNS:
        if schema.names.count(column) > 1:
            raise CorpusError(name, f"column {column} occurs more than once")
    for column in ("post_id", "author_id"):
        if column not in schema.names:
            raise CorpusError(name, f"column {column} is missing; it has {', '.join(schema.names)}")
        if not pa.types.is_integer(schema.field(column).type):
            raise CorpusError(name, f"{column} is {schema.field(column).type}, should be uint64")
    if "created_at" in schema.names:
        found = schema.field("created_at").type
        if not pa.types.is_timestamp(found):
            raise CorpusError(name, f"created_at is {found}, should be a timestamp")
    if "labels" in schema.names:
        found = schema.field("labels").type
        if not _is_text(found.value_type if _is_list(found) else found):
            raise CorpusError(name, f"labels is {found}, should be a list of strings")


def check_alike(
    name: Path | str, schema: pa.Schema, first_name: Path | str, first: pa.Schema
) -> None:
    """Check that the columns of a file have the same meaning as those of the first file.

    Widths, units and encodings may differ; they do not change the values.

    Raises:
        CorpusError: Only one file has a column, only one has times with a time zone, or only one
            has lists of labels.
    """
    for column in ("created_at", "labels"):
        here, there = column in schema.names, column in first.names
        if here != there:
            has = "has a column" if here else "has no column"
            raise CorpusError(name, f"{has} {column}, unlike {first_name}")
        if not here:
            continue
        found, expected = schema.field(column).type, first.field(column).type
        if _meaning(found) != _meaning(expected):
            raise CorpusError(name, f"{column} is {found}, in {first_name} it is {expected}")


def convert(name: Path | str, batch: pa.RecordBatch, row: int) -> pa.RecordBatch:
    """Convert posts to the columns of `corpus_schema`, without vectors.

    Args:
        name: The file, for errors.
        batch: Columns of the file.
        row: The row of the file at which the batch starts.

    Raises:
        CorpusError: A value is invalid; names the row.
    """
    post_ids = _ids(name, "post_id", batch.column("post_id"), row)
    author_ids = _ids(name, "author_id", batch.column("author_id"), row)
    created_at, labels = _created_at(name, batch, post_ids, row), _labels(name, batch, row)
    columns = [pa.array(post_ids), pa.array(author_ids), created_at, labels]
    return pa.RecordBatch.from_arrays(columns, names=list(COLUMNS))


def _meaning(found: pa.DataType) -> bool:
    return found.tz is not None if pa.types.is_timestamp(found) else _is_list(found)


def _is_list(found: pa.DataType) -> bool:
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(is_kind(found) for is_kind in kinds)


def _is_text(found: pa.DataType) -> bool:
    value = found.value_type if pa.types.is_dictionary(found) else found
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(is_kind(value) for is_kind in kinds)


def _ids(name: Path | str, column: str, values: pa.Array, row: int) -> U64:
    if values.null_count:
        raise CorpusError(name, f"{column} is null in row {row + _first(values.is_null())}")
    if pa.types.is_signed_integer(values.type) and len(values) and pc.min(values).as_py() < 0:
        raise CorpusError(name, f"{column} is negative in row {row + _first(pc.less(values, 0))}")
    ids = values.to_numpy(zero_copy_only=False).astype(np.uint64)
    if (zeros := np.flatnonzero(ids == 0)).size:
        raise CorpusError(name, f"{column} is 0 in row {row + zeros[0]}; 0 means padding")
    return ids


def _created_at(name: Path | str, batch: pa.RecordBatch, post_ids: U64, row: int) -> pa.Array:
    times = carried_times(post_ids)
    carried = pa.array(times, mask=times == UNKNOWN).cast(_TIMES)
    if "created_at" not in batch.schema.names:
        return carried
    given = batch.column("created_at").cast(_TIMES, safe=False)  # truncates to 1 ms
    odd = pc.or_(pc.less(given, _EPOCH), pc.greater(given, _LAST)).fill_null(False)
    if pc.any(odd).as_py():
        what = "created_at holds a time that is not from 1970 to 9999"
        raise CorpusError(name, f"{what} in row {row + _first(odd)}")
    return pc.coalesce(given, carried)


def _labels(name: Path | str, batch: pa.RecordBatch, row: int) -> pa.Array:
    """Return one list of strings per post; a missing list becomes empty."""
    if "labels" not in batch.schema.names:
        return pa.array([[]] * batch.num_rows, _LISTS)
    labels = batch.column("labels")
    if not _is_list(labels.type):
        texts = labels.cast(pa.string()).fill_null("")
        given = pc.not_equal(texts, "")
        return _lists(given.to_numpy(zero_copy_only=False), texts.filter(given))
    labels = labels.cast(_LISTS)
    values = labels.flatten()  # skips values stored under nulls
    if values.null_count:
        nulls = (i for i, listed in enumerate(labels.to_pylist()) if listed and None in listed)
        raise CorpusError(name, f"labels holds a list with a null in it in row {row + next(nulls)}")
    return _lists(pc.list_value_length(labels).fill_null(0).to_numpy(), values)


def _lists(lengths: npt.NDArray[np.generic], values: pa.Array) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def _first(mask: pa.Array) -> int:
    return pc.index(mask, True).as_py()
