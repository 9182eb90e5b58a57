"""Changes that do not fit, or come too fast, are refused; those beside them are made."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path

import jax
import pytest

from phoenix_server.corpus.changes import Change, ChangeResult
from phoenix_server.corpus.disk.store import Store
from phoenix_server.corpus.memory.index import CorpusIndex
from phoenix_server.errors import CorpusFullError, OverloadedError, PhoenixServerError
from server.corpus.change_cases import NAMES, id_array, labelled, posts_of
from server.corpus.reference import Model
from server.corpus.updates.worker_cases import (
    CAPACITY,
    NOBODY,
    PROGRAMS,
    assert_holds,
    assert_kept,
    outcomes_of,
    running_corpus,
    soon,
)


async def test_a_change_that_does_not_fit_fails_alone(corpus: Path, model: Model) -> None:
    made: list[Change] = [
        posts_of(range(21, 40), names=[]),  # room for one more
        posts_of([40, 21], names=[]),
        id_array(1, 2),
        posts_of([41, 1], names=[]),
        posts_of([3], names=[]),
    ]
    async with running_corpus(corpus) as running:
        tasks = await running.together(
            made[0],
            posts_of([40, 41, 1]),  # one too many
            made[1],
            posts_of([50]),
            made[2],
            posts_of([50, 51, 52]),
            made[3],
            posts_of([2]),  # it was deleted before
            made[4],
        )
        outcomes = await outcomes_of(tasks)
        assert outcomes[::2] == [
            ChangeResult(2, 19, 0, 0),
            ChangeResult(3, 1, 1, 0),
            ChangeResult(4, 0, 0, 2),
            ChangeResult(5, 2, 0, 0),
            ChangeResult(6, 0, 1, 0),
        ]
        for outcome, free, came in zip(outcomes[1::2], (1, 0, 2, 0), (2, 1, 3, 1), strict=True):
            assert isinstance(outcome, CorpusFullError)
            assert f"room for {free} more posts of 40, {came} came" in str(outcome)
        assert len(running.target.corpus) == CAPACITY
        for change in made:
            model.apply(change)
        assert_holds(running.target.corpus, model)
    assert_kept(corpus, model, 6)


async def test_a_change_is_not_made_unless_that_before_it_is(corpus: Path, model: Model) -> None:
    async with running_corpus(corpus) as running:
        first = await running.hold(id_array(NOBODY))
        begin = running.updates.begin
        full = begin(posts_of(range(100, 150), names=[]))
        after = begin(id_array(1), full)
        later = begin(id_array(2), after)
        other = begin(id_array(3))
        cancelled = begin(id_array(4), other)
        cancelled.future.cancel()
        last = begin(id_array(5), cancelled)
        running.gate.set()
        await soon(first)
        with pytest.raises(CorpusFullError):
            await asyncio.wrap_future(full.future)
        for each in (after, later, last):
            with pytest.raises(PhoenixServerError, match="earlier change of the stream"):
                await asyncio.wrap_future(each.future)
        assert await asyncio.wrap_future(other.future) == ChangeResult(2, 0, 0, 1)
        assert running.groups == [1, 1]
    model.apply(id_array(3))
    assert_kept(corpus, model, 2)


async def test_labels_that_do_not_fit_fail_alone(corpus: Path, model: Model) -> None:
    known = set(NAMES[:2])
    made = [
        labelled([1], *known, "a", "b"),
        labelled([3], "a", "c"),
        labelled([4], "c", "b"),
    ]
    async with running_corpus(corpus) as running:
        assert set(running.target.corpus.labels.names) == known
        tasks = await running.together(made[0], labelled([2], "c", "d"), *made[1:])
        outcomes = await outcomes_of(tasks)
        assert [outcomes[0], *outcomes[2:]] == [ChangeResult(n, 0, 1, 0) for n in (2, 3, 4)]
        with pytest.raises(CorpusFullError, match="has 4 of at most 5 labels, 2 more came"):
            await tasks[1]
        assert set(running.target.corpus.labels.names) == {*known, "a", "b", "c"}
    for change in made:
        model.apply(change)
    assert_kept(corpus, model, 4)


async def test_too_many_posts_that_wait_are_refused_until_there_is_room(corpus: Path) -> None:
    many = id_array(*range(10_000, 50_000))
    async with running_corpus(corpus) as running:
        tasks = [await running.hold(many)]
        tasks += await running.submit(many)
        with pytest.raises(OverloadedError, match="40000 posts are waiting") as caught:
            await running.updates.submit(many)
        assert (caught.value.retry_after_s or 0) > 0
        tasks += await running.submit(id_array(1))
        running.gate.set()
        outcomes = await outcomes_of(tasks)
        assert outcomes == [
            ChangeResult(1, 0, 0, 0),
            ChangeResult(2, 0, 0, 0),
            ChangeResult(3, 0, 0, 1),
        ]
        assert await running.done(many) == [ChangeResult(4, 0, 0, 0)]


async def test_labels_that_no_post_has_give_way_to_new_ones(corpus: Path, model: Model) -> None:
    used = set(NAMES[:2])
    made: list[Change] = [
        labelled([1], "a", "b"),
        labelled([2], "c"),
        id_array(2),
        labelled([1], "d"),
        labelled([41, 42], "e", "f"),
        id_array(41),
        labelled([3], "g"),
    ]
    async with running_corpus(corpus) as running:
        index = running.target.corpus
        await running.done(*made[:3])
        assert set(index.labels.names) == {*used, "a", "b", "c"}
        full = await running.submit(labelled([4], "d", "e"))
        with pytest.raises(CorpusFullError, match="has 4 of at most 5 labels, 2 more came"):
            await soon(full[0])
        assert set(index.labels.names) == {*used, "a", "b", "c"}
        await running.together(*made[3:5])
        await running.done(*made[5:6])
        for change in made[:6]:
            model.apply(change)
        assert_holds(index, model)
        with pytest.raises(CorpusFullError, match="has 5 of at most 5 labels, 1 more came"):
            await running.done(made[6])
        await running.done(id_array(1), made[6])
        for change in (id_array(1), made[6]):
            model.apply(change)
        assert_holds(index, model)
        assert set(index.labels.names) == {*used, "e", "f", "g"}
        await soon(running.updates.snapshot())
    _assert_kept_by_any_start(corpus, model)


def _assert_kept_by_any_start(corpus: Path, model: Model) -> None:
    """Check that posts have their labels whatever `--max-labels` is at the next starts."""
    with closing(Store(corpus)) as store:
        store.append(store.snapshot.manifest.sequence + 1, [labelled([5], "h"), id_array(5)])
        assert len(store.snapshot.manifest.label_names) == 5
        devices = tuple(jax.devices()[:1])
        for most in (1, 5, 9):
            index = CorpusIndex(store.snapshot, devices, capacity=CAPACITY, max_labels=most)
            index.arrays.compile_updates(PROGRAMS)
            history = store.read_history(index.sequence)
            index.apply(history.net(), index.sequence + history.changes)
            after = model.copy()
            after.apply(id_array(5))
            assert_holds(index, after)
            assert index.labels.knows("h") == (most == 9)
