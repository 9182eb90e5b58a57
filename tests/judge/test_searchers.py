"""FAISS indexes are searched one query at a time, with the parameters that they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from phoenix_client.errors import FileError
from phoenix_judge.index_builders import FAISS_FILE
from phoenix_judge.searchers import FaissSearcher
from phoenix_judge.sweeps import Sweep, doubling

_ROWS, _WIDTH = 200, 7
_VECTORS = np.random.default_rng(1).standard_normal((_ROWS, _WIDTH), np.float32)
_QUERY = np.random.default_rng(2).standard_normal(_WIDTH).astype(np.float32)


def _searcher(folder: Path, factory: str, vectors: npt.NDArray[np.float32] = _VECTORS) -> Any:
    index: Any = faiss.index_factory(_WIDTH, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(_VECTORS)
    index.add(vectors)
    faiss.write_index(index, str(folder / FAISS_FILE))
    return FaissSearcher(folder)


@pytest.mark.parametrize(
    ("factory", "default", "parameter"),
    [
        ("Flat", None, None),
        ("IVF5,Flat", doubling("nprobe", 1, 5), "nprobe"),
        ("HNSW8,Flat", doubling("efSearch", 16, 80), "efSearch"),
    ],
)
def test_an_index_takes_the_parameter_of_its_kind(
    tmp_path: Path, factory: str, default: Sweep | None, parameter: str | None
) -> None:
    searcher = _searcher(tmp_path, factory)
    assert (searcher.rows, searcher.width) == (_ROWS, _WIDTH)
    assert searcher.default_sweep(10) == default
    for name in ("nprobe", "efSearch"):
        assert searcher.takes(name) == (name == parameter)


def test_all_lists_of_an_index_together_find_the_exact_best(tmp_path: Path) -> None:
    searcher = _searcher(tmp_path, "IVF5,Flat")
    searcher.set("nprobe", 5)
    best = np.argsort(-(_VECTORS.astype(np.float64) @ _QUERY))[:10]
    assert searcher.search(_QUERY, 10) == best.tolist()
    searcher.set("nprobe", 1)
    few = searcher.search(_QUERY, _ROWS)
    assert 0 < len(few) < _ROWS  # only the posts of one list


def test_ranks_without_a_result_are_left_out(tmp_path: Path) -> None:
    searcher = _searcher(tmp_path, "Flat", _VECTORS[:3])
    assert sorted(searcher.search(_QUERY, 10)) == [0, 1, 2]


def test_a_file_that_is_missing_or_no_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=f"{FAISS_FILE}: is missing"):
        FaissSearcher(tmp_path)
    (tmp_path / FAISS_FILE).write_bytes(b"no index")
    with pytest.raises(FileError, match="is not an index that FAISS reads"):
        FaissSearcher(tmp_path)
