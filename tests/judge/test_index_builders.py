from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from judge.cases import FLAT, ROWS, change, manifest_of
from phoenix_judge.errors import IndexOptionError, MissingPackageError
from phoenix_judge.export import export_index
from phoenix_judge.index_builders import FaissOptions, Options, ScannOptions, import_scann
from server.corpus.change_cases import WIDTH, id_array, unit_posts, written_corpus


@pytest.mark.parametrize("factory", ["Flat", "HNSW8", "IVF4,Flat", "IVF2,PQ4x4", "PCA4,Flat"])
def test_faiss_indexes_hold_every_row_by_inner_product(tmp_path: Path, factory: str) -> None:
    rows = 200
    path = tmp_path / "corpus"
    written_corpus(path, rows)
    options = FaissOptions(factory=factory)
    export_index(path, tmp_path / "out", options)
    index = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    assert (index.ntotal, index.d) == (rows, WIDTH)
    assert index.metric_type == faiss.METRIC_INNER_PRODUCT
    manifest = manifest_of(tmp_path / "out")
    assert (manifest["format"], manifest["factory"]) == ("faiss", factory)
    assert manifest["faiss_version"] == faiss.__version__


def test_rows_of_a_flat_index_are_those_of_the_ids(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    written_corpus(path, ROWS)
    ids = [2**64 - 1, 2**63, 3]
    change(path, id_array(*range(1, ROWS + 1)), unit_posts(ids, 5))
    export_index(path, tmp_path / "out", FLAT)
    index = faiss.read_index(str(tmp_path / "out" / "index.faiss"))
    vectors: npt.NDArray[np.float32] = np.load(tmp_path / "out" / "vectors.npy")
    post_ids = np.load(tmp_path / "out" / "post_ids.npy")
    assert set(post_ids.tolist()) == set(ids)
    queries = np.random.default_rng(0).standard_normal((50, WIDTH), np.float32)
    scores, rows = index.search(queries, 3)
    expected = queries.astype(np.float64) @ vectors.T.astype(np.float64)
    np.testing.assert_allclose(scores, -np.sort(-expected), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(expected, rows, 1), scores, rtol=1e-5, atol=1e-5)


def test_the_number_of_training_posts_is_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[npt.NDArray[np.float32]] = []
    train = faiss.IndexIVFFlat.train

    def recorded(index: Any, sample: npt.NDArray[np.float32]) -> None:
        seen.append(sample)
        train(index, sample)

    monkeypatch.setattr(faiss.IndexIVFFlat, "train", recorded)
    path = tmp_path / "corpus"
    written_corpus(path, 300)
    export_index(path, tmp_path / "out", FaissOptions(factory="IVF2,Flat", train_posts=90))
    assert [sample.shape for sample in seen] == [(90, WIDTH)]


@pytest.fixture
def scann() -> Any:
    try:
        return import_scann()
    except ModuleNotFoundError as error:
        pytest.skip(str(error))


def test_a_scann_searcher_finds_the_exact_neighbours_in_all_leaves(
    tmp_path: Path, scann: Any
) -> None:
    path, rows = tmp_path / "corpus", 300
    written_corpus(path, ROWS)
    change(path, unit_posts(range(1, rows + 1), 1))
    export_index(path, tmp_path / "out", ScannOptions(leaves=7, reorder=rows))
    manifest = manifest_of(tmp_path / "out")
    assert (manifest["format"], manifest["leaves"], manifest["reorder"]) == ("scann", 7, rows)
    moved = (tmp_path / "out").rename(
        tmp_path / "moved"
    )  # it must not name files by absolute paths
    searcher = scann.load_searcher(str(moved / "scann"))
    vectors = np.load(moved / "vectors.npy").astype(np.float64)
    for query in np.random.default_rng(0).standard_normal((20, WIDTH), np.float32):
        found, _ = searcher.search(query, final_num_neighbors=10, leaves_to_search=7)
        scores = vectors @ query.astype(np.float64)
        np.testing.assert_allclose(scores[found], -np.sort(-scores)[:10], rtol=1e-5, atol=1e-5)


def test_scann_has_the_square_root_of_the_posts_as_leaves(tmp_path: Path, scann: Any) -> None:
    written_corpus(tmp_path / "corpus", 100)
    export_index(tmp_path / "corpus", tmp_path / "out", ScannOptions())
    assert manifest_of(tmp_path / "out")["leaves"] == 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ScannOptions(leaves=ROWS + 1), f"--leaves: is {ROWS + 1}, there are {ROWS} posts"),
        (ScannOptions(train_posts=15), "--format: scann needs 16 posts or more to train on"),
    ],
)
def test_invalid_options_of_scann_are_refused(
    tmp_path: Path, scann: Any, options: Options, message: str
) -> None:
    written_corpus(tmp_path / "corpus", ROWS)
    with pytest.raises(match=message):
        export_index(tmp_path / "corpus", tmp_path / "out", options)


@pytest.mark.parametrize(
    ("factory", "why"),
    [
        ("nonsense", "could not parse index string"),
        ("", "could not parse index string"),
        ("IVF4,PQ3", "multiple of the number of subquantizers"),
        ("LSH", "METRIC_L2"),
        ("IDMap,Flat", "add_with_ids"),
        ("IVF64,Flat", "at least as large as number of clusters"),
    ],
)
def test_invalid_options_of_faiss_are_reported_and_leave_no_files(
    tmp_path: Path, factory: str, why: str
) -> None:
    written_corpus(tmp_path / "corpus", ROWS)
    with pytest.raises(IndexOptionError) as caught:
        export_index(tmp_path / "corpus", tmp_path / "out", FaissOptions(factory=factory))
    assert caught.value.option == "--factory"
    assert str(caught.value).startswith(f"--factory: FAISS refuses {factory!r}: ")
    assert why in str(caught.value) and "/" not in str(caught.value)
    assert os.listdir(tmp_path) == ["corpus"]


@pytest.mark.parametrize(
    ("module", "options", "extra"),
    [("faiss", FLAT, "faiss"), ("scann", ScannOptions(), "scann")],
)
def test_a_missing_library_is_reported_with_the_extra(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    options: Options,
    extra: str,
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    written_corpus(tmp_path / "corpus", ROWS)
    with pytest.raises(MissingPackageError, match=rf"install phoenix-judge\[{extra}\]"):
        export_index(tmp_path / "corpus", tmp_path / "out", options)
    export_index(tmp_path / "corpus", tmp_path / "out", None)


def test_importing_scann_leaves_tensorflow_as_it_was(
    scann: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = object()
    monkeypatch.setitem(sys.modules, "tensorflow", here)
    import_scann()
    assert sys.modules["tensorflow"] is here
    monkeypatch.delitem(sys.modules, "tensorflow")
    import_scann()
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    "wrong", [{"leaves": 0}, {"reorder": 0}, {"train_posts": 0}, {"train_posts": -1}]
)
def test_sizes_below_one_are_refused(wrong: dict[str, int]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name}: must be at least 1"):
        ScannOptions(**wrong)
