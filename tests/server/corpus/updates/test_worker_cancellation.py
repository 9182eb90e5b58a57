"""Callers of changes that stop waiting."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from phoenix_server.corpus.changes import Change, ChangeResult
from server.corpus.change_cases import id_array, posts_of
from server.corpus.reference import Model
from server.corpus.updates.worker_cases import (
    NOBODY,
    PATIENCE_S,
    Running,
    assert_kept,
    outcomes_of,
    running_corpus,
    soon,
)


async def test_a_change_that_is_cancelled_while_it_waits_is_not_made(
    corpus: Path, model: Model
) -> None:
    made: list[Change] = [id_array(1), posts_of([3, 30]), id_array(7)]
    async with running_corpus(corpus) as running:
        tasks = [await running.hold(made[0])]
        tasks += await running.submit(posts_of([1]), made[1], id_array(4), made[2])
        for cancelled in (tasks.pop(3), tasks.pop(1)):
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        running.gate.set()
        expected = [ChangeResult(1, 0, 0, 1), ChangeResult(2, 1, 1, 0), ChangeResult(3, 0, 0, 1)]
        assert await outcomes_of(tasks) == expected
        assert running.groups == [1, 2]
        first = await running.hold(id_array(NOBODY))
        for cancelled in await running.submit(id_array(5), id_array(6)):
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        running.gate.set()
        await soon(first)
        assert await running.done(id_array(8)) == [ChangeResult(5, 0, 0, 1)]
        assert running.groups == [1, 2, 1, 1]  # a group of nobody is none
    for change in (*made, id_array(8)):
        model.apply(change)
    assert_kept(corpus, model, 5)


async def test_a_change_that_is_cancelled_while_it_is_made_is_made(
    corpus: Path, model: Model
) -> None:
    async with running_corpus(corpus) as running:
        task = await running.hold(id_array(1))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        running.gate.set()
        assert await running.done(id_array(1, 2)) == [ChangeResult(2, 0, 0, 1)]
    model.apply(id_array(1, 2))
    assert_kept(corpus, model, 2)


def test_whoever_waits_on_a_loop_that_is_closed_harms_nobody(corpus: Path, model: Model) -> None:
    running = Running(corpus)
    change = posts_of([21])

    async def leave() -> None:
        await running.hold(change)

    asyncio.run(leave())
    running.gate.set()
    assert running.updates.close(PATIENCE_S)
    running.store.close()
    model.apply(change)
    assert_kept(corpus, model, 1)
