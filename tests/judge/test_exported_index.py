from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import faiss
import pytest

from commands import Run
from judge.index_cases import (
    ROWS,
    WIDTH,
    Make,
    assert_fails,
)


def _remove(path: Path) -> None:
    path.unlink()


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "npy"}, "format: is npy: vectors without an index, nothing to search"),
        ({"format": "annoy"}, 'format: must be faiss or scann, is "annoy"'),
        ({"format_version": 2}, "format_version: must be 1, is 2"),
        ({"rows": 0}, "rows: must be an integer from 1"),
        ({"rows": ROWS + 1}, "vectors.npy: should be of <f4 (1235, 3)"),
        ({"sequence": "x"}, "sequence: must be an integer from 0"),
        ({"factory": 3}, "factory: must be a string, is 3"),
        ({"tower_fingerprint": None}, "tower_fingerprint: must be a string, is null"),
    ],
)
def test_a_manifest_at_fault_is_named(
    run: Run, make: Make, users: Path, changes: dict[str, object], message: str
) -> None:
    assert_fails(run("grade", make(**changes), users), message)


@pytest.mark.parametrize("spoil", [_remove, _cut])
@pytest.mark.parametrize("name", ["index.json", "vectors.npy", "post_ids.npy", "index.faiss"])
def test_a_file_that_is_missing_or_damaged_is_named(
    run: Run, make: Make, users: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    path = make()
    spoil(path / name)
    assert_fails(run("grade", path, users), f"phoenix-judge: {path / name}: ")


def test_an_index_of_other_rows_than_its_vectors_is_refused(
    run: Run, make: Make, users: Path
) -> None:
    path = make()
    faiss.write_index(faiss.IndexFlatIP(WIDTH), str(path / "index.faiss"))
    assert_fails(run("grade", path, users), "its index has shape (0, 3), its vectors (1234, 3)")
