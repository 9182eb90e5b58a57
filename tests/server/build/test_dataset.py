import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_server.build.build import build_corpus
from phoenix_server.build.dataset import open_dataset
from phoenix_server.bundle.bundle import Bundle
from phoenix_server.corpus.disk.snapshot import open_snapshot
from phoenix_server.errors import CorpusError
from server.build.cases import (
    SMALL,
    columns,
    digest,
    random_posts,
    refused,
    write,
    write_files,
)

_POSTS = random_posts(300)


def _ids(*ids: int) -> dict[str, pa.Array]:
    return {"post_id": pa.array(ids, pa.uint64()), "author_id": pa.array(ids, pa.uint64())}


def _names(folder: Path) -> list[str]:
    """Return the relative paths of the files of a directory."""
    return [os.path.relpath(file.name, folder) for file in open_dataset([folder]).files]


def test_files_of_a_directory_are_sorted_by_path(tmp_path: Path) -> None:
    names = ["b/1.parquet", "a.parquet", "b/0.snappy", "c/d/e/f.parquet", "10.parquet", "9.parquet"]
    for name in names:
        write(tmp_path / name)
    assert _names(tmp_path) == sorted(names)


def test_hidden_files_below_a_directory_are_skipped(tmp_path: Path) -> None:
    folder = tmp_path / "_staged" / ".posts"  # directories given by name are not hidden
    for name in ("_SUCCESS", ".part.parquet.crc", "_temporary/0/part.parquet", "a/.b/c.parquet"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not Parquet")
    write(folder / "part.parquet")
    assert _names(folder) == ["part.parquet"]


def test_places_keep_the_given_order(tmp_path: Path) -> None:
    for name in ("z/1.parquet", "z/0.parquet", "a.parquet"):
        write(tmp_path / name)
    dataset = open_dataset([tmp_path / "z", str(tmp_path / "a.parquet")])
    names = [os.path.relpath(file.name, tmp_path) for file in dataset.files]
    assert names == ["z/0.parquet", "z/1.parquet", "a.parquet"]
    assert dataset.name == f"{tmp_path / 'z'} and 1 more"
    assert (dataset.rows, dataset.starts) == (9, (0, 3, 6, 9))


def test_a_file_given_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "posts" / "a.parquet")
    with pytest.raises(CorpusError, match=r"a\.parquet: is given more than once"):
        open_dataset([path.parent, path])


def test_uris_and_other_filesystems_give_the_same_corpus_as_paths(
    bundle: Bundle, tmp_path: Path
) -> None:
    posts = write_files(tmp_path / "posts", _POSTS, [100, 170], 64)
    mock, _ = pafs.FileSystem.from_uri("mock:///")
    pafs.copy_files(str(posts), "some/posts", destination_filesystem=mock)
    local = pafs.LocalFileSystem()
    for number, (place, filesystem) in enumerate(
        [
            (posts, None),
            (posts.as_uri(), None),
            ("posts", pafs.SubTreeFileSystem(str(tmp_path), local)),
            ("some/posts", mock),
        ]
    ):
        build_corpus([place], bundle, tmp_path / str(number), SMALL, filesystem=filesystem)
        assert digest(tmp_path / str(number)) == digest(tmp_path / "0")


def test_errors_of_a_uri_name_the_file(bundle: Bundle, tmp_path: Path) -> None:
    odd = write(tmp_path / "posts" / "a.parquet", post_id=None)
    error = refused([(tmp_path / "posts").as_uri()], bundle, tmp_path / "corpus")
    assert error.path == odd.as_uri()


def test_errors_do_not_contain_the_password_of_a_uri(bundle: Bundle, tmp_path: Path) -> None:
    error = refused(["file://user:secret@elsewhere/posts"], bundle, tmp_path / "corpus")
    assert error.path == "file://elsewhere/posts"
    assert error.reason.startswith("cannot be listed: Unsupported ")
    assert "secret" not in str(error)


