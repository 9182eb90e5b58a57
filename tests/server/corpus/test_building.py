from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from phoenix_export.checkpoint import open_checkpoint
from phoenix_model import encode_candidates, hash_ids, unflatten_params
from phoenix_server.bundle import Bundle, open_bundle
from phoenix_server.corpus import building
from phoenix_server.corpus.building import build_corpus
from phoenix_server.corpus.snapshot import open_snapshot, verify
from phoenix_server.engine import Engine
from phoenix_server.errors import BundleError, CorpusError
from server.cases import SMALL_ID, copied

_SNOWFLAKE_EPOCH_MS = 1_288_834_974_657
_SNOWFLAKE = 2_004_433_092_001_269_499
_SNOWFLAKE_MS = (_SNOWFLAKE >> 22) + _SNOWFLAKE_EPOCH_MS
_IDS = [_SNOWFLAKE, 2**64 - 1, SMALL_ID]
_AUTHORS = [2**63, 1, 17]
_LISTS = [["b", "a"], [], ["c"]]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "BATCH_ROWS", 64)


def _columns(**changes: Any) -> dict[str, Any]:
    columns = {
        "post_id": pa.array(_IDS, pa.uint64()),
        "author_id": pa.array(_AUTHORS, pa.uint64()),
    }
    return {name: column for name, column in (columns | changes).items() if column is not None}


def _write(path: Path, **changes: Any) -> Path:
    pq.write_table(pa.table(_columns(**changes)), path)
    return path


def _built(bundle: Bundle, folder: Path, **changes: Any) -> pa.Table:
    """Build a corpus of three posts, and return it."""
    build_corpus(_write(folder / "posts.parquet", **changes), bundle, folder / "corpus")
    verify(open_snapshot(folder / "corpus"))
    with pa.memory_map(str(folder / "corpus" / "posts.arrow")) as source:
        return pa.ipc.open_file(source).read_all()


def _refused(parquet: Path, bundle: Bundle) -> CorpusError:
    """Check that building fails and leaves nothing behind; return why."""
    before = sorted(parquet.parent.iterdir())
    with pytest.raises(CorpusError) as caught:
        build_corpus(parquet, bundle, parquet.parent / "corpus")
    assert sorted(parquet.parent.iterdir()) == before
    assert str(caught.value).startswith(f"{caught.value.path}: ")
    return caught.value


def _model_vectors(
    layout: Path, bundle: Bundle, post_ids: npt.NDArray[Any], author_ids: npt.NDArray[Any]
) -> npt.NDArray[np.float32]:
    """Encode posts with the model that the bundle was exported from."""
    checkpoint = open_checkpoint(layout, "float32")
    weights = load_file(bundle.path / "weights.safetensors")
    used = {name: array for name, array in weights.items() if "candidate_tower" in name}
    embeddings = [
        bundle.load_table(f"{entity}_embeddings")[hash_ids(ids, checkpoint.hashes[entity])]
        for entity, ids in (("item", post_ids), ("author", author_ids))
    ]
    return encode_candidates(checkpoint.model, unflatten_params(used), *embeddings)


