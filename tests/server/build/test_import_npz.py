import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from phoenix_server.build.import_npz import import_corpus
from phoenix_server.bundle.bundle import Bundle
from phoenix_server.corpus.disk.snapshot import Snapshot, open_snapshot, verify
from phoenix_server.errors import CorpusError
from server.cases import SMALL_ID

Arrays = dict[str, Any]

_ROWS = 5
_VECTORS = "candidate_representations"
_SNOWFLAKE_EPOCH_MS = 1_288_834_974_657


def _arrays(rows: int = _ROWS) -> Arrays:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(rows, 128)).astype(np.float32)
    return {
        "post_ids": rng.permutation(rows).astype(np.uint64) + np.uint64(2**63),
        "author_ids": np.arange(1, rows + 1).astype(np.uint64),
        _VECTORS: vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
        "topics": np.array(["b", "a", "", "b", "c"] * rows, np.str_)[:rows],
    }


def _write(path: Path, arrays: Arrays) -> Path:
    np.savez(path, **arrays)
    return path


def _table(path: Path) -> pa.Table:
    with pa.memory_map(str(path / "posts.arrow")) as source:
        return pa.ipc.open_file(source).read_all()


def _refused(
    npz: Path, bundle: Bundle, *, out: Path | None = None, trust_pickle: bool = False
) -> CorpusError:
    """Check that an import fails and leaves no files; return the error."""
    before = sorted(npz.parent.iterdir())
    with pytest.raises(CorpusError) as caught:
        import_corpus(npz, bundle, out or npz.parent / "corpus", trust_pickle=trust_pickle)
    assert sorted(npz.parent.iterdir()) == before
    assert str(caught.value).startswith(f"{caught.value.path}: ")
    return caught.value


def test_the_published_corpus_is_imported_unchanged(
    golden_layout: Path, snapshot: Snapshot
) -> None:
    verify(snapshot)
    with np.load(golden_layout / "sports_corpus.npz") as file:
        golden = dict(file)
    columns = snapshot.columns()
    np.testing.assert_array_equal(columns.post_ids, golden["post_ids"])
    np.testing.assert_array_equal(columns.author_ids, golden["author_ids"])
    np.testing.assert_array_equal(np.concatenate(list(snapshot.vectors())), golden[_VECTORS])
    names = list(snapshot.manifest.label_names)
    assert names == sorted(set(golden["topics"]))
    assert [names[code] for code in columns.labels.indices] == golden["topics"].tolist()
    assert columns.labels.counts.tolist() == [1] * 3000
    times = (golden["post_ids"] >> np.uint64(22)).astype(np.int64) + _SNOWFLAKE_EPOCH_MS
    np.testing.assert_array_equal(columns.created_at_unix_ms, times)


def test_the_manifest_describes_the_corpus(bundle: Bundle, snapshot: Snapshot) -> None:
    manifest = snapshot.manifest
    assert (manifest.rows, manifest.embedding_size, manifest.dtype) == (3000, 128, "float32")
    assert manifest.tower_fingerprint == bundle.manifest.tower_fingerprint
    assert [file.path for file in manifest.files] == ["posts.arrow"]


def test_the_time_of_ids_that_carry_none_is_unknown(bundle: Bundle, tmp_path: Path) -> None:
    arrays = _arrays()
    arrays["post_ids"] = np.array([SMALL_ID, 2**40 - 1, 2**40, 2**63, 2**64 - 1], np.uint64)
    import_corpus(_write(tmp_path / "posts.npz", arrays), bundle, tmp_path / "corpus")
    created_at = _table(tmp_path / "corpus").column("created_at")
    assert created_at.is_null().to_pylist() == [True, True, False, True, True]
    columns = open_snapshot(tmp_path / "corpus").columns()
    first = _SNOWFLAKE_EPOCH_MS + (2**40 >> 22)
    assert columns.created_at_unix_ms[:3].tolist() == [0, 0, first]


