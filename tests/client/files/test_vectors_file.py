from __future__ import annotations

import re
from pathlib import Path

import pytest

from phoenix_client import VectorsFileError, load_vectors, parse_vectors


def test_reads_a_vector_a_line(tmp_path: Path) -> None:
    file = tmp_path / "vectors.jsonl"
    file.write_text("[0.6, -0.8]\n\n [1, 0] \r\n")
    assert load_vectors(file) == [(0.6, -0.8), (1.0, 0.0)]


@pytest.mark.parametrize(
    ("lines", "location", "problem"),
    [
        ([], "", "holds no vectors"),
        (["\n", " "], "", "holds no vectors"),
        (["[1]", "x"], "line 2", "is not JSON"),
        (["7"], "line 1", "must be an array, is 7"),
        (["[]"], "line 1", "is empty"),
        (["[1, true]"], "line 1: [1]", "must be a number in float32, is true"),
        (["[1e39]"], "line 1: [0]", "must be a number in float32"),
        (["[NaN]"], "line 1: [0]", "must be a number in float32"),
        (["[1, 0]", "", "[1]"], "line 3", "has 1 numbers, the first vector has 2"),
    ],
)
def test_a_mistake_is_named_with_its_place(lines: list[str], location: str, problem: str) -> None:
    with pytest.raises(VectorsFileError, match=re.escape(problem)) as caught:
        parse_vectors(lines, name="v.jsonl")
    assert (caught.value.name, caught.value.location) == ("v.jsonl", location)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(VectorsFileError, match="No such file"):
        load_vectors(tmp_path / "absent")
