"""Snapshots are written one at a time, in the background."""

import logging
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest

from phoenix_server.corpus.updates import snapshot_scheduler as module
from phoenix_server.corpus.updates.commands import SnapshotCommand, SnapshotOutcome
from phoenix_server.corpus.updates.snapshot_scheduler import SnapshotScheduler
from phoenix_server.errors import CorpusError, NotReadyError, StorageError

PATIENCE_S = 30.0


class Disk:
    """Writes snapshots when the test says so, in the place of the real functions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outcomes: SimpleQueue[Any] = SimpleQueue()
        self.steps: list[str] = []
        self.store: Any = SimpleNamespace(snapshot=None)
        engine = SimpleNamespace(corpus=SimpleNamespace(max_labels=9))
        self.target: Any = SimpleNamespace(store=self.store, engine=engine)
        self.finished: SimpleQueue[SnapshotOutcome] = SimpleQueue()
        monkeypatch.setattr(module, "write_snapshot", self._write)
        monkeypatch.setattr(module, "_trim_journal", lambda *_: self.steps.append("trim"))
        monkeypatch.setattr(module, "prune_snapshots", lambda _: self.steps.append("prune"))

    def snapshot(self, sequence: int) -> Any:
        return SimpleNamespace(manifest=SimpleNamespace(rows=5, sequence=sequence))

    def _write(self, *_: object, max_labels: int) -> Any:
        assert max_labels == 9
        outcome = self.outcomes.get(timeout=PATIENCE_S)
        self.steps.append("write")
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def scheduler(disk: Disk) -> SnapshotScheduler:
    return SnapshotScheduler(lambda _: disk.steps.append("before trim"), disk.finished.put)


def finish(scheduler: SnapshotScheduler, disk: Disk) -> None:
    """Do what the worker does when a snapshot has ended."""
    scheduler.finish(disk.finished.get(timeout=PATIENCE_S), disk.target)


def test_the_journal_is_trimmed_after_those_who_need_it_have_caught_up(
    scheduler: SnapshotScheduler, disk: Disk
) -> None:
    command, written = SnapshotCommand(), disk.snapshot(7)
    scheduler.request(disk.target, command)
    assert scheduler.is_running
    disk.outcomes.put(written)
    finish(scheduler, disk)
    assert command.future.result(0) is written
    assert disk.store.snapshot is written
    assert disk.steps == ["write", "before trim", "trim", "prune"]
    assert not scheduler.is_running


def test_requests_that_come_meanwhile_share_the_next_snapshot(
    scheduler: SnapshotScheduler, disk: Disk
) -> None:
    commands = [SnapshotCommand() for _ in range(3)]
    for command in commands:
        scheduler.request(disk.target, command)
    first, second = disk.snapshot(1), disk.snapshot(2)
    disk.outcomes.put(first)
    finish(scheduler, disk)
    assert commands[0].future.result(0) is first
    assert scheduler.is_running
    assert not commands[1].future.done()
    disk.outcomes.put(second)
    finish(scheduler, disk)
    assert [command.future.result(0) for command in commands[1:]] == [second, second]
    assert disk.steps.count("write") == 2


def test_a_disk_that_refuses_is_told_to_the_caller_and_changes_nothing(
    scheduler: SnapshotScheduler, disk: Disk
) -> None:
    command = SnapshotCommand()
    scheduler.request(disk.target, command)
    disk.outcomes.put(CorpusError("corpus", "no space left"))
    finish(scheduler, disk)
    assert isinstance(command.future.exception(0), StorageError)
    assert disk.store.snapshot is None
    assert disk.steps == ["write"]


def test_a_due_snapshot_that_fails_is_tried_again_after_a_minute(
    scheduler: SnapshotScheduler,
    disk: Disk,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    now_s = 100.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now_s))
    scheduler.write_due(disk.target)
    disk.outcomes.put(CorpusError("corpus", "no space left"))
    with caplog.at_level(logging.ERROR):
        finish(scheduler, disk)
    assert "the journal grows" in caplog.text
    now_s += 59
    scheduler.write_due(disk.target)
    assert not scheduler.is_running
    now_s += 2
    scheduler.write_due(disk.target)
    assert scheduler.is_running
    disk.outcomes.put(disk.snapshot(1))
    finish(scheduler, disk)


def test_no_snapshot_is_begun_while_they_are_paused(
    scheduler: SnapshotScheduler, disk: Disk
) -> None:
    command = SnapshotCommand()
    with scheduler.paused():
        scheduler.request(disk.target, command)
        disk.outcomes.put(disk.snapshot(1))
        assert disk.steps == []
    finish(scheduler, disk)
    assert command.future.result(0).manifest.sequence == 1


def test_a_closed_snapshots_begins_no_snapshot(scheduler: SnapshotScheduler, disk: Disk) -> None:
    command = SnapshotCommand()
    with scheduler.paused():
        scheduler.request(disk.target, command)
        scheduler.close()
    finish(scheduler, disk)
    assert isinstance(command.future.exception(0), NotReadyError)
    assert disk.steps == []
