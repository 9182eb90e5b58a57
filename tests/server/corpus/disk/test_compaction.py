from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from phoenix_server.corpus.changes import Change, Ids, Posts
from phoenix_server.corpus.disk.compaction import prune_snapshots, write_snapshot
from phoenix_server.corpus.disk.snapshot import SNAPSHOTS, Snapshot, verify
from phoenix_server.corpus.disk.store import Store
from phoenix_server.errors import CorpusError
from server.corpus.change_cases import (
    WIDTH,
    OwnTowers,
    id_array,
    labelled,
    unit_posts,
    written_corpus,
)
from server.corpus.reference import Model

_CHANGES: list[Change] = [
    unit_posts([3, 40, 41], 1),
    id_array(1, 2, 40, 999),
    unit_posts([2], 2),
]


class _OtherTowers:
    """Towers whose vectors all point the same way, in one dimension more."""

    tower = "a" * 64

    def encode_posts(self, post_ids: Ids, author_ids: Ids) -> npt.NDArray[np.float32]:
        return np.tile(np.eye(1, WIDTH + 1, dtype=np.float32), (len(post_ids), 1))


def _held(snapshot: Snapshot) -> Model:
    verify(snapshot)
    columns = snapshot.columns()
    return Model.of(
        Posts(
            post_ids=columns.post_ids,
            author_ids=columns.author_ids,
            created_at_unix_ms=columns.created_at_unix_ms,
            labels=columns.labels,
            vectors=np.concatenate(list(snapshot.vectors())),
        )
    )


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    written_corpus(tmp_path / "corpus", 20)
    return tmp_path / "corpus"


def test_a_snapshot_holds_the_posts_after_all_changes(corpus: Path) -> None:
    with closing(Store(corpus)) as store:
        model = _held(store.snapshot)
        store.append(1, _CHANGES)
        for change in _CHANGES:
            model.apply(change)
        snapshot = write_snapshot(store, OwnTowers())
        assert snapshot.path == corpus / SNAPSHOTS / "3"
        assert _held(snapshot) == model
        assert (snapshot.manifest.sequence, snapshot.manifest.built_as) == (3, store.identity)


def test_a_snapshot_without_new_changes_is_the_last_one(corpus: Path) -> None:
    with closing(Store(corpus)) as store:
        assert write_snapshot(store, OwnTowers()) is store.snapshot
    assert not (corpus / SNAPSHOTS).exists()


def test_a_snapshot_for_other_towers_has_their_vectors(corpus: Path, tmp_path: Path) -> None:
    towers = _OtherTowers()
    with closing(Store(corpus)) as store:
        store.append(1, _CHANGES)
        snapshot = write_snapshot(store, towers)
        assert snapshot.path == corpus / SNAPSHOTS / f"3-{towers.tower[:12]}"
        assert snapshot.manifest.tower_fingerprint == towers.tower
        assert snapshot.manifest.embedding_size == WIDTH + 1
        own = write_snapshot(store, OwnTowers())
        assert [post[:3] for post in _held(snapshot).values()] == [
            post[:3] for post in _held(own).values()
        ]
        vectors = np.concatenate(list(snapshot.vectors()))
        np.testing.assert_array_equal(vectors[:, 0], np.ones(len(vectors)))
        assert write_snapshot(store, towers).path == snapshot.path  # it exists already
        elsewhere = write_snapshot(store, towers, tmp_path)
        assert elsewhere.path == tmp_path / snapshot.path.name


def test_a_snapshot_of_a_damaged_journal_is_not_written(corpus: Path) -> None:
    with closing(Store(corpus)) as store:
        store.append(2, [id_array(3)])
        with pytest.raises(CorpusError, match="lacks the changes 1 to 1"):
            write_snapshot(store, OwnTowers())
    assert not (corpus / SNAPSHOTS).exists()


def test_old_and_interrupted_snapshots_are_removed(corpus: Path) -> None:
    with closing(Store(corpus)) as store:
        for number in range(1, 5):
            store.append(number, [id_array(number)])
            store.snapshot = write_snapshot(store, OwnTowers())
        folder = corpus / SNAPSHOTS
        for name in (".9.half", ".9-aaaaaaaaaaaa.half", "notes", ".hidden"):
            (folder / name).mkdir()
        prune_snapshots(store)
    assert sorted(entry.name for entry in folder.iterdir()) == [".hidden", "3", "4", "notes"]


def test_a_manifest_lists_no_more_labels_than_are_known(corpus: Path) -> None:
    with closing(Store(corpus)) as store:
        built = set(store.snapshot.manifest.label_names)
        assert built == {"red", "green"}
        everything = id_array(*range(2, 21))
        store.append(1, [labelled([1], "a", "b"), labelled([1], "c"), everything])
        for most, others in ((9, {"a", "b", *built}), (3, {"a", "b"}), (0, {"a"})):
            written = write_snapshot(store, OwnTowers(), corpus.parent / str(most), max_labels=most)
            assert set(written.manifest.label_names) == {"c", *others}
