"""The disk or the device fails while the corpus changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from phoenix_server.corpus.changes import ChangeResult
from phoenix_server.errors import StorageError
from server.corpus.change_cases import id_array, posts_of, unit_posts
from server.corpus.reference import Model
from server.corpus.updates.worker_cases import (
    assert_holds,
    assert_kept,
    outcomes_of,
    running_corpus,
    soon,
)


def _refuse_to_count(database: apsw.Connection) -> None:
    """Have a journal fail where its posts are counted, and nowhere else."""

    def check(action: int, *names: str | None) -> int:
        counts = action == apsw.SQLITE_FUNCTION and "sum" in names
        return apsw.SQLITE_DENY if counts else apsw.SQLITE_OK

    database.set_authorizer(check)


async def test_a_full_disk_changes_nothing_and_later_changes_are_made(
    corpus: Path, model: Model, connections: list[apsw.Connection]
) -> None:
    async with running_corpus(corpus) as running:
        database = connections[0]
        first, last = posts_of([1, 21]), posts_of([2, 22])
        assert await running.done(first) == [ChangeResult(1, 1, 1, 0)]
        model.apply(first)
        pages: Any = database.execute("PRAGMA page_count").get
        database.execute(f"PRAGMA max_page_count = {pages + 2}")
        large = id_array(*range(10, 8000))
        with pytest.raises(StorageError, match="disk is full"):
            await running.done(large)
        assert_holds(running.target.corpus, model)
        assert running.target.corpus.sequence == 1
        # All that come together fail together.
        tasks = await running.together(posts_of([3, 23]), large, posts_of([4, 24]))
        outcomes = await outcomes_of(tasks)
        assert all(isinstance(outcome, StorageError) for outcome in outcomes)
        assert_holds(running.target.corpus, model)
        database.execute("PRAGMA max_page_count = 1000000")
        assert await running.done(last) == [ChangeResult(3, 1, 1, 0)]
        model.apply(last)
        assert_holds(running.target.corpus, model)
    assert_kept(corpus, model, 3)


async def test_after_a_change_that_cannot_be_applied_no_others_are_taken(
    corpus: Path, model: Model
) -> None:
    async with running_corpus(corpus) as running:
        tasks = [await running.hold(posts_of([21]))]
        tasks += await running.submit(posts_of([22]), posts_of([23]))
        running.target.failure = RuntimeError("the device is gone")
        running.gate.set()
        outcomes = await outcomes_of(tasks)
        assert isinstance(outcomes[0], RuntimeError)
        assert all(isinstance(outcome, StorageError) for outcome in outcomes[1:])
        running.target.failure = None
        with pytest.raises(StorageError, match="on the disk but not in memory; restart"):
            await running.updates.submit(posts_of([24]))
        with pytest.raises(StorageError):
            running.updates.check_open()
        assert running.groups == [1]
    model.apply(posts_of([21]))  # it is there after a restart
    assert_kept(corpus, model, 1)


async def test_changes_go_on_after_a_snapshot_though_the_journal_cannot_be_counted(
    corpus: Path,
    model: Model,
    connections: list[apsw.Connection],
    caplog: pytest.LogCaptureFixture,
) -> None:
    before, after = unit_posts([21], 0), unit_posts([22], 1)
    async with running_corpus(corpus) as running:
        await running.done(before)
        _refuse_to_count(connections[0])
        snapshot = await soon(running.updates.snapshot())
        assert snapshot.manifest.sequence == 1
        assert await running.done(after) == [ChangeResult(2, 1, 0, 0)]
        assert "cannot be counted" in caplog.text
        for change in (before, after):
            model.apply(change)
        assert_holds(running.target.corpus, model)


async def test_changes_go_to_another_target_though_its_journal_cannot_be_counted(
    corpus: Path, connections: list[apsw.Connection]
) -> None:
    ran: list[str] = []

    def run_between(run: Callable[[], None]) -> None:
        ran.append("change")
        run()

    async with running_corpus(corpus) as running:
        _refuse_to_count(connections[0])
        target = running.update_target._replace(run_between=run_between)
        await soon(running.updates.switch(target, lambda: ran.append("prepare")))
        assert await running.done(posts_of([21])) == [ChangeResult(1, 1, 0, 0)]
    assert ran == ["prepare", "change"]
