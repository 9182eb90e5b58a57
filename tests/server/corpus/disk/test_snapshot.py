from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from phoenix_server.corpus.disk.snapshot import (
    corpus_schema,
    open_snapshot,
    verify,
    with_vectors,
)
from phoenix_server.corpus.disk.snapshot_writer import new_snapshot
from phoenix_server.errors import CorpusError
from server.cases import copied, edit_manifest, flip_bit, resum, truncate


@pytest.fixture
def damaged(golden_corpus: Path, tmp_path: Path) -> Path:
    """Return a private copy of a corpus."""
    return copied(golden_corpus, tmp_path / "corpus")


def _error(action: Callable[[], object]) -> CorpusError:
    with pytest.raises(CorpusError) as caught:
        action()
    assert str(caught.value).startswith(f"{caught.value.path}: ")
    return caught.value


def _verify_error(path: Path) -> CorpusError:
    return _error(lambda: verify(open_snapshot(path)))


def _read(path: Path) -> pa.Table:
    with pa.OSFile(str(path / "posts.arrow")) as source:
        return pa.ipc.open_file(source).read_all()


def _rewrite(path: Path, table: pa.Table) -> None:
    """Write other data with valid checksums."""
    with pa.ipc.new_file(str(path / "posts.arrow"), table.schema) as file:
        file.write_table(table)
    resum(path)


def test_data_have_the_documented_columns(golden_corpus: Path) -> None:
    with pa.memory_map(str(golden_corpus / "posts.arrow")) as source:
        table = pa.ipc.open_file(source).read_all()
        assert {field.name: str(field.type) for field in table.schema} == {
            "post_id": "uint64",
            "author_id": "uint64",
            "created_at": "timestamp[ms, tz=UTC]",
            "labels": "list<item: string>",
            "vector": "fixed_size_list<item: float>[128]",
        }
        table.validate(full=True)
        assert table.num_rows == 3000
        assert table.column("created_at")[0].as_py().utcoffset().total_seconds() == 0


def test_a_complete_corpus_verifies(damaged: Path) -> None:
    verify(open_snapshot(damaged))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (Path.unlink, "missing"),
        (truncate, "truncated or changed: has "),
        (flip_bit, "was changed: its SHA-256 is "),
        (lambda path: flip_bit(path, 100_000), "was changed: its SHA-256 is "),
    ],
)
def test_damaged_data_are_reported(
    damaged: Path, damage: Callable[[Path], object], reason: str
) -> None:
    damage(damaged / "posts.arrow")
    error = _verify_error(damaged)
    assert error.path == damaged / "posts.arrow"
    assert reason in error.reason


@pytest.mark.parametrize("contents", [b"", b"not Arrow", b"ARROW1\0\0" * 20])
def test_data_that_are_not_arrow_are_reported(damaged: Path, contents: bytes) -> None:
    (damaged / "posts.arrow").write_bytes(contents)
    resum(damaged)
    error = _verify_error(damaged)
    assert error.path == damaged / "posts.arrow"
    assert error.reason.startswith("is not Arrow IPC data: ")


def test_a_wrong_number_of_posts_is_reported(damaged: Path) -> None:
    edit_manifest(damaged, lambda m: m.update(rows="3001"))
    error = _verify_error(damaged)
    assert error.path == damaged / "posts.arrow"
    assert error.reason == "holds 3000 posts, the manifest says 3001"


def test_a_wrong_width_is_reported(damaged: Path) -> None:
    edit_manifest(damaged, lambda m: m.update(embedding_size=127))
    assert _verify_error(damaged).reason.startswith("has other columns than a corpus: post_id, ")


def test_a_missing_column_is_reported(damaged: Path) -> None:
    _rewrite(damaged, _read(damaged).drop_columns(["labels"]))
    error = _verify_error(damaged)
    assert error.reason == (
        "has other columns than a corpus: post_id, author_id, created_at, vector"
    )


@pytest.mark.parametrize("version", [0, 2])
def test_another_format_version_is_refused(damaged: Path, version: int) -> None:
    edit_manifest(damaged, lambda m: m.update(format_version=version))
    error = _error(lambda: open_snapshot(damaged))
    assert error.path == damaged
    assert error.reason == f"has format version {version}, this server reads 1"