def test_vectors_are_the_candidate_towers(
    golden_layout: Path, bundle: Bundle, engine: Engine, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    post_ids, author_ids = rng.integers(1, 2**64, (2, 203), np.uint64)
    parquet, reported = tmp_path / "posts.parquet", list[tuple[int, int]]()
    pq.write_table(
        pa.table({"author_id": author_ids, "other": post_ids, "post_id": post_ids}),
        parquet,
        row_group_size=50,  # 64 rows a batch: neither divides the other, nor 203
    )
    written = build_corpus(
        parquet,
        bundle,
        tmp_path / "corpus",
        report=lambda done, total: reported.append((done, total)),
    )
    assert written == 203
    assert reported[-1] == (203, 203)
    assert reported == sorted(reported)
    snapshot = open_snapshot(tmp_path / "corpus")
    verify(snapshot)
    assert snapshot.manifest.tower_fingerprint == bundle.manifest.tower_fingerprint
    columns, vectors = snapshot.columns(), np.concatenate(list(snapshot.vectors()))
    np.testing.assert_array_equal(columns.post_ids, post_ids)
    np.testing.assert_array_equal(columns.author_ids, author_ids)
    served = engine.encode_candidates(post_ids, author_ids)
    np.testing.assert_allclose(vectors, served, rtol=0, atol=1e-6)
    modelled = _model_vectors(golden_layout, bundle, post_ids, author_ids)
    np.testing.assert_allclose(vectors, modelled, rtol=0, atol=1e-6)


def test_a_bfloat16_bundle_builds_too(bundle_bf16: Path, tmp_path: Path) -> None:
    assert _built(open_bundle(bundle_bf16), tmp_path).num_rows == 3


def test_columns_that_one_may_leave_out_have_defaults(bundle: Bundle, tmp_path: Path) -> None:
    table = _built(bundle, tmp_path)
    assert table.column("labels").to_pylist() == [[], [], []]
    last = ((2**64 - 1) >> 22) + _SNOWFLAKE_EPOCH_MS
    assert table.column("created_at").cast(pa.int64()).to_pylist() == [_SNOWFLAKE_MS, last, None]
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
def test_labels_may_be_lists_of_any_kind_of_string(
    bundle: Bundle, tmp_path: Path, kind: pa.DataType
) -> None:
    if pa.types.is_dictionary(kind.value_type):
        flat = pa.array(["b", "a", "c"]).dictionary_encode()
        labels = pa.ListArray.from_arrays(pa.array([0, 2, 2, 3], pa.int32()), flat)
    else:
        labels = pa.array(_LISTS, kind)
    table = _built(bundle, tmp_path, labels=labels)
    assert table.column("labels").to_pylist() == _LISTS
    snapshot = open_snapshot(tmp_path / "corpus")
    assert snapshot.manifest.label_names == ["a", "b", "c"]
    columns = snapshot.columns()
    assert columns.label_offsets.tolist() == [0, 2, 2, 3]
    assert columns.label_codes.tolist() == [1, 0, 2]


def test_labels_may_be_lists_of_one_length(bundle: Bundle, tmp_path: Path) -> None:
    labels = pa.array([["a", "b"], ["c", "a"], ["d", "d"]], pa.list_(pa.string(), 2))
    table = _built(bundle, tmp_path, labels=labels)
    assert table.column("labels").to_pylist() == labels.to_pylist()


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), None], ids=str)
def test_labels_may_be_strings(bundle: Bundle, tmp_path: Path, kind: pa.DataType | None) -> None:
    texts = ["b", None, ""]
    labels = pa.array(texts).dictionary_encode() if kind is None else pa.array(texts, kind)
    table = _built(bundle, tmp_path, labels=labels)
    assert table.column("labels").to_pylist() == [["b"], [], []]
    assert open_snapshot(tmp_path / "corpus").manifest.label_names == ["b"]


def test_no_list_is_an_empty_list(bundle: Bundle, tmp_path: Path) -> None:
    _built(bundle, tmp_path, labels=pa.array([["a"], None, []], pa.list_(pa.string())))
    columns = open_snapshot(tmp_path / "corpus").columns()
    assert columns.label_offsets.tolist() == [0, 1, 1, 1]


def test_labels_of_several_batches_stay_with_their_posts(bundle: Bundle, tmp_path: Path) -> None:
    labels = [[f"label {i % 7}"] * (i % 3) for i in range(150)]
    ids = pa.array(range(1, 151), pa.uint64())
    _built(bundle, tmp_path, post_id=ids, author_id=ids, labels=labels)
    snapshot = open_snapshot(tmp_path / "corpus")
    columns, names = snapshot.columns(), snapshot.manifest.label_names
    bounds = zip(columns.label_offsets[:-1], columns.label_offsets[1:], strict=True)
    assert [[names[c] for c in columns.label_codes[a:b]] for a, b in bounds] == labels


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York", "+05:30"])
def test_times_become_milliseconds_in_utc(
    bundle: Bundle, tmp_path: Path, unit: Any, zone: str | None
) -> None:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    instant = datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)
    ticks = int(instant.timestamp()) * per_second
    times = pa.array([ticks, 0, None], pa.int64()).cast(pa.timestamp(unit, zone))
    created_at = _built(bundle, tmp_path, created_at=times).column("created_at")
    assert str(created_at.type) == "timestamp[ms, tz=UTC]"
    assert created_at.to_pylist() == [instant, datetime(1970, 1, 1, tzinfo=UTC), None]


