from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from phoenix_server.build.build import build_corpus
from phoenix_server.bundle.bundle import Bundle
from phoenix_server.corpus.disk.snapshot import open_snapshot
from server.build.cases import (
    IDS,
    SMALL,
    SNOWFLAKE_MS,
    built,
    columns,
    read,
    refused,
    write,
)

_LISTS = [["b", "a"], [], ["c"]]
NOT_UTF8 = pa.array([b"a", b"\xff", b"b"]).view(pa.string())


def test_optional_columns_have_defaults(bundle: Bundle, tmp_path: Path) -> None:
    table = built(bundle, tmp_path)
    assert table.column("labels").to_pylist() == [[], [], []]
    assert table.column("created_at").cast(pa.int64()).to_pylist() == [SNOWFLAKE_MS, None, None]
    assert open_snapshot(tmp_path / "corpus").manifest.label_names == []


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string()),
        pa.list_(pa.large_string()),
        pa.large_list(pa.string()),
        pa.large_list(pa.large_string()),
        pa.large_list(pa.string_view()),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
    ],
    ids=str,
)
def test_labels_can_be_lists_of_any_string_type(
    bundle: Bundle, tmp_path: Path, kind: pa.DataType
) -> None:
    if pa.types.is_dictionary(kind.value_type):
        flat = pa.array(["b", "a", "c"]).dictionary_encode()
        labels = pa.ListArray.from_arrays(pa.array([0, 2, 2, 3], pa.int32()), flat)
    else:
        labels = pa.array(_LISTS, kind)
    table = built(bundle, tmp_path, labels=labels)
    assert table.column("labels").to_pylist() == _LISTS
    snapshot = open_snapshot(tmp_path / "corpus")
    assert snapshot.manifest.label_names == ["a", "b", "c"]
    columns = snapshot.columns()
    assert columns.labels.counts.tolist() == [2, 0, 1]
    assert columns.labels.indices.tolist() == [1, 0, 2]


def test_labels_can_be_fixed_size_lists(bundle: Bundle, tmp_path: Path) -> None:
    labels = pa.array([["a", "b"], ["c", "a"], ["d", "d"]], pa.list_(pa.string(), 2))
    table = built(bundle, tmp_path, labels=labels)
    assert table.column("labels").to_pylist() == labels.to_pylist()


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), None], ids=str)
def test_labels_can_be_strings(bundle: Bundle, tmp_path: Path, kind: pa.DataType | None) -> None:
    texts = ["b", None, ""]
    labels = pa.array(texts).dictionary_encode() if kind is None else pa.array(texts, kind)
    table = built(bundle, tmp_path, labels=labels)
    assert table.column("labels").to_pylist() == [["b"], [], []]
    assert open_snapshot(tmp_path / "corpus").manifest.label_names == ["b"]


def test_a_missing_list_is_an_empty_list(bundle: Bundle, tmp_path: Path) -> None:
    built(bundle, tmp_path, labels=pa.array([["a"], None, []], pa.list_(pa.string())))
    stored = open_snapshot(tmp_path / "corpus").columns()
    assert stored.labels.counts.tolist() == [1, 0, 0]


def test_labels_of_several_batches_stay_with_their_posts(bundle: Bundle, tmp_path: Path) -> None:
    labels = [[f"label {i % 7}"] * (i % 3) for i in range(150)]
    ids = pa.array(range(1, 151), pa.uint64())
    built(bundle, tmp_path, post_id=ids, author_id=ids, labels=labels)
    snapshot = open_snapshot(tmp_path / "corpus")
    columns, names = snapshot.columns(), snapshot.manifest.label_names
    codes = np.split(columns.labels.indices, np.cumsum(columns.labels.counts)[:-1])
    assert [[names[code] for code in own] for own in codes] == labels


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York", "+05:30"])
def test_times_become_milliseconds_in_utc(
    bundle: Bundle, tmp_path: Path, unit: Any, zone: str | None
) -> None:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    instant = datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)
    ticks = int(instant.timestamp()) * per_second
    times = pa.array([ticks, 0, None], pa.int64()).cast(pa.timestamp(unit, zone))
    created_at = built(bundle, tmp_path, created_at=times).column("created_at")
    assert str(created_at.type) == "timestamp[ms, tz=UTC]"
    assert created_at.to_pylist() == [instant, datetime(1970, 1, 1, tzinfo=UTC), None]


def test_times_are_truncated_to_milliseconds(bundle: Bundle, tmp_path: Path) -> None:
    ticks = [SNOWFLAKE_MS * 10**6 + 1_999_999, SNOWFLAKE_MS * 10**6 + 999, 999]
    times = pa.array(ticks, pa.timestamp("ns"))
    created_at = built(bundle, tmp_path, created_at=times).column("created_at")
    assert created_at.cast(pa.int64()).to_pylist() == [SNOWFLAKE_MS + 1, SNOWFLAKE_MS, 0]


