from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_judge import export as exporting
from phoenix_judge.errors import IndexOptionError
from phoenix_judge.export import Options, export_index
from phoenix_judge.index_builders import FaissOptions, ScannOptions, import_scann
from phoenix_server.corpus.changes import Change
from phoenix_server.corpus.disk.compaction import write_snapshot
from phoenix_server.corpus.disk.snapshot import DATA
from phoenix_server.corpus.disk.store import Store
from phoenix_server.errors import CorpusError, StartupError
from server.cases import copied, flip_bit
from server.corpus.change_cases import (
    WIDTH,
    OwnTowers,
    id_array,
    unit_posts,
    written_corpus,
)
from server.corpus.reference import Model, change_model

ROWS = 20
FLAT = FaissOptions(factory="Flat")


def manifest_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "index.json").read_text())


def exported(out: Path) -> dict[int, bytes]:
    """Return the exported vectors by post, in bytes."""
    vectors, post_ids = np.load(out / "vectors.npy"), np.load(out / "post_ids.npy")
    assert vectors.dtype == np.float32 and post_ids.dtype == np.uint64
    assert vectors.shape == (len(post_ids), WIDTH)
    found = dict(zip(post_ids.tolist(), map(np.ndarray.tobytes, vectors), strict=True))
    assert len(found) == len(post_ids)
    return found


def vectors_of(model: Model) -> dict[int, bytes]:
    return {post_id: post.vector for post_id, post in model.items()}


def change(path: Path, *changes: Change) -> None:
    """Append changes to the journal, as a server does."""
    with closing(Store(path)) as store:
        first = (store.journal.last() or store.snapshot.manifest.sequence) + 1
        store.journal.append(first, changes)