def test_an_empty_topic_is_no_label(bundle: Bundle, tmp_path: Path) -> None:
    arrays = _arrays()
    import_corpus(_write(tmp_path / "posts.npz", arrays), bundle, tmp_path / "corpus")
    assert _table(tmp_path / "corpus").column("labels").to_pylist() == [
        ["b"],
        ["a"],
        [],
        ["b"],
        ["c"],
    ]
    assert open_snapshot(tmp_path / "corpus").manifest.label_names == ["a", "b", "c"]


def test_topics_are_optional(bundle: Bundle, tmp_path: Path) -> None:
    arrays = _arrays()
    del arrays["topics"]
    import_corpus(_write(tmp_path / "posts.npz", arrays), bundle, tmp_path / "corpus")
    assert _table(tmp_path / "corpus").column("labels").to_pylist() == [[]] * _ROWS
    assert open_snapshot(tmp_path / "corpus").columns().labels.counts.tolist() == [0] * _ROWS


def test_a_corpus_of_several_chunks_keeps_its_order(bundle: Bundle, tmp_path: Path) -> None:
    arrays, reported = _arrays(40_001), list[tuple[int, int]]()
    written = import_corpus(
        _write(tmp_path / "posts.npz", arrays),
        bundle,
        tmp_path / "corpus",
        report=lambda done, total: reported.append((done, total)),
    )
    assert written == 40_001
    assert reported == [(16_384, 40_001), (32_768, 40_001), (40_001, 40_001)]
    snapshot = open_snapshot(tmp_path / "corpus")
    verify(snapshot)
    columns = snapshot.columns()
    np.testing.assert_array_equal(columns.post_ids, arrays["post_ids"])
    np.testing.assert_array_equal(np.concatenate(list(snapshot.vectors())), arrays[_VECTORS])
    labels = np.array(snapshot.manifest.label_names)[columns.labels.indices]
    np.testing.assert_array_equal(labels, arrays["topics"][arrays["topics"] != ""])
    np.testing.assert_array_equal(columns.labels.counts, arrays["topics"] != "")