def test_a_fraction_of_a_millisecond_is_dropped(bundle: Bundle, tmp_path: Path) -> None:
    times = pa.array([1_999_999, 0, 999], pa.timestamp("ns"))
    created_at = _built(bundle, tmp_path, created_at=times).column("created_at")
    assert created_at.cast(pa.int64()).to_pylist() == [1, 0, 0]


def test_where_no_time_is_given_the_ids_tell(bundle: Bundle, tmp_path: Path) -> None:
    times = pa.array([None, 5, None], pa.timestamp("ms"))
    created_at = _built(bundle, tmp_path, created_at=times).column("created_at")
    assert created_at.cast(pa.int64()).to_pylist() == [_SNOWFLAKE_MS, 5, None]


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint32(), pa.int16()], ids=str)
def test_ids_may_be_any_integers(bundle: Bundle, tmp_path: Path, kind: pa.DataType) -> None:
    ids = pa.array([3, 2, 1], kind)
    table = _built(bundle, tmp_path, post_id=ids, author_id=ids)
    assert table.column("post_id").to_pylist() == [3, 2, 1]
    assert table.column("author_id").to_pylist() == [3, 2, 1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"post_id": None}, "column post_id is missing; it has author_id"),
        ({"author_id": None}, "column author_id is missing; it has post_id"),
        ({"post_id": pa.array(["1", "2", "3"])}, "post_id is string, should be uint64"),
        ({"author_id": pa.array([1.0, 2.0, 3.0])}, "author_id is double, should be uint64"),
        ({"post_id": pa.array([1, None, 3], pa.uint64())}, "post_id is null in a row"),
        ({"author_id": pa.array([1, None, 3], pa.uint64())}, "author_id is null in a row"),
        ({"post_id": pa.array([1, -2, 3])}, "post_id is negative in a row"),
        ({"author_id": pa.array([1, -2, 3])}, "author_id is negative in a row"),
        ({"post_id": pa.array([1, 0, 3])}, "post_id is 0 in a row"),
        ({"author_id": pa.array([1, 0, 3])}, "author_id is 0 in a row"),
        ({"created_at": pa.array([1, 2, 3])}, "created_at is int64, should be a timestamp"),
        (
            {"created_at": pa.array([-1, 2, 3], pa.timestamp("ms"))},
            "created_at holds a time that is not from 1970 to 9999",
        ),
        ({"labels": pa.array([1, 2, 3])}, "labels is int64, should be a list of strings"),
        ({"labels": pa.array([[1], [], []])}, "labels is list<"),
        ({"labels": pa.array([["a"], [None], []])}, "labels holds a list with a null in it"),
    ],
)
def test_an_odd_column_is_named(
    bundle: Bundle, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    parquet = _write(tmp_path / "posts.parquet", **changes)
    error = _refused(parquet, bundle)
    assert error.path == parquet
    assert error.reason.startswith(reason)


def test_a_column_that_comes_twice_is_named(bundle: Bundle, tmp_path: Path) -> None:
    ids = pa.array(_IDS, pa.uint64())
    parquet = tmp_path / "posts.parquet"
    pq.write_table(pa.table([ids, ids, ids], names=["post_id", "author_id", "post_id"]), parquet)
    assert _refused(parquet, bundle).reason == "column post_id comes more than once"


def test_duplicates_are_refused_or_dropped(bundle: Bundle, tmp_path: Path) -> None:
    ids = np.arange(1, 151, dtype=np.uint64)
    ids[[70, 149]] = [3, 100]  # in another batch than the first of each
    parquet = tmp_path / "posts.parquet"
    pq.write_table(pa.table({"post_id": ids, "author_id": np.arange(1, 151)}), parquet)
    error = _refused(parquet, bundle)
    assert error.path == parquet
    assert "post_id 3 comes more than once (2 repeated rows)" in error.reason
    assert build_corpus(parquet, bundle, tmp_path / "corpus", drop_duplicates=True) == 148
    snapshot = open_snapshot(tmp_path / "corpus")
    verify(snapshot)
    kept = np.delete(np.arange(150), [70, 149])
    np.testing.assert_array_equal(snapshot.columns().post_ids, ids[kept])
    np.testing.assert_array_equal(snapshot.columns().author_ids, kept + 1)


def test_a_batch_without_posts_to_keep_is_skipped(bundle: Bundle, tmp_path: Path) -> None:
    ids = pa.array([1] * 200 + [2], pa.uint64())
    parquet = _write(tmp_path / "posts.parquet", post_id=ids, author_id=ids)
    assert build_corpus(parquet, bundle, tmp_path / "corpus", drop_duplicates=True) == 2
    assert open_snapshot(tmp_path / "corpus").columns().post_ids.tolist() == [1, 2]


def test_no_posts_are_no_corpus(bundle: Bundle, tmp_path: Path) -> None:
    nothing = pa.array([], pa.uint64())
    parquet = _write(tmp_path / "posts.parquet", post_id=nothing, author_id=nothing)
    assert _refused(parquet, bundle).reason == "holds no posts"


@pytest.mark.parametrize("contents", [b"", b"not Parquet", b"PAR1" * 50])
def test_a_file_that_is_no_parquet_is_named(
    bundle: Bundle, tmp_path: Path, contents: bytes
) -> None:
    parquet = tmp_path / "posts.parquet"
    parquet.write_bytes(contents)
    error = _refused(parquet, bundle)
    assert error.path == parquet
    assert error.reason.startswith("is not a Parquet file that can be read: ")


@pytest.mark.parametrize("column", ["post_id", "author_id"])
@pytest.mark.parametrize("checksums", [True, False])
def test_damaged_pages_are_blamed_on_the_file(
    bundle: Bundle, tmp_path: Path, column: str, checksums: bool
) -> None:
    rng = np.random.default_rng(0)
    post_ids, author_ids = rng.integers(1, 2**64, (2, 500), np.uint64)
    parquet = tmp_path / "posts.parquet"
    pq.write_table(
        pa.table({"post_id": post_ids, "author_id": author_ids}),
        parquet,
        write_page_checksum=checksums,
        compression="none" if checksums else "snappy",  # what is not compressed only sums protect
    )
    chunk = pq.read_metadata(parquet).row_group(0).column(["post_id", "author_id"].index(column))
    contents = bytearray(parquet.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    damaged = slice(start + chunk.total_compressed_size // 2, start + chunk.total_compressed_size)
    contents[damaged] = b"\xff" * (damaged.stop - damaged.start)
    parquet.write_bytes(contents)
    error = _refused(parquet, bundle)
    assert error.path == parquet
    assert error.reason.startswith("is not a Parquet file that can be read: ")


def test_a_missing_file_is_named(bundle: Bundle, tmp_path: Path) -> None:
    error = _refused(tmp_path / "posts.parquet", bundle)
    assert (error.path, error.reason) == (tmp_path / "posts.parquet", "no such file")


def test_an_existing_directory_is_left_alone(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    error = _refused(_write(tmp_path / "posts.parquet"), bundle)
    assert error.path == tmp_path / "corpus"
    assert error.reason.startswith("exists")
    assert not list((tmp_path / "corpus").iterdir())


def test_towers_that_fail_their_self_test_build_nothing(bundle_f32: Path, tmp_path: Path) -> None:
    path = copied(bundle_f32, tmp_path / "bundle")
    with np.load(path / "selftest.npz") as file:
        arrays = dict(file)
    arrays["candidate_tower/outputs/candidate_representation"][5] *= -1
    np.savez(path / "selftest.npz", **arrays)
    with pytest.raises(BundleError, match="candidate_representation differs by "):
        build_corpus(_write(tmp_path / "p.parquet"), open_bundle(path), tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()
