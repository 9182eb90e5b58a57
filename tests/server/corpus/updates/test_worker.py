"""Changes while the corpus is searched: a real store and index, and a gate before each change."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from phoenix_server.corpus.changes import Change, ChangeResult, Posts
from phoenix_server.corpus.disk.store import Store
from phoenix_server.errors import (
    DeadlineExceededError,
    NotReadyError,
    PhoenixServerError,
    ReadOnlyError,
)
from server.corpus.change_cases import id_array, posts_of
from server.corpus.reference import Model
from server.corpus.updates.worker_cases import (
    CAPACITY,
    PATIENCE_S,
    assert_holds,
    assert_kept,
    outcomes_of,
    running_corpus,
    soon,
)


async def test_changes_are_numbered_and_answered_when_they_are_on_the_disk_and_visible(
    corpus: Path, model: Model
) -> None:
    changes: list[Change] = [
        posts_of([19, 20, 21, 22, 2**64 - 1]),
        id_array(5, 22, 6, 777),
        posts_of([22, 5], seed=1),
        id_array(777),
    ]
    expected = [
        ChangeResult(1, 3, 2, 0),
        ChangeResult(2, 0, 0, 3),
        ChangeResult(3, 2, 0, 0),
        ChangeResult(4, 0, 0, 0),
    ]
    async with running_corpus(corpus) as running:
        for change, done in zip(changes, expected, strict=True):
            assert await running.done(change) == [done]
            model.apply(change)
            assert_holds(running.target.corpus, model)
            assert running.target.corpus.sequence == running.store.journal.last() == done.sequence
        assert running.updates.journal_posts == sum(map(len, changes))
        assert running.groups == [1, 1, 1, 1]
    assert_kept(corpus, model, 4)
    async with running_corpus(corpus) as running:
        assert running.updates.journal_posts == sum(map(len, changes))


async def test_changes_that_come_together_are_one_transaction(corpus: Path, model: Model) -> None:
    changes: list[Change] = [
        posts_of([30, 31]),
        id_array(30, 1),
        posts_of([30, 31, 2], seed=1),
        id_array(31, 31_000),
        posts_of([1], seed=2),
    ]
    async with running_corpus(corpus) as running:
        outcomes = await outcomes_of(await running.together(*changes))
        assert outcomes == [
            ChangeResult(2, 2, 0, 0),
            ChangeResult(3, 0, 0, 2),
            ChangeResult(4, 1, 2, 0),
            ChangeResult(5, 0, 0, 1),
            ChangeResult(6, 1, 0, 0),
        ]
        assert running.groups == [1, 5]
        assert running.target.sequences == [1, 6]
        for change in changes:
            model.apply(change)
        assert_holds(running.target.corpus, model)
    assert_kept(corpus, model, 6)


async def test_random_changes_do_what_they_do_one_by_one(corpus: Path, model: Model) -> None:
    rng = np.random.default_rng(0)
    async with running_corpus(corpus) as running:
        number = 0
        for _ in range(12):
            changes: list[Change] = []
            for _ in range(int(rng.integers(1, 8))):
                ids = rng.choice(CAPACITY, int(rng.integers(1, 9)), replace=False) + 1
                posts = posts_of(ids.tolist(), seed=int(rng.integers(2**32)))
                changes.append(posts if rng.random() < 0.6 else posts.post_ids)
            outcomes = await outcomes_of(await running.together(*changes))
            number += 1
            for change, outcome in zip(changes, outcomes, strict=True):
                number += 1
                ids = change.post_ids if isinstance(change, Posts) else change
                known = sum(post_id in model for post_id in ids.tolist())
                if isinstance(change, Posts):
                    assert outcome == ChangeResult(number, len(ids) - known, known, 0)
                else:
                    assert outcome == ChangeResult(number, 0, 0, known)
                model.apply(change)
            assert_holds(running.target.corpus, model)
    assert_kept(corpus, model, number)


async def test_whoever_waits_for_a_change_goes_on_when_it_is_visible(corpus: Path) -> None:
    async with running_corpus(corpus) as running:
        updates = running.updates
        await soon(updates.wait_for(0, 0.0))
        seen: list[tuple[int, int]] = []

        async def wait(sequence: int) -> None:
            await updates.wait_for(sequence, PATIENCE_S)
            seen.append((sequence, running.target.corpus.sequence))

        waiting = [asyncio.create_task(wait(sequence)) for sequence in (2, 1, 2, 3)]
        tasks = [await running.hold(posts_of([21]))]
        assert not seen
        with pytest.raises(DeadlineExceededError, match=r"change 1 is not visible yet.* last is 0"):
            await updates.wait_for(1, 0.01)
        tasks += await running.submit(posts_of([22]))
        running.gate.set()
        await outcomes_of(tasks)
        for task in waiting[:3]:
            await soon(task)
        assert sorted(sequence for sequence, _ in seen) == [1, 2, 2]
        assert all(sequence <= last for sequence, last in seen)
        assert not waiting[3].done()
        waiting[3].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[3]
        await running.done(posts_of([23]))
        await soon(updates.wait_for(3, None))


async def test_closing_makes_the_changes_that_wait_and_refuses_others(
    corpus: Path, model: Model
) -> None:
    changes = [posts_of([21]), posts_of([22]), id_array(3)]
    async with running_corpus(corpus) as running:
        running.gate.clear()
        tasks = await running.submit(*changes)
        assert not await asyncio.to_thread(running.updates.close, 0.01)
        with pytest.raises(NotReadyError, match="shutting down"):
            await running.updates.submit(id_array(4))
        with pytest.raises(NotReadyError):
            running.updates.check_open()
        with pytest.raises(PhoenixServerError, match="another server"):
            Store(corpus)  # it is still this one's
        running.gate.set()
        assert await asyncio.to_thread(running.updates.close, PATIENCE_S)
        with pytest.raises(NotReadyError):
            await soon(running.updates.snapshot())
        outcomes = await outcomes_of(tasks)
        assert outcomes == [
            ChangeResult(1, 1, 0, 0),
            ChangeResult(2, 1, 0, 0),
            ChangeResult(3, 0, 0, 1),
        ]
    for change in changes:
        model.apply(change)
    assert_kept(corpus, model, 3)


async def test_a_corpus_that_is_only_read_takes_no_changes(corpus: Path, model: Model) -> None:
    async with running_corpus(corpus) as writer:
        await writer.done(posts_of([21]))
        async with running_corpus(corpus, read_only=True) as reader:
            with pytest.raises(ReadOnlyError, match="takes no changes"):
                await reader.updates.submit(posts_of([22]))
            with pytest.raises(ReadOnlyError):
                reader.updates.check_open()
            await soon(reader.updates.wait_for(0, 1.0))
            with pytest.raises(DeadlineExceededError):
                await reader.updates.wait_for(1, 0.01)
            assert_holds(reader.target.corpus, model)
        assert await writer.done(id_array(21)) == [ChangeResult(2, 0, 0, 1)]
