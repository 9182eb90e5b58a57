"""A corpus in memory is brought up to date, and never turned back."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from phoenix_server.corpus.changes import NetChange
from phoenix_server.corpus.disk.compaction import write_snapshot
from phoenix_server.corpus.disk.store import Store
from phoenix_server.corpus.updates.replay import replay
from phoenix_server.errors import CorpusError
from server.corpus.change_cases import OwnTowers, id_array, written_corpus


class _Target(OwnTowers):
    """Takes note of what is applied."""

    def __init__(self) -> None:
        self.corpus: Any = SimpleNamespace(sequence=0)
        self.applied: list[int] = []

    def apply(self, change: NetChange, sequence: int) -> None:
        self.corpus.sequence = sequence
        self.applied.append(sequence)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    written_corpus(tmp_path / "corpus", 10)
    return tmp_path / "corpus"


def test_what_was_overtaken_meanwhile_is_not_applied_again(corpus: Path) -> None:
    with closing(Store(corpus)) as store:
        store.append(1, [id_array(1), id_array(2)])
        target = _Target()

        def overtaken(run: Callable[[], None]) -> None:
            target.apply(NetChange(None, id_array(1, 2, 3)), 3)
            run()

        replay(store, target, overtaken)
        assert target.applied == [3]
        assert target.corpus.sequence == 3


def test_what_the_journal_does_not_hold_any_more_is_missed(corpus: Path) -> None:
    with closing(Store(corpus)) as store:
        store.append(1, [id_array(1), id_array(2)])
        store.snapshot = write_snapshot(store, OwnTowers())
        store.journal.trim(2)
        target = _Target()
        with pytest.raises(CorpusError, match="does not hold the changes from 1 on any more"):
            replay(store, target)
        target.corpus.sequence = 2
        assert replay(store, target) == 0
        assert not target.applied
