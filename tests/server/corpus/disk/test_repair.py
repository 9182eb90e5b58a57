"""What is whole of a corpus is found, and a server goes on from there when it is told to."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from phoenix_server.corpus.disk.compaction import prune_snapshots, write_snapshot
from phoenix_server.corpus.disk.journal import JOURNAL, Journal
from phoenix_server.corpus.disk.repair import LOST, accept_loss, describe, examine
from phoenix_server.corpus.disk.seal import SEAL, read_seal
from phoenix_server.corpus.disk.store import Store
from phoenix_server.errors import CorpusError
from server.corpus.change_cases import OwnTowers, id_array
from server.corpus.disk.interruptions import interrupted_at_each_step
from server.corpus.disk.lost_file_cases import LAST, Served, flip

SNAPSHOT = 3  # the last change in the snapshot


def _opens_at(path: Path) -> int:
    """Open a corpus, and write one more change; return the number of the last one before."""
    with closing(Store(path)) as store:
        start = store.snapshot.manifest.sequence
        last = start + store.read_history(start).changes
        store.append(last + 1, [id_array(9)])
    with closing(Store(path)) as store:
        start = store.snapshot.manifest.sequence
        assert start + store.read_history(start).changes == last + 1
    return last


def test_a_whole_corpus_has_no_problems(tmp_path: Path) -> None:
    path = Served(tmp_path).stopped()
    found = examine(path)
    assert found.is_whole
    assert (found.snapshot.manifest.sequence, found.last) == (SNAPSHOT, LAST)
    assert found.seal is not None
    assert found.seal.clean
    *_, acknowledged = describe(path, found)
    assert acknowledged.endswith(f"through change {LAST}, epoch 1; the last writer has closed it")


def _without_log(path: Path) -> None:
    (path / f"{JOURNAL}-wal").unlink()


def _without_journal(path: Path) -> None:
    for name in (JOURNAL, f"{JOURNAL}-wal", f"{JOURNAL}-shm"):
        (path / name).unlink()


def _without_seal(path: Path) -> None:
    (path / SEAL).unlink()


def _without_snapshots(path: Path) -> None:
    shutil.rmtree(path / "snapshots")


def _with_a_damaged_change(path: Path) -> None:
    with closing(sqlite3.connect(path / JOURNAL)) as database, database:
        database.execute("UPDATE changes SET tower = 'x' WHERE sequence = 5")


@pytest.mark.parametrize(
    ("spoil", "last", "problem"),
    [
        (_without_log, SNAPSHOT, "the changes 4 to 6 were acknowledged, and are missing"),
        (_without_journal, SNAPSHOT, "the changes 4 to 6 were acknowledged, and are missing"),
        (_without_seal, LAST, "missing, so that changes may be missing in journal.sqlite, too"),
        (_without_snapshots, 0, "lacks the changes 1 to 3"),
        (_with_a_damaged_change, 4, "change 5 is damaged"),
    ],
)
def test_a_corpus_goes_on_after_what_is_whole(
    tmp_path: Path, spoil: Callable[[Path], None], last: int, problem: str
) -> None:
    path = Served(tmp_path).killed()
    spoil(path)
    with pytest.raises(CorpusError), closing(Store(path)) as store:
        store.read_history(SNAPSHOT)
    found = examine(path)
    assert found.last == last
    assert any(problem in each for each in found.problems)
    with pytest.raises(CorpusError, match=f"is whole up to change {last}, not to {last + 1}"):
        accept_loss(path, last + 1)
    accept_loss(path, last)
    seal = read_seal(path / SEAL)
    assert seal is not None
    assert (seal.epoch, seal.last, seal.clean) == (2, last, True)
    assert examine(path).is_whole
    assert _opens_at(path) == last
    assert (path / LOST / "2").is_dir()


def test_more_may_be_given_up_than_is_lost(tmp_path: Path) -> None:
    path = Served(tmp_path).stopped()
    with pytest.raises(CorpusError, match="has no state after change 2: the newest snapshot is"):
        accept_loss(path, 2)
    accept_loss(path, 4)
    assert _opens_at(path) == 4


def test_a_corpus_that_a_server_writes_is_left_alone(tmp_path: Path) -> None:
    served = Served(tmp_path)
    with pytest.raises(CorpusError, match="another server writes its changes"):
        accept_loss(served.path, LAST)
    served.store.close()


def test_an_epoch_counts_on(tmp_path: Path) -> None:
    path = Served(tmp_path).stopped()
    accept_loss(path, 5)
    accept_loss(path, 4)
    seal = read_seal(path / SEAL)
    assert seal is not None
    assert seal.epoch == 3
    assert _opens_at(path) == 4


def test_an_interrupted_repair_loses_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    left = Served(tmp_path).killed()
    for step, path in interrupted_at_each_step(left, lambda path: accept_loss(path, 5)):
        try:
            with closing(Store(path, read_only=True)) as store:
                start = store.snapshot.manifest.sequence
                assert start + store.read_history(start).changes in (LAST, 5), step
        except CorpusError:
            assert not examine(path).is_whole, step
        accept_loss(path, 5)
        assert examine(path).is_whole, step
        assert _opens_at(path) == 5, step


def test_an_epoch_counts_on_though_the_seal_is_lost(tmp_path: Path) -> None:
    path = Served(tmp_path).stopped()
    for epoch in (2, 3):
        (path / SEAL).unlink()
        accept_loss(path, LAST)
        seal = read_seal(path / SEAL)
        assert seal is not None
        assert seal.epoch == epoch


def _without_journal_and_seal(path: Path) -> None:
    _without_journal(path)
    _without_seal(path)


def _with_another_journal(path: Path) -> None:
    with closing(Store(path, read_only=True)) as store:
        names = store.names
    _without_journal(path)
    with closing(Journal(path / JOURNAL, names)) as journal:
        journal.append(SNAPSHOT + 1, [id_array(9)] * (LAST - SNAPSHOT))


@pytest.mark.parametrize("spoil", [_without_journal_and_seal, _with_another_journal])
def test_what_a_server_refuses_is_not_whole(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    path = Served(tmp_path).killed()
    spoil(path)
    with pytest.raises(CorpusError) as caught:
        Store(path)
    (problem,) = examine(path).problems
    assert str(caught.value).startswith(problem)


def test_a_damaged_snapshot_is_given_up(tmp_path: Path) -> None:
    served = Served(tmp_path)
    write_snapshot(served.store, OwnTowers())  # and the journal still begins before it
    path = served.stopped()
    flip(path / "snapshots" / str(LAST) / "posts.arrow", path)
    accept_loss(path, LAST)
    assert examine(path).is_whole
    assert (path / LOST / "2" / str(LAST)).is_dir()
    assert _opens_at(path) == LAST


def test_a_snapshot_that_is_half_removed_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove_half(path: Path, **_: object) -> None:
        (path / "posts.arrow").unlink()

    served = Served(tmp_path)
    for number in range(LAST + 1, LAST + 3):
        served.store.append(number, [id_array(number)])
        served.store.snapshot = write_snapshot(served.store, OwnTowers())
    monkeypatch.setattr(shutil, "rmtree", remove_half)
    prune_snapshots(served.store)
    assert examine(served.stopped()).is_whole