@pytest.mark.parametrize("files", [[], ["other.arrow"], ["../posts.arrow"], ["posts.arrow"] * 2])
def test_a_manifest_that_lists_other_files_is_refused(damaged: Path, files: list[str]) -> None:
    edit_manifest(damaged, lambda m: m.update(files=[{"path": path} for path in files]))
    assert "should list posts.arrow alone" in _error(lambda: open_snapshot(damaged)).reason


def test_a_corpus_without_posts_is_refused(damaged: Path) -> None:
    edit_manifest(damaged, lambda m: m.update(rows="0"))
    assert _error(lambda: open_snapshot(damaged)).reason == "holds no posts"


@pytest.mark.parametrize("contents", [None, "", "{", '{"user_tower": {}}'])
def test_an_unreadable_manifest_is_reported(damaged: Path, contents: str | None) -> None:
    path = damaged / "manifest.json"
    path.unlink()
    if contents is not None:
        path.write_text(contents)
    error = _error(lambda: open_snapshot(damaged))
    assert error.path == path
    assert error.reason.startswith("missing" if contents is None else "is not a CorpusManifest: ")


@pytest.mark.parametrize(
    ("value", "what"), [(np.nan, "is not finite"), (np.inf, "is not finite"), (2, "has length ")]
)
def test_an_invalid_vector_is_reported_with_its_post(
    damaged: Path, value: float, what: str
) -> None:
    table = _read(damaged)
    vectors = table.column("vector").combine_chunks().flatten().to_numpy().copy()
    vectors[128 * 2345 + 5] = value
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors), 128)
    _rewrite(damaged, table.set_column(4, table.schema.field("vector"), lists))
    snapshot = open_snapshot(damaged)
    verify(snapshot)
    error = _error(lambda: list(snapshot.vectors()))
    assert error.path == damaged
    assert f"the vector of post {table.column('post_id')[2345]} {what}" in error.reason


def test_a_label_that_the_manifest_does_not_list_is_refused(damaged: Path) -> None:
    edit_manifest(damaged, lambda m: m["label_names"].remove("NBA"))
    snapshot = open_snapshot(damaged)
    verify(snapshot)
    assert "labels that its manifest does not list" in _error(snapshot.columns).reason


def test_columns_of_several_batches_are_joined(tmp_path: Path) -> None:
    labels = [[["b", "a"], []], [[], ["c"]], [["a"]]]
    created_at = [[5, None], [None, 7], [9]]
    ids = [[11, 12], [13, 14], [15]]
    with new_snapshot(
        tmp_path / "corpus", source=tmp_path, embedding_size=2, tower_fingerprint="f"
    ) as writer:
        for batch_ids, batch_labels, batch_times in zip(ids, labels, created_at, strict=True):
            authors = [100 + post_id for post_id in batch_ids]
            columns = [batch_ids, authors, batch_times, batch_labels]
            fields = list(corpus_schema(2))[:4]
            arrays = map(pa.array, columns, (field.type for field in fields))
            batch = pa.RecordBatch.from_arrays(list(arrays), schema=pa.schema(fields))
            vectors = np.tile(np.array([0.6, 0.8], np.float32), (len(batch_ids), 1))
            writer.write(with_vectors(batch, vectors))
    snapshot = open_snapshot(tmp_path / "corpus")
    verify(snapshot)
    assert snapshot.manifest.label_names == ["a", "b", "c"]
    posts = snapshot.columns()
    assert posts.labels.names == ("a", "b", "c")
    columns = (
        (posts.post_ids, "uint64", [11, 12, 13, 14, 15]),
        (posts.author_ids, "uint64", [111, 112, 113, 114, 115]),
        (posts.created_at_unix_ms, "int64", [5, 0, 0, 7, 9]),
        (posts.labels.counts, "int32", [2, 0, 0, 1, 1]),
        (posts.labels.indices, "int32", [1, 0, 2, 0]),
    )
    for column, dtype, values in columns:
        assert (column.dtype, column.tolist()) == (dtype, values)
