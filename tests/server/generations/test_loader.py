"""A bundle and a corpus are loaded: what is kept, and what is closed; over a fake engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from phoenix_server.config import ServeConfig
from phoenix_server.corpus.changes import Ids
from phoenix_server.corpus.disk.compaction import write_snapshot
from phoenix_server.corpus.disk.snapshot import SNAPSHOTS
from phoenix_server.corpus.disk.store import Store
from phoenix_server.errors import ArtifactError
from phoenix_server.generations import loader as module
from phoenix_server.generations.loader import Loader
from server.corpus.change_cases import WIDTH, written_corpus
from server.generations.cases import BUNDLE, CORPUS


class _Towers:
    """Towers that give every post the same vector."""

    def __init__(self, tower: str) -> None:
        self.tower = tower

    def encode_posts(self, post_ids: Ids, author_ids: Ids) -> npt.NDArray[np.float32]:
        return np.tile(np.eye(1, WIDTH, dtype=np.float32), (len(post_ids), 1))


class _Loading:
    """A loader of one corpus, whose engines are fake.

    Attributes:
        store: The corpus on the disk.
        engine: What is loaded.
        closed: The engines that were closed.
        released: The stores that were released.
    """

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = store
        self.closed: list[Any] = []
        self.released: list[Store] = []
        self.engine: Any = SimpleNamespace(
            snapshot=store.snapshot,
            corpus=SimpleNamespace(sequence=0),
            close=lambda: self.closed.append(self.engine),
        )
        self.make_engine: Callable[[], Any] = lambda: self.engine
        monkeypatch.setattr(module, "Engine", lambda *_: self.make_engine())

    def load(self, verify: Callable[[], None] = lambda: None) -> None:
        """Load the corpus.

        Args:
            verify: Waits until the files are verified.
        """
        sources: Any = SimpleNamespace(release=self.released.append)
        source: Any = SimpleNamespace(
            bundle=SimpleNamespace(path=BUNDLE),
            store=self.store,
            is_shared=False,
            has_own_vectors=True,
            verify=verify,
        )
        loaded = Loader(ServeConfig(bundle=BUNDLE, corpus=CORPUS), sources).load(source)
        assert loaded == (self.engine, self.store)


@pytest.fixture
def loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Loading]:
    written_corpus(tmp_path / "corpus", 5)
    store = Store(tmp_path / "corpus")
    yield _Loading(store, monkeypatch)
    store.close()


def _find_damage() -> None:
    raise ArtifactError("corpus/posts.arrow", "was changed")


def test_the_loaded_snapshot_is_kept_though_others_are_newer_by_name(loading: _Loading) -> None:
    loaded, *_ = [write_snapshot(loading.store, _Towers(letter * 12)) for letter in "abc"]
    loading.engine.snapshot = loaded
    loading.load()
    assert loading.store.snapshot is loaded
    kept = sorted(entry.name for entry in (loading.store.path / SNAPSHOTS).iterdir())
    assert kept == [f"0-{letter * 12}" for letter in "abc"]


def test_other_snapshots_than_the_newest_two_and_the_loaded_one_are_removed(
    loading: _Loading,
) -> None:
    snapshots = [write_snapshot(loading.store, _Towers(letter * 12)) for letter in "abcd"]
    loading.engine.snapshot = snapshots[1]
    loading.load()
    assert [snapshot.path.is_dir() for snapshot in snapshots] == [False, True, True, True]


def test_the_engine_is_closed_where_a_file_turns_out_to_be_damaged(loading: _Loading) -> None:
    with pytest.raises(ArtifactError, match="was changed"):
        loading.load(_find_damage)
    assert loading.closed == [loading.engine]
    assert loading.released == [loading.store]


def test_a_damaged_file_is_named_where_it_keeps_the_engine_from_being_made(
    loading: _Loading,
) -> None:
    def fail() -> None:
        raise RuntimeError("odd numbers")

    loading.make_engine = fail
    with pytest.raises(ArtifactError, match="was changed"):
        loading.load(_find_damage)
    with pytest.raises(RuntimeError, match="odd numbers"):
        loading.load()
    assert loading.closed == []
    assert loading.released == [loading.store] * 2
