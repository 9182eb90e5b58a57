"""The columns of Parquet input: check their types and convert them to those of a corpus."""

# pyarrow creates the functions of `pc` at import, which type checkers cannot see.
# pyright: reportAttributeAccessIssue=false

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from phoenix_server.corpus.post_rules import (
    UNKNOWN,
    Fault,
    carried_times,
    find_bad_ids,
    find_bad_labels,
    find_bad_times,
)
from phoenix_server.errors import CorpusError
from phoenix_server.runtime.arrays import I64, U64

COLUMNS = ("post_id", "author_id", "created_at", "labels")
_TIMES = pa.timestamp("ms", "UTC")
_TICKS_PER_MS = {"ms": 1, "us": 1_000, "ns": 1_000_000}
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
        if not (pa.types.is_timestamp(found) or pa.types.is_null(found)):
            raise CorpusError(name, f"created_at is {found}, should be a timestamp")
    if "labels" in schema.names:
        found = schema.field("labels").type
        value = found.value_type if _is_list(found) else found
        if not (_is_text(value) or pa.types.is_null(value)):
            raise CorpusError(name, f"labels is {found}, should be a list of strings")


def check_alike(files: Sequence[tuple[Path | str, pa.Schema]]) -> None:
    """Check that the columns of files have the same meaning in all of them.

    Widths, units and encodings may differ; they do not change the values. A column of type null,
    which pandas writes if no post has a value, agrees with any other.

    Raises:
        CorpusError: Only one file has a column, only one has times with a time zone, or only one
            has lists of labels.
    """
    first_name, first = files[0]
    for column in ("created_at", "labels"):
        typed: tuple[Path | str, pa.DataType] | None = None  # the first that is not null
        for name, schema in files:
            if (here := column in schema.names) != (column in first.names):
                has = "has a column" if here else "has no column"
                raise CorpusError(name, f"{has} {column}, unlike {first_name}")
            if not here or pa.types.is_null(found := schema.field(column).type):
                continue
            typed = typed or (name, found)
            if _meaning(found) != _meaning(typed[1]):
                what = f"{column} is {found}, in {typed[0]} it is {typed[1]}"
                raise CorpusError(name, what)


def convert(name: Path | str, batch: pa.RecordBatch, row: int, now_ms: int) -> pa.RecordBatch:
    """Convert posts to the columns of `corpus_schema`, without vectors.

    Args:
        name: The file, for errors.
        batch: Columns of the file.
        row: The row of the file at which the batch starts.
        now_ms: The time at which the build began, in milliseconds since 1970 UTC.

    Raises:
        CorpusError: A value is invalid; names the row.
    """
    post_ids = _ids(name, "post_id", batch.column("post_id"), row)
    author_ids = _ids(name, "author_id", batch.column("author_id"), row)
    created_at = _created_at(name, batch, post_ids, row, now_ms)
    labels = _labels(name, batch, row)
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
        raise CorpusError(name, f"{column} in row {row + _first(values.is_null())} is null")
    if pa.types.is_signed_integer(values.type) and len(values) and pc.min(values).as_py() < 0:
        raise CorpusError(name, f"{column} in row {row + _first(pc.less(values, 0))} is negative")
    ids = values.to_numpy(zero_copy_only=False).astype(np.uint64)
    _refuse(name, column, find_bad_ids(ids), row)
    return ids


def _created_at(
    name: Path | str, batch: pa.RecordBatch, post_ids: U64, row: int, now_ms: int
) -> pa.Array:
    times = carried_times(post_ids, now_ms)
    known = times != UNKNOWN
    if "created_at" in batch.schema.names:
        column = batch.column("created_at")
        given = column.is_valid().to_numpy(zero_copy_only=False)
        if given.any():
            times = np.where(given, _milliseconds(column), times)
            known |= given
            _refuse(name, "created_at", find_bad_times(times, now_ms), row)
    return pa.array(times, mask=~known).cast(_TIMES)


def _milliseconds(times: pa.TimestampArray) -> I64:
    """Return [n] times in milliseconds, 0 where null; a fraction of a millisecond is dropped."""
    ticks = times.cast(pa.int64()).fill_null(0).to_numpy()
    if times.type.unit == "s":
        return ticks * 1000  # cannot wrap around: Parquet stores them as milliseconds
    return ticks // _TICKS_PER_MS[times.type.unit]


def _labels(name: Path | str, batch: pa.RecordBatch, row: int) -> pa.Array:
    """Return one list of strings per post; a missing list becomes empty."""
    if "labels" not in batch.schema.names or pa.types.is_null(batch.column("labels").type):
        return pa.array([[]] * batch.num_rows, _LISTS)
    labels = batch.column("labels")
    if _is_list(labels.type):
        labels = labels.cast(_LISTS)
        lengths = pc.list_value_length(labels).fill_null(0).to_numpy()
        values = labels.flatten()  # skips values stored under nulls
    else:
        texts = labels.cast(pa.string()).fill_null("")
        given = pc.not_equal(texts, "")
        lengths, values = given.to_numpy(zero_copy_only=False), texts.filter(given)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    _check_labels(name, values, offsets, row)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def _check_labels(
    name: Path | str, values: pa.StringArray, offsets: npt.NDArray[np.int64], row: int
) -> None:
    """Check the labels of all posts, of which post i has those from offsets[i] to offsets[i + 1].

    Raises:
        CorpusError: A label is invalid.
    """

    def row_of(value: int) -> int:
        return row + int(np.searchsorted(offsets, value, side="right")) - 1

    if values.null_count:
        raise CorpusError(name, f"a label in row {row_of(_first(values.is_null()))} is null")
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        raise CorpusError(name, f"a label after row {row} is not UTF-8") from None
    names = values.unique()
    for i, what in find_bad_labels(names.to_pylist()):
        raise CorpusError(
            name, f"a label in row {row_of(pc.index(values, names[i]).as_py())} {what}"
        )


def _refuse(name: Path | str, column: str, faults: Sequence[Fault], row: int) -> None:
    """Raise an error for the first fault of a column, if there is one."""
    for i, what in faults:
        raise CorpusError(name, f"{column} in row {row + i} {what}")


def _first(mask: pa.Array) -> int:
    return pc.index(mask, True).as_py()