def test_object_arrays_are_read_only_when_the_file_is_trusted(
    bundle: Bundle, tmp_path: Path
) -> None:
    arrays = _arrays()
    arrays["topics"] = np.array(["b", None, "", float("nan"), "c"], object)
    npz = _write(tmp_path / "posts.npz", arrays)
    error = _refused(npz, bundle)
    assert error.path == npz
    assert error.reason.startswith("topics is pickled")
    assert "--trust-pickle" in error.reason
    import_corpus(npz, bundle, tmp_path / "corpus", trust_pickle=True)
    labels = _table(tmp_path / "corpus").column("labels").to_pylist()
    assert labels == [["b"], [], [], [], ["c"]]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"post_ids": None}, "post_ids is missing"),
        ({"author_ids": None}, "author_ids is missing"),
        ({_VECTORS: None}, "candidate_representations is missing"),
        ({"post_ids": np.ones((5, 2), np.uint64)}, "post_ids has shape (5, 2)"),
        ({"post_ids": np.uint64(5)}, "post_ids has shape ()"),
        ({"author_ids": np.ones(4, np.uint64)}, "author_ids has shape (4,), should have (5,)"),
        (
            {_VECTORS: np.ones((5, 127), np.float32)},
            "candidate_representations has shape (5, 127), should have (5, 128)",
        ),
        ({_VECTORS: np.ones((4, 128), np.float32)}, "candidate_representations has shape (4, 128)"),
        ({"topics": np.array(["a"] * 4)}, "topics has shape (4,), should have (5,)"),
        ({"post_ids": np.arange(1.0, 6.0)}, "post_ids is float64, should be uint64"),
        ({"author_ids": np.array(["1"] * 5)}, "author_ids is <U1, should be uint64"),
        ({"author_ids": np.arange(-1, 4)}, "author_ids[0] is negative"),
        (
            {_VECTORS: np.ones((5, 128), np.int32)},
            "candidate_representations is int32, should be float32",
        ),
        ({"topics": np.arange(5)}, "topics is int64, should be strings"),
        ({"topics": np.array([b"a"] * 5)}, "topics is |S1, should be strings"),
        ({"post_ids": np.array([7, 0, 8, 9, 0], np.uint64)}, "post_ids[1] is 0, which is no id"),
    ],
)
def test_an_invalid_array_is_reported(
    bundle: Bundle, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    arrays = {k: v for k, v in (_arrays() | changes).items() if v is not None}
    npz = _write(tmp_path / "posts.npz", arrays)
    error = _refused(npz, bundle)
    assert error.path == npz
    assert error.reason.startswith(reason)


class _NoBool:
    """Like pandas.NA: whether it differs from itself is neither true nor false."""

    def __ne__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise TypeError


@pytest.mark.parametrize(
    ("topics", "reason"),
    [
        (["a", 1, "b", "c", "d"], "topics[1] is of type int, not str"),
        ([["a"]] * 5, "topics[0] is of type list, not str"),
        (["a", "b", "\ud800", "b", "c"], "topics[2] is not valid Unicode"),
        (["a", "b", "c", "d\n", "c"], "topics[3] holds a control character"),
        (["b", "a\0", "a", "b", "c"], "topics[1] holds a control character"),
        (["a", np.ones(2), None, "b", "c"], "topics[1] is of type ndarray, not str"),
        (["a", _NoBool(), None, "b", "c"], "topics[1] is of type _NoBool, not str"),
        (["a", "b" * 10**6, None, "b", "c"], "topics[1] has 1000000 characters, at most 256"),
    ],
)
def test_topics_that_cannot_be_labels_are_refused(
    bundle: Bundle, tmp_path: Path, topics: list[Any], reason: str
) -> None:
    arrays = _arrays()
    arrays["topics"] = np.empty(_ROWS, object)
    for i, topic in enumerate(topics):
        arrays["topics"][i] = topic
    error = _refused(_write(tmp_path / "posts.npz", arrays), bundle, trust_pickle=True)
    assert error.reason.startswith(reason)


@pytest.mark.parametrize("dtype", [np.int64, np.uint32])
def test_narrow_and_signed_ids_are_accepted(bundle: Bundle, tmp_path: Path, dtype: Any) -> None:
    arrays = _arrays() | {"post_ids": np.arange(1, 6, dtype=dtype)}
    import_corpus(_write(tmp_path / "posts.npz", arrays), bundle, tmp_path / "corpus")
    post_ids = open_snapshot(tmp_path / "corpus").columns().post_ids
    assert (post_ids.dtype, post_ids.tolist()) == (np.uint64, [1, 2, 3, 4, 5])


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_vectors_of_another_precision_are_converted_to_float32(
    bundle: Bundle, tmp_path: Path, dtype: Any
) -> None:
    arrays = _arrays()
    arrays[_VECTORS] = arrays[_VECTORS].astype(dtype)
    import_corpus(_write(tmp_path / "posts.npz", arrays), bundle, tmp_path / "corpus")
    (vectors,) = open_snapshot(tmp_path / "corpus").vectors()
    np.testing.assert_array_equal(vectors, arrays[_VECTORS].astype(np.float32))


@pytest.mark.parametrize(
    ("factor", "reason"),
    [
        (np.nan, "is not finite"),
        (np.inf, "is not finite"),
        (0.0, "has length 0, not 1"),
        (1.01, "has length 1.01, not 1"),
    ],
)
def test_a_vector_not_of_unit_length_is_reported_with_its_post(
    bundle: Bundle, tmp_path: Path, factor: float, reason: str
) -> None:
    arrays = _arrays()
    arrays[_VECTORS][3] = np.eye(1, 128) * factor if np.isfinite(factor) else factor
    npz = _write(tmp_path / "posts.npz", arrays)
    error = _refused(npz, bundle)
    assert error.path == npz
    assert f"the vector of post {arrays['post_ids'][3]} {reason}" in error.reason


def test_duplicates_are_refused_or_dropped(bundle: Bundle, tmp_path: Path) -> None:
    arrays = _arrays()
    post_ids = arrays["post_ids"]
    post_ids[[1, 4]] = post_ids[2]
    npz = _write(tmp_path / "posts.npz", arrays)
    error = _refused(npz, bundle)
    assert error.path == npz
    assert f"post_id {post_ids[2]} occurs more than once (2 repeated rows)" in error.reason
    assert import_corpus(npz, bundle, tmp_path / "corpus", drop_duplicates=True) == 3
    snapshot = open_snapshot(tmp_path / "corpus")
    assert snapshot.manifest.rows == 3
    columns = snapshot.columns()
    np.testing.assert_array_equal(columns.post_ids, post_ids[[0, 1, 3]])
    np.testing.assert_array_equal(columns.author_ids, arrays["author_ids"][[0, 1, 3]])
    np.testing.assert_array_equal(next(snapshot.vectors()), arrays[_VECTORS][[0, 1, 3]])


def test_a_file_without_posts_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    error = _refused(_write(tmp_path / "posts.npz", _arrays(0)), bundle)
    assert error.reason == "holds no posts"


def _npz_bytes(compress: bool) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(buffer, **_arrays())
    return buffer.getvalue()


def _overwritten(contents: bytes) -> bytes:
    middle = len(contents) // 2
    return contents[:middle] + bytes(100) + contents[middle + 100 :]


def _npy_bytes() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


def _member_bytes() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("post_ids", b"not an array")
        archive.writestr("author_ids.npy", b"not an array")
    return buffer.getvalue()


@pytest.mark.parametrize("trust_pickle", [False, True])
@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b"", "cannot be read: it is not an .npz, or is truncated"),
        (b"neither an npz nor a pickle", "cannot be read: it is not an .npz, or is truncated"),
        (_npy_bytes(), "cannot be read: it is not an .npz, or is truncated"),
        (_npz_bytes(False)[:-1000], "cannot be read: it is not an .npz, or is truncated"),
        (_npz_bytes(False)[:100], "cannot be read: it is not an .npz, or is truncated"),
        (_overwritten(_npz_bytes(False)), "cannot be read: "),
        (_overwritten(_npz_bytes(True)), "cannot be read: "),
        (_member_bytes(), ""),
    ],
)
def test_a_file_that_is_not_a_complete_npz_is_refused(
    bundle: Bundle, tmp_path: Path, contents: bytes, reason: str, trust_pickle: bool
) -> None:
    npz = tmp_path / "posts.npz"
    npz.write_bytes(contents)
    error = _refused(npz, bundle, trust_pickle=trust_pickle)
    assert error.path == npz
    assert error.reason.startswith(reason)


