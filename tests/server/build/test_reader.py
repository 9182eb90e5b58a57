from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_server.build.dataset import open_dataset
from phoenix_server.build.reader import check_posts, read_posts
from phoenix_server.bundle.bundle import Bundle
from server.build.cases import random_posts, refused, write, write_files

_POSTS = random_posts(300)
_NOW_MS = 1_780_000_000_000


def _ids(*ids: int) -> dict[str, pa.Array]:
    return {"post_id": pa.array(ids, pa.uint64()), "author_id": pa.array(ids, pa.uint64())}


def _repeats(folder: Path) -> list[int]:
    dataset = open_dataset([folder])
    dropped = check_posts(dataset, drop_duplicates=True, now_ms=_NOW_MS, report=lambda done: None)
    return dropped.tolist()


def test_a_post_that_occurs_in_two_files_is_reported(bundle: Bundle, tmp_path: Path) -> None:
    first = write(tmp_path / "posts" / "a.parquet", **_ids(1, 2, 3))
    write(tmp_path / "posts" / "b.parquet", **_ids(4, 5))
    again = write(tmp_path / "posts" / "c.parquet", **_ids(6, 2, 4, 2))
    error = refused([tmp_path / "posts"], bundle, tmp_path / "corpus")
    assert (error.path, error.reason) == (
        again,
        f"post_id 2 occurs more than once: in row 1, and before in row 1 of {first} (3 repeated "
        "rows); --drop-duplicates keeps the first of each",
    )


@settings(max_examples=50)
@given(ids=st.lists(st.integers(1, 12), min_size=1, max_size=60), data=st.data())
def test_repeated_posts_are_those_that_a_dict_finds(
    tmp_path_factory: pytest.TempPathFactory, ids: list[int], data: st.DataObject
) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(ids)), max_size=4))
    seen, later = set[int](), list[int]()
    for row, post in enumerate(ids):
        if post in seen:
            later.append(row)
        seen.add(post)
    table = pa.table(_ids(*ids))
    folder = write_files(
        tmp_path_factory.mktemp("posts"), table, cuts, data.draw(st.integers(1, 9))
    )
    assert _repeats(folder) == later


@settings(max_examples=50)
@given(
    cuts=st.lists(st.integers(0, 300), max_size=5),
    group_rows=st.integers(7, 400),
    rows=st.tuples(st.integers(0, 300), st.integers(0, 300)),
    batch_rows=st.integers(5, 400),
)
def test_posts_do_not_depend_on_the_division_into_files(
    tmp_path_factory: pytest.TempPathFactory,
    cuts: list[int],
    group_rows: int,
    rows: tuple[int, int],
    batch_rows: int,
) -> None:
    folder = write_files(tmp_path_factory.mktemp("posts"), _POSTS, cuts, group_rows)
    batches = list(read_posts(open_dataset([folder]), range(*rows), batch_rows, _NOW_MS))
    expected = _POSTS.slice(rows[0], max(rows[1] - rows[0], 0))
    sizes = [batch.num_rows for batch in batches]
    assert sum(sizes) == expected.num_rows
    assert all(size == batch_rows for size in sizes[:-1])
    for column in ("post_id", "author_id", "labels"):
        found = [value for batch in batches for value in batch.column(column).to_pylist()]
        assert found == [
            value or [] if column == "labels" else value
            for value in expected.column(column).to_pylist()
        ]
