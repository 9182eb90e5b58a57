from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judge.cases import FLAT, ROWS, change, manifest_of
from phoenix_judge import export as exporting
from phoenix_judge.export import export_index
from phoenix_judge.index_builders import FaissOptions
from phoenix_server.corpus.disk.compaction import write_snapshot
from phoenix_server.corpus.disk.snapshot import DATA
from phoenix_server.corpus.disk.store import Store
from phoenix_server.errors import CorpusError
from server.cases import copied, flip_bit
from server.corpus.change_cases import (
    WIDTH,
    OwnTowers,
    id_array,
    unit_posts,
    written_corpus,
)
from server.corpus.reference import Model


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
@settings(max_examples=25)
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
        model.apply(made)
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
        store.append(1, [deleted])
        model.apply(deleted)
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
        model.apply(id_array(number))
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
        store.append(2, [id_array(1)])
    with pytest.raises(CorpusError, match="lacks the changes 1 to 1"):
        export_index(path, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


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