def test_a_uri_of_an_unknown_scheme_is_reported(bundle: Bundle, tmp_path: Path) -> None:
    error = refused(["nosuch://host/posts"], bundle, tmp_path / "corpus")
    assert error.path == "nosuch://host/posts"
    assert error.reason.startswith("cannot be listed: Unrecognized filesystem type")


def test_some_files_may_be_empty(bundle: Bundle, tmp_path: Path) -> None:
    nothing = _ids()
    write(tmp_path / "posts" / "0.parquet", **nothing)
    write(tmp_path / "posts" / "1.parquet", **_ids(5, 6))
    write(tmp_path / "posts" / "2.parquet", **nothing)
    assert build_corpus([tmp_path / "posts"], bundle, tmp_path / "corpus", SMALL) == 2
    assert open_snapshot(tmp_path / "corpus").columns().post_ids.tolist() == [5, 6]


@pytest.mark.parametrize("files", [0, 1, 2])
def test_files_without_posts_are_refused(bundle: Bundle, tmp_path: Path, files: int) -> None:
    (tmp_path / "posts").mkdir()
    for index in range(files):
        write(tmp_path / "posts" / f"{index}.parquet", **_ids())
    error = refused([tmp_path / "posts"], bundle, tmp_path / "corpus")
    assert (error.path, error.reason) == (tmp_path / "posts", "holds no posts")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"author_id": None}, "column author_id is missing; it has post_id, created_at"),
        ({"post_id": pa.array(["1", "2", "3"])}, "post_id is string, should be uint64"),
        ({"labels": [["a"], [], []]}, "has a column labels, unlike {first}"),
        ({"created_at": None}, "has no column created_at, unlike {first}"),
        (
            {"created_at": pa.array([1, 2, 3], pa.timestamp("ms", "UTC"))},
            "created_at is timestamp[ms, tz=UTC], in {first} it is timestamp[us]",
        ),
        ({"post_id": pa.array([7, None, 8], pa.uint64())}, "post_id in row 1 is null"),
        ({"post_id": pa.array([7, 8, -9])}, "post_id in row 2 is negative"),
        ({"author_id": pa.array([0, 8, 9])}, "author_id in row 0 is 0, which is no id"),
    ],
)
def test_the_invalid_file_among_several_is_reported(
    bundle: Bundle, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    times = {"created_at": pa.array([1, 2, 3], pa.timestamp("us"))}
    first = write(tmp_path / "posts" / "a.parquet", **times)
    new = _ids(4, 5, 6)
    odd = write(tmp_path / "posts" / "b.parquet", **(new | times | changes))
    write(tmp_path / "posts" / "c.parquet", **_ids(10, 11, 12), **times)
    error = refused([tmp_path / "posts"], bundle, tmp_path / "corpus")
    assert (error.path, error.reason) == (odd, reason.format(first=first))


def test_labels_must_be_lists_in_all_files_or_in_none(bundle: Bundle, tmp_path: Path) -> None:
    first = write(tmp_path / "posts" / "a.parquet", labels=[["a"], [], []])
    odd = write(tmp_path / "posts" / "b.parquet", **_ids(4, 5), labels=["a", "b"])
    error = refused([tmp_path / "posts"], bundle, tmp_path / "corpus")
    assert (error.path, error.reason) == (
        odd,
        f"labels is string, in {first} it is list<element: string>",
    )


def test_files_may_store_columns_in_different_types(bundle: Bundle, tmp_path: Path) -> None:
    ids, texts = [7, 8, 9], ["b", "a", ""]
    one = columns(
        labels=texts, created_at=pa.array([10**12, 10**12 + 1, 10**12 + 2], pa.timestamp("ms"))
    )
    other = {
        "labels": pa.array(texts).dictionary_encode(),
        "post_id": pa.array(ids, pa.int16()),
        "author_id": pa.array(ids, pa.uint32()),
        "created_at": pa.array([10**15 + 3000, 10**15 + 4000, 10**15 + 5999], pa.timestamp("us")),
    }
    for number, made in enumerate((one, other)):
        (tmp_path / "posts").mkdir(exist_ok=True)
        pq.write_table(pa.table(made), tmp_path / "posts" / f"{number}.parquet")
    build_corpus([tmp_path / "posts"], bundle, tmp_path / "corpus", SMALL)
    held = open_snapshot(tmp_path / "corpus").columns()
    assert held.post_ids.tolist()[3:] == ids
    assert held.created_at_unix_ms.tolist() == [10**12 + place for place in range(6)]
    assert held.labels.indices.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("column", ["labels", "post_id"])
def test_a_column_in_the_name_of_a_directory_is_refused(
    bundle: Bundle, tmp_path: Path, column: str
) -> None:
    odd = write(tmp_path / "posts" / f"{column}=3" / "a.parquet")
    error = refused([tmp_path / "posts"], bundle, tmp_path / "corpus")
    assert (error.path, error.reason) == (
        odd,
        f"{column} is in the name of a directory; only columns in files are read",
    )
    write(tmp_path / "days" / "day=2024-01-01" / "a.parquet")
    assert build_corpus([tmp_path / "days"], bundle, tmp_path / "corpus", SMALL) == 3


@settings(max_examples=8)
@given(cuts=st.lists(st.integers(0, 300), max_size=5), group_rows=st.integers(20, 400))
def test_a_corpus_does_not_depend_on_the_division_into_files(
    bundle: Bundle,
    tmp_path_factory: pytest.TempPathFactory,
    cuts: list[int],
    group_rows: int,
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    whole, posts = write_files(folder / "whole", _POSTS, [], 1000), folder / "posts"
    write_files(posts, _POSTS, cuts, group_rows)
    build_corpus([whole], bundle, folder / "a", SMALL)
    build_corpus([posts], bundle, folder / "b", SMALL)
    assert digest(folder / "a") == digest(folder / "b")


def test_a_file_that_changes_during_a_build_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    parquet = write(tmp_path / "posts.parquet", **_ids(*range(1, 400)))

    def report(done: int, total: int, /, stage: str = "", found: int = 0) -> None:
        if stage == "checked":
            write(parquet, **_ids(*range(1, 399)))

    with pytest.raises(CorpusError, match=r"posts\.parquet: was changed while a corpus is built"):
        build_corpus([parquet], bundle, tmp_path / "corpus", SMALL, report=report)


@pytest.mark.parametrize("contents", [b"", b"not Parquet", b"PAR1" * 50])
def test_a_file_that_is_not_parquet_is_reported(
    bundle: Bundle, tmp_path: Path, contents: bytes
) -> None:
    parquet = tmp_path / "posts.parquet"
    parquet.write_bytes(contents)
    error = refused([parquet], bundle, tmp_path / "corpus")
    assert error.path == parquet
    assert error.reason.startswith("is not a readable Parquet file: ")


@pytest.mark.parametrize("column", ["post_id", "author_id"])
@pytest.mark.parametrize("checksums", [True, False])
def test_a_file_with_damaged_pages_is_reported(
    bundle: Bundle, tmp_path: Path, column: str, checksums: bool
) -> None:
    rng = np.random.default_rng(0)
    post_ids, author_ids = rng.integers(1, 2**64, (2, 500), np.uint64)
    parquet = tmp_path / "posts.parquet"
    pq.write_table(
        pa.table({"post_id": post_ids, "author_id": author_ids}),
        parquet,
        write_page_checksum=checksums,
        compression="none" if checksums else "snappy",  # only checksums protect uncompressed data
    )
    chunk = pq.read_metadata(parquet).row_group(0).column(["post_id", "author_id"].index(column))
    contents = bytearray(parquet.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    damaged = slice(start + chunk.total_compressed_size // 2, start + chunk.total_compressed_size)
    contents[damaged] = b"\xff" * (damaged.stop - damaged.start)
    parquet.write_bytes(contents)
    error = refused([parquet], bundle, tmp_path / "corpus")
    assert error.path == parquet
    assert error.reason.startswith("is not a readable Parquet file: ")


def test_a_missing_file_is_reported(bundle: Bundle, tmp_path: Path) -> None:
    error = refused([tmp_path / "posts.parquet"], bundle, tmp_path / "corpus")
    assert (error.path, error.reason) == (tmp_path / "posts.parquet", "no such file")