@pytest.mark.parametrize(
    ("make", "reason"), [(lambda path: None, "no such file"), (Path.mkdir, "cannot be read: ")]
)
def test_a_path_without_a_file_is_reported(
    bundle: Bundle, tmp_path: Path, make: Callable[[Path], object], reason: str
) -> None:
    make(tmp_path / "posts.npz")
    error = _refused(tmp_path / "posts.npz", bundle)
    assert error.path == tmp_path / "posts.npz"
    assert error.reason.startswith(reason)


def test_an_existing_directory_is_not_changed(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "corpus"
    out.mkdir()
    (out / "kept").write_text("kept")
    error = _refused(_write(tmp_path / "posts.npz", _arrays()), bundle, out=out)
    assert error.path == out
    assert error.reason.startswith("exists")
    assert [path.name for path in out.iterdir()] == ["kept"]


def test_an_unwritable_path_is_reported(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "corpus"
    error = _refused(_write(tmp_path / "posts.npz", _arrays()), bundle, out=out)
    assert error.path == out
    assert error.reason.startswith("cannot be written: ")


def test_parent_directories_are_created(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "a" / "b" / "corpus"
    import_corpus(_write(tmp_path / "posts.npz", _arrays()), bundle, out)
    verify(open_snapshot(out))
    assert [path.name for path in out.parent.iterdir()] == ["corpus"]
    assert out.stat().st_mode & 0o777 == 0o750