def test_missing_times_are_those_in_the_ids(bundle: Bundle, tmp_path: Path) -> None:
    times = pa.array([None, 10**12, None], pa.timestamp("ms"))
    created_at = built(bundle, tmp_path, created_at=times).column("created_at")
    assert created_at.cast(pa.int64()).to_pylist() == [SNOWFLAKE_MS, 10**12, None]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_time_at_the_end_of_its_range_does_not_wrap_around(
    bundle: Bundle, tmp_path: Path, unit: Any
) -> None:
    largest = 2**63 // 1000 - 1 if unit == "s" else 2**63 - 1
    for place, ticks in enumerate((largest, -largest)):
        times = pa.array([ticks] * 3, pa.int64()).cast(pa.timestamp(unit))
        parquet = write(tmp_path / f"{place}.parquet", created_at=times)
        reason = refused([parquet], bundle, tmp_path / "corpus").reason
        limit = "more than a day from now" if ticks > 0 else "before 1971"
        assert reason.startswith("created_at in row 0 is ")
        assert reason.endswith(f", {limit}; it is in milliseconds since 1970")


def test_int96_times_do_not_wrap_around(bundle: Bundle, tmp_path: Path) -> None:
    past, future = (datetime(year, 6, 1, tzinfo=UTC) for year in (2024, 2600))

    def write_int96(name: str, moment: datetime) -> Path:
        table = pa.table(columns(created_at=pa.array([moment] * 3, pa.timestamp("us", "UTC"))))
        pq.write_table(table, tmp_path / name, use_deprecated_int96_timestamps=True)
        return tmp_path / name

    build_corpus([write_int96("past", past)], bundle, tmp_path / "corpus", SMALL)
    assert read(tmp_path / "corpus").column("created_at").to_pylist() == [past] * 3
    error = refused([write_int96("future", future)], bundle, tmp_path / "other")
    expected = f"created_at in row 0 is {round(future.timestamp() * 1000)}, more than a day from"
    assert error.reason.startswith(expected)


@pytest.mark.parametrize(
    "labels",
    [pa.nulls(3), pa.nulls(3, pa.list_(pa.null())), pa.array([[], None, []])],
    ids=lambda labels: str(labels.type),
)
def test_columns_without_a_value_are_as_if_missing(
    bundle: Bundle, tmp_path: Path, labels: pa.Array
) -> None:
    table = built(bundle, tmp_path, labels=labels, created_at=pa.nulls(3))
    assert table.column("labels").to_pylist() == [[], [], []]
    assert table.column("created_at").cast(pa.int64()).to_pylist() == [SNOWFLAKE_MS, None, None]


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint32(), pa.int16()], ids=str)
def test_ids_can_be_any_integer_type(bundle: Bundle, tmp_path: Path, kind: pa.DataType) -> None:
    ids = pa.array([3, 2, 1], kind)
    table = built(bundle, tmp_path, post_id=ids, author_id=ids)
    assert table.column("post_id").to_pylist() == [3, 2, 1]
    assert table.column("author_id").to_pylist() == [3, 2, 1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"post_id": None}, "column post_id is missing; it has author_id"),
        ({"author_id": None}, "column author_id is missing; it has post_id"),
        ({"post_id": pa.array(["1", "2", "3"])}, "post_id is string, should be uint64"),
        ({"author_id": pa.array([1.0, 2.0, 3.0])}, "author_id is double, should be uint64"),
        ({"post_id": pa.array([1, None, 3], pa.uint64())}, "post_id in row 1 is null"),
        ({"author_id": pa.array([1, None, 3], pa.uint64())}, "author_id in row 1 is null"),
        ({"post_id": pa.array([1, -2, 3])}, "post_id in row 1 is negative"),
        ({"author_id": pa.array([1, -2, 3])}, "author_id in row 1 is negative"),
        ({"post_id": pa.array([1, 0, 3])}, "post_id in row 1 is 0, which is no id"),
        ({"author_id": pa.array([1, 0, 3])}, "author_id in row 1 is 0, which is no id"),
        ({"created_at": pa.array([1, 2, 3])}, "created_at is int64, should be a timestamp"),
        (
            {"created_at": pa.array([-1, 2, 3], pa.timestamp("ms"))},
            "created_at in row 0 is -1, before 1971",
        ),
        ({"labels": pa.array([1, 2, 3])}, "labels is int64, should be a list of strings"),
        ({"labels": pa.array([[1], [], []])}, "labels is list<"),
        (
            {"labels": pa.array([["a"], [None], []])},
            "a label in row 1 is null",
        ),
        ({"labels": pa.array([["a"], [], ["b", ""]])}, "a label in row 2 is empty"),
        ({"labels": pa.array([[], ["a", "b\n"], ["b\n"]])}, "a label in row 1 holds a control"),
        ({"labels": pa.array(["a", "x" * 257, "b"])}, "a label in row 1 has 257 characters"),
        ({"labels": NOT_UTF8}, "a label after row 0 is not UTF-8"),
    ],
)
def test_an_invalid_column_is_reported(
    bundle: Bundle, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    parquet = write(tmp_path / "posts.parquet", **changes)
    error = refused([parquet], bundle, tmp_path / "corpus")
    assert error.path == parquet
    assert error.reason.startswith(reason)


def test_a_column_that_occurs_twice_is_reported(bundle: Bundle, tmp_path: Path) -> None:
    ids = pa.array(IDS, pa.uint64())
    parquet = tmp_path / "posts.parquet"
    pq.write_table(pa.table([ids, ids, ids], names=["post_id", "author_id", "post_id"]), parquet)
    assert (
        refused([parquet], bundle, tmp_path / "corpus").reason
        == "column post_id occurs more than once"
    )