def test_npy_files_hold_the_corpus(tmp_path: Path) -> None:
    _, model = written_corpus(tmp_path / "corpus", ROWS)
    assert export_index(tmp_path / "corpus", tmp_path / "out", None) == ROWS
    assert exported(tmp_path / "out") == vectors_of(model)
    assert manifest_of(tmp_path / "out") == {
        "format_version": 1,
        "format": "npy",
        "tower_fingerprint": "f",
        "sequence": 0,
        "rows": ROWS,
        "embedding_size": WIDTH,
        "metric": "inner_product",
    }
    assert sorted(os.listdir(tmp_path / "out")) == ["index.json", "post_ids.npy", "vectors.npy"]


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_changes_before_and_after_a_snapshot_are_exported(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("changes") / "corpus"
    _, model = written_corpus(path, ROWS)
    some = st.lists(st.integers(1, 2 * ROWS) | st.just(2**64 - 1), min_size=1, unique=True)
    for number in range(1, data.draw(st.integers(1, 5)) + 1):
        ids = data.draw(some)
        made = unit_posts(ids, number) if data.draw(st.booleans()) else id_array(*ids)
        change(path, made)
        change_model(model, made)
        if data.draw(st.booleans()):
            with closing(Store(path)) as store:
                snapshot_of(store)
        out = path.with_name(f"out-{number}")
        if not model:
            with pytest.raises(CorpusError, match="holds no posts to export"):
                export_index(path, out, None)
            continue
        export_index(path, out, None)
        assert exported(out) == vectors_of(model)
        assert manifest_of(out)["sequence"] == number


def snapshot_of(store: Store) -> None:
    """Write a snapshot and trim the journal, as a server does."""
    written = write_snapshot(store, OwnTowers())
    store.journal.trim(written.manifest.sequence)


def test_a_corpus_is_exported_while_a_server_changes_it(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    _, model = written_corpus(path, ROWS)
    with closing(Store(path)) as store:  # it holds the lock
        deleted = id_array(1, 2)
        store.journal.append(1, [deleted])
        change_model(model, deleted)
        export_index(path, tmp_path / "out", FLAT)
    assert exported(tmp_path / "out") == vectors_of(model)


def test_a_snapshot_written_meanwhile_is_exported_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "corpus"
    _, model = written_corpus(path, ROWS)
    change(path, id_array(1))
    change(path, id_array(2))
    for number in (1, 2):
        change_model(model, id_array(number))
    read, reads = Store.read_history, 0

    def late(store: Store, after: int) -> Any:
        nonlocal reads
        reads += store.read_only
        if store.read_only and reads == 1:  # removes change 1 but not 2: the journal has a gap
            with closing(Store(path)) as server:
                written = write_snapshot(server, OwnTowers())
                server.journal.trim(written.manifest.sequence - 1)
        return read(store, after)

    monkeypatch.setattr(Store, "read_history", late)
    export_index(path, tmp_path / "out", None)
    assert reads == 2
    assert exported(tmp_path / "out") == vectors_of(model)
    assert manifest_of(tmp_path / "out")["sequence"] == 2


def test_one_of_several_towers_must_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    written_corpus(path, ROWS)
    with closing(Store(path)) as store:  # loads another bundle: for its towers there is a snapshot
        write_snapshot(store, OtherTowers())
    several = "holds vectors of several towers; choose them with --bundle"
    with pytest.raises(CorpusError) as caught:
        export_index(path, tmp_path / "out", None)
    assert (caught.value.path, caught.value.reason) == (path, several)
    for number, towers in enumerate((OwnTowers(), OtherTowers())):
        out = tmp_path / str(number)
        export_index(path, out, None, tower=towers.tower)
        assert manifest_of(out)["tower_fingerprint"] == towers.tower
        ones = np.array_equal(np.load(out / "vectors.npy"), OtherTowers.vectors(ROWS))
        assert ones == (number == 1)
    change(path, unit_posts([3], seed=1))  # with vectors of the first towers
    for tower in ("", OtherTowers.tower, "somebody's"):
        with pytest.raises(CorpusError, match=r"several towers|does not hold vectors of the"):
            export_index(path, tmp_path / "out", None, tower=tower)
    export_index(path, tmp_path / "out", None, tower=OwnTowers.tower)
    with closing(Store(path, tower=OwnTowers.tower)) as store:
        snapshot_of(store)
    export_index(path, tmp_path / "now", None)
    assert exported(tmp_path / "now") == exported(tmp_path / "out")


class OtherTowers:
    """Towers whose vectors are all equal."""

    tower = "another"

    @staticmethod
    def vectors(count: int) -> npt.NDArray[np.float32]:
        return np.tile(np.eye(1, WIDTH, dtype=np.float32), (count, 1))

    def encode_posts(
        self, post_ids: npt.NDArray[np.uint64], author_ids: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.float32]:
        return self.vectors(len(post_ids))


def test_a_gap_in_the_journal_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "corpus"
    written_corpus(path, ROWS)
    with closing(Store(path)) as store:
        store.journal.append(2, [id_array(1)])
    with pytest.raises(CorpusError, match="lacks the changes 1 to 1"):
        export_index(path, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


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
    except StartupError as error:
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
    moved = (tmp_path / "out").rename(tmp_path / "moved")  # it must not name files in full
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
    with pytest.raises(StartupError, match=rf"install phoenix-judge\[{extra}\]"):
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


def test_an_existing_directory_is_not_overwritten(tmp_path: Path) -> None:
    written_corpus(tmp_path / "corpus", ROWS)
    (tmp_path / "out").mkdir()
    with pytest.raises(CorpusError, match="exists"):
        export_index(tmp_path / "corpus", tmp_path / "out", FLAT)
    assert os.listdir(tmp_path / "out") == []


def test_a_damaged_corpus_is_refused(tmp_path: Path) -> None:
    written_corpus(tmp_path / "whole", ROWS)
    path = copied(tmp_path / "whole", tmp_path / "corpus")
    flip_bit(path / DATA)
    with pytest.raises(CorpusError, match="was changed"):
        export_index(path, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    written_corpus(tmp_path / "corpus", ROWS)
    monkeypatch.setattr(exporting, "_write_arrays", fail)
    with pytest.raises(CorpusError, match="cannot be written: No space left on device"):
        export_index(tmp_path / "corpus", tmp_path / "out", FLAT)
    assert os.listdir(tmp_path) == ["corpus"]


def test_progress_is_reported(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    written_corpus(tmp_path / "corpus", ROWS)
    export_index(
        tmp_path / "corpus",
        tmp_path / "out",
        FaissOptions(factory="IVF2,Flat"),
        report=lambda *step: told.append(step),
    )
    assert told == [("vectors", ROWS, ROWS), ("training", 0, ROWS), ("adding", ROWS, ROWS)]
