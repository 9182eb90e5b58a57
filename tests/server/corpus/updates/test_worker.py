"""Changes while the corpus is searched: a real store and index, and a gate before each change."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from phoenix_server.corpus.changes import Change, ChangeResult, NetChange, Posts
from phoenix_server.corpus.disk.store import Store
from phoenix_server.corpus.memory.index import CorpusIndex
from phoenix_server.corpus.updates.commands import UpdateTarget
from phoenix_server.corpus.updates.replay import replay
from phoenix_server.corpus.updates.worker import UpdateWorker
from phoenix_server.errors import (
    CorpusFullError,
    DeadlineExceededError,
    NotReadyError,
    OverloadedError,
    PhoenixServerError,
    ReadOnlyError,
    StorageError,
)
from phoenix_server.runtime.program_cache import ProgramCache
from server.corpus.change_cases import (
    NAMES,
    OwnTowers,
    held,
    id_array,
    posts_of,
    written_corpus,
)
from server.corpus.reference import Model

_ROWS = 20
_CAPACITY = 40
_MAX_LABELS = 5
_PATIENCE_S = 500.0  # less than the time limit of a test
_NOBODY = 999_999
_PROGRAMS = ProgramCache()  # of all tests: they are of one size


class _Target(OwnTowers):
    """An index, and what was applied to it."""

    def __init__(self, store: Store) -> None:
        self.corpus = CorpusIndex(
            store.snapshot,
            tuple(jax.devices()[:1]),
            capacity=_CAPACITY,
            max_labels=_MAX_LABELS,
        )
        self.corpus.arrays.compile_updates(_PROGRAMS)
        self.sequences: list[int] = []
        self.failure: Exception | None = None

    def apply(self, change: NetChange, sequence: int) -> None:
        if self.failure is not None:
            raise self.failure
        self.corpus.apply(change, sequence)
        self.sequences.append(sequence)


class _Running:
    """A live corpus whose changes wait, before they are applied, while a gate is closed.

    Attributes:
        groups: How many changes each transaction held.
    """

    def __init__(self, path: Path, *, read_only: bool = False, evict_oldest: bool = False) -> None:
        self.path = path
        self.store = Store(path, read_only=read_only)
        self.target = _Target(self.store)
        self.groups: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self._held = threading.Semaphore(0)
        if not read_only:
            replay(self.store, self.target)
            self._count_appends()
        target = UpdateTarget(self.store, self.target, self._between)
        self.updates = UpdateWorker(target, evict_oldest=evict_oldest)

    async def submit(self, *changes: Change) -> list[asyncio.Task[ChangeResult]]:
        """Submit changes, in order; return while they wait or are made."""
        tasks = [asyncio.create_task(self.updates.submit(change)) for change in changes]
        await asyncio.sleep(0)  # lets each task run up to where it waits
        return tasks

    async def done(self, *changes: Change) -> list[ChangeResult]:
        """Make changes one after the other."""
        return [await _soon(self.updates.submit(change)) for change in changes]

    async def hold(self, change: Change) -> asyncio.Task[ChangeResult]:
        """Close the gate, and submit a change; return when it is on the disk but not visible."""
        self.gate.clear()
        (task,) = await self.submit(change)
        assert await asyncio.to_thread(self._held.acquire, timeout=_PATIENCE_S)
        return task

    async def together(self, *changes: Change) -> list[asyncio.Task[ChangeResult]]:
        """Submit changes that will be one group: all come while another is made."""
        first = await self.hold(id_array(_NOBODY))
        tasks = await self.submit(*changes)
        self.gate.set()
        await _soon(first)
        return tasks

    def _between(self, run: Callable[[], None]) -> None:
        if not self.gate.is_set():
            self._held.release()
            assert self.gate.wait(_PATIENCE_S)
        run()

    def _count_appends(self) -> None:
        append = self.store.journal.append

        def counted(first: int, changes: Sequence[Change]) -> None:
            append(first, changes)
            self.groups.append(len(changes))

        self.store.journal.append = counted


@asynccontextmanager
async def _running(
    path: Path, *, read_only: bool = False, evict_oldest: bool = False
) -> AsyncGenerator[_Running, None]:
    running = _Running(path, read_only=read_only, evict_oldest=evict_oldest)
    try:
        yield running
    finally:
        running.gate.set()
        assert await asyncio.to_thread(running.updates.close, _PATIENCE_S)
        running.store.close()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    written_corpus(tmp_path / "corpus", _ROWS)
    return tmp_path / "corpus"


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Return what the corpus holds at first."""
    return written_corpus(tmp_path / "model", _ROWS)[1]


async def _soon(awaited: Coroutine[Any, Any, Any] | asyncio.Task[Any]) -> Any:
    async with asyncio.timeout(_PATIENCE_S):
        return await awaited


async def _outcomes(
    tasks: Sequence[asyncio.Task[ChangeResult]],
) -> list[ChangeResult | BaseException]:
    async with asyncio.timeout(_PATIENCE_S):
        return await asyncio.gather(*tasks, return_exceptions=True)


def _assert_holds(index: CorpusIndex, model: Model) -> None:
    assert held(index).unordered() == model.unordered()


def _assert_kept(path: Path, model: Model, count: int) -> None:
    """Check that the directory holds so many changes, which lead to what the model holds."""
    _, replayed = written_corpus(path.with_name(f"{path.name} as it was"), _ROWS)
    store = Store(path)
    try:
        history = store.read_history(0)
    finally:
        store.close()
    assert history.changes == count
    change = history.net()
    replayed.apply(change.deleted)
    if change.written is not None:
        replayed.apply(change.written)
    assert replayed.unordered() == model.unordered()


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
    async with _running(corpus) as running:
        for change, done in zip(changes, expected, strict=True):
            assert await running.done(change) == [done]
            model.apply(change)
            _assert_holds(running.target.corpus, model)
            assert running.target.corpus.sequence == running.store.journal.last() == done.sequence
        assert running.updates.journal_posts == sum(map(len, changes))
        assert running.groups == [1, 1, 1, 1]
    _assert_kept(corpus, model, 4)
    async with _running(corpus) as running:
        assert running.updates.journal_posts == sum(map(len, changes))


async def test_changes_that_come_together_are_one_transaction(corpus: Path, model: Model) -> None:
    changes: list[Change] = [
        posts_of([30, 31]),
        id_array(30, 1),
        posts_of([30, 31, 2], seed=1),
        id_array(31, 31_000),
        posts_of([1], seed=2),
    ]
    async with _running(corpus) as running:
        outcomes = await _outcomes(await running.together(*changes))
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
        _assert_holds(running.target.corpus, model)
    _assert_kept(corpus, model, 6)


async def test_random_changes_do_what_they_do_one_by_one(corpus: Path, model: Model) -> None:
    rng = np.random.default_rng(0)
    async with _running(corpus) as running:
        number = 0
        for _ in range(12):
            changes: list[Change] = []
            for _ in range(int(rng.integers(1, 8))):
                ids = rng.choice(_CAPACITY, int(rng.integers(1, 9)), replace=False) + 1
                posts = posts_of(ids.tolist(), seed=int(rng.integers(2**32)))
                changes.append(posts if rng.random() < 0.6 else posts.post_ids)
            outcomes = await _outcomes(await running.together(*changes))
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
            _assert_holds(running.target.corpus, model)
    _assert_kept(corpus, model, number)


async def test_a_change_that_does_not_fit_fails_alone(corpus: Path, model: Model) -> None:
    made: list[Change] = [
        posts_of(range(21, 40), names=[]),  # room for one more
        posts_of([40, 21], names=[]),
        id_array(1, 2),
        posts_of([41, 1], names=[]),
        posts_of([3], names=[]),
    ]
    async with _running(corpus) as running:
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
        outcomes = await _outcomes(tasks)
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
        assert len(running.target.corpus) == _CAPACITY
        for change in made:
            model.apply(change)
        _assert_holds(running.target.corpus, model)
    _assert_kept(corpus, model, 6)


async def test_random_changes_evict_what_they_do_one_by_one(corpus: Path, model: Model) -> None:
    rng, number = np.random.default_rng(1), 0
    for _ in range(3):  # and after a restart
        async with _running(corpus, evict_oldest=True) as running:
            for _ in range(6):
                changes: list[Change] = []
                for _ in range(int(rng.integers(1, 8))):
                    ids = rng.choice(80, int(rng.integers(1, 30)), replace=False) + 1
                    posts = posts_of(ids.tolist(), seed=int(rng.integers(2**32)))
                    changes.append(posts if rng.random() < 0.8 else posts.post_ids)
                outcomes = await _outcomes(await running.together(*changes))
                number += 1
                for change, outcome in zip(changes, outcomes, strict=True):
                    ids = change.post_ids if isinstance(change, Posts) else change
                    known = sum(post_id in model for post_id in ids.tolist())
                    number += 1
                    if isinstance(change, Posts):
                        evicted = len(model.evict(ids, _CAPACITY))
                        number += evicted > 0
                        assert outcome == ChangeResult(number, len(ids) - known, known, 0, evicted)
                    else:
                        assert outcome == ChangeResult(number, 0, 0, known)
                    model.apply(change)
                _assert_holds(running.target.corpus, model)
    _assert_kept(corpus, model, number)


async def test_what_was_found_to_be_old_counts_even_if_a_change_is_not_made(
    corpus: Path, model: Model, connections: list[sqlite3.Connection]
) -> None:
    async with _running(corpus, evict_oldest=True) as running:
        first, second = posts_of(range(101, 130), names=[]), posts_of(range(131, 140), names=[])
        assert await running.done(first) == [ChangeResult(2, 29, 0, 0, 9)]
        for change in (id_array(*range(1, 10)), first):
            model.apply(change)
        (pages,) = connections[0].execute("PRAGMA page_count").fetchone()
        connections[0].execute(f"PRAGMA max_page_count = {pages}")
        large = await running.together(second, id_array(*range(1000, 9000)))
        assert all(isinstance(outcome, StorageError) for outcome in await _outcomes(large))
        connections[0].execute("PRAGMA max_page_count = 1000000")
        _assert_holds(running.target.corpus, model)
        (done,) = await running.done(second)
        assert (done.inserted, done.evicted) == (9, 9)
        assert model.evict(second.post_ids, _CAPACITY) == list(range(10, 19))
        model.apply(second)
        _assert_holds(running.target.corpus, model)


async def test_posts_that_do_not_fit_an_empty_corpus_evict_nobody(
    corpus: Path, model: Model
) -> None:
    async with _running(corpus, evict_oldest=True) as running:
        with pytest.raises(CorpusFullError, match="room for 20 more posts of 40, 41 came"):
            await running.done(posts_of(range(101, 142), names=[]))
        _assert_holds(running.target.corpus, model)
        all_new = posts_of(range(101, 141), names=[])
        assert await running.done(all_new) == [ChangeResult(2, 40, 0, 0, 20)]
        model = Model.of(all_new)
        _assert_holds(running.target.corpus, model)


async def test_a_change_is_not_made_unless_that_before_it_is(corpus: Path, model: Model) -> None:
    async with _running(corpus) as running:
        first = await running.hold(id_array(_NOBODY))
        begin = running.updates.begin
        full = begin(posts_of(range(100, 150), names=[]))
        after = begin(id_array(1), full)
        later = begin(id_array(2), after)
        other = begin(id_array(3))
        cancelled = begin(id_array(4), other)
        cancelled.future.cancel()
        last = begin(id_array(5), cancelled)
        running.gate.set()
        await _soon(first)
        with pytest.raises(CorpusFullError):
            await asyncio.wrap_future(full.future)
        for each in (after, later, last):
            with pytest.raises(PhoenixServerError, match="earlier change of the stream"):
                await asyncio.wrap_future(each.future)
        assert await asyncio.wrap_future(other.future) == ChangeResult(2, 0, 0, 1)
        assert running.groups == [1, 1]
    model.apply(id_array(3))
    _assert_kept(corpus, model, 2)


async def test_labels_that_do_not_fit_fail_alone(corpus: Path, model: Model) -> None:
    known = set(NAMES[:2])
    made = [
        posts_of([1], names=[*known, "a", "b"]),
        posts_of([3], names=["a", "c"]),
        posts_of([4], names=["c", "b"]),
    ]
    async with _running(corpus) as running:
        assert set(running.target.corpus.labels.names) == known
        tasks = await running.together(made[0], posts_of([2], names=["c", "d"]), *made[1:])
        outcomes = await _outcomes(tasks)
        assert [outcomes[0], *outcomes[2:]] == [ChangeResult(n, 0, 1, 0) for n in (2, 3, 4)]
        with pytest.raises(CorpusFullError, match="has 4 of at most 5 labels, 2 more came"):
            await tasks[1]
        assert set(running.target.corpus.labels.names) == {*known, "a", "b", "c"}
    for change in made:
        model.apply(change)
    _assert_kept(corpus, model, 4)


async def test_a_change_that_is_cancelled_while_it_waits_is_not_made(
    corpus: Path, model: Model
) -> None:
    made: list[Change] = [id_array(1), posts_of([3, 30]), id_array(7)]
    async with _running(corpus) as running:
        tasks = [await running.hold(made[0])]
        tasks += await running.submit(posts_of([1]), made[1], id_array(4), made[2])
        for cancelled in (tasks.pop(3), tasks.pop(1)):
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        running.gate.set()
        expected = [ChangeResult(1, 0, 0, 1), ChangeResult(2, 1, 1, 0), ChangeResult(3, 0, 0, 1)]
        assert await _outcomes(tasks) == expected
        assert running.groups == [1, 2]
        first = await running.hold(id_array(_NOBODY))
        for cancelled in await running.submit(id_array(5), id_array(6)):
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        running.gate.set()
        await _soon(first)
        assert await running.done(id_array(8)) == [ChangeResult(5, 0, 0, 1)]
        assert running.groups == [1, 2, 1, 1]  # a group of nobody is none
    for change in (*made, id_array(8)):
        model.apply(change)
    _assert_kept(corpus, model, 5)


async def test_a_change_that_is_cancelled_while_it_is_made_is_made(
    corpus: Path, model: Model
) -> None:
    async with _running(corpus) as running:
        task = await running.hold(id_array(1))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        running.gate.set()
        assert await running.done(id_array(1, 2)) == [ChangeResult(2, 0, 0, 1)]
    model.apply(id_array(1, 2))
    _assert_kept(corpus, model, 2)


async def test_a_full_disk_changes_nothing_and_later_changes_are_made(
    corpus: Path, model: Model, connections: list[sqlite3.Connection]
) -> None:
    async with _running(corpus) as running:
        database = connections[0]
        first, last = posts_of([1, 21]), posts_of([2, 22])
        assert await running.done(first) == [ChangeResult(1, 1, 1, 0)]
        model.apply(first)
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        database.execute(f"PRAGMA max_page_count = {pages + 2}")
        large = id_array(*range(10, 8000))
        with pytest.raises(StorageError, match="disk is full"):
            await running.done(large)
        _assert_holds(running.target.corpus, model)
        assert running.target.corpus.sequence == 1
        # All that come together fail together.
        tasks = await running.together(posts_of([3, 23]), large, posts_of([4, 24]))
        outcomes = await _outcomes(tasks)
        assert all(isinstance(outcome, StorageError) for outcome in outcomes)
        _assert_holds(running.target.corpus, model)
        database.execute("PRAGMA max_page_count = 1000000")
        assert await running.done(last) == [ChangeResult(3, 1, 1, 0)]
        model.apply(last)
        _assert_holds(running.target.corpus, model)
    _assert_kept(corpus, model, 3)


async def test_after_a_change_that_cannot_be_applied_no_others_are_taken(
    corpus: Path, model: Model
) -> None:
    async with _running(corpus) as running:
        tasks = [await running.hold(posts_of([21]))]
        tasks += await running.submit(posts_of([22]), posts_of([23]))
        running.target.failure = RuntimeError("the device is gone")
        running.gate.set()
        outcomes = await _outcomes(tasks)
        assert isinstance(outcomes[0], RuntimeError)
        assert all(isinstance(outcome, StorageError) for outcome in outcomes[1:])
        running.target.failure = None
        with pytest.raises(StorageError, match="on the disk but not in memory; restart"):
            await running.updates.submit(posts_of([24]))
        with pytest.raises(StorageError):
            running.updates.check_open()
        assert running.groups == [1]
    model.apply(posts_of([21]))  # it is there after a restart
    _assert_kept(corpus, model, 1)


async def test_whoever_waits_for_a_change_goes_on_when_it_is_visible(corpus: Path) -> None:
    async with _running(corpus) as running:
        updates = running.updates
        await _soon(updates.wait_for(0, 0.0))
        seen: list[tuple[int, int]] = []

        async def wait(sequence: int) -> None:
            await updates.wait_for(sequence, _PATIENCE_S)
            seen.append((sequence, running.target.corpus.sequence))

        waiting = [asyncio.create_task(wait(sequence)) for sequence in (2, 1, 2, 3)]
        tasks = [await running.hold(posts_of([21]))]
        assert not seen
        with pytest.raises(DeadlineExceededError, match=r"change 1 is not visible yet.* last is 0"):
            await updates.wait_for(1, 0.01)
        tasks += await running.submit(posts_of([22]))
        running.gate.set()
        await _outcomes(tasks)
        for task in waiting[:3]:
            await _soon(task)
        assert sorted(sequence for sequence, _ in seen) == [1, 2, 2]
        assert all(sequence <= last for sequence, last in seen)
        assert not waiting[3].done()
        waiting[3].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[3]
        await running.done(posts_of([23]))
        await _soon(updates.wait_for(3, None))


async def test_too_many_posts_that_wait_are_refused_until_there_is_room(corpus: Path) -> None:
    many = id_array(*range(10_000, 50_000))
    async with _running(corpus) as running:
        tasks = [await running.hold(many)]
        tasks += await running.submit(many)
        with pytest.raises(OverloadedError, match="40000 posts are waiting") as caught:
            await running.updates.submit(many)
        assert caught.value.retry_after_s > 0
        tasks += await running.submit(id_array(1))
        running.gate.set()
        outcomes = await _outcomes(tasks)
        assert outcomes == [
            ChangeResult(1, 0, 0, 0),
            ChangeResult(2, 0, 0, 0),
            ChangeResult(3, 0, 0, 1),
        ]
        assert await running.done(many) == [ChangeResult(4, 0, 0, 0)]


async def test_closing_makes_the_changes_that_wait_and_refuses_others(
    corpus: Path, model: Model
) -> None:
    changes = [posts_of([21]), posts_of([22]), id_array(3)]
    async with _running(corpus) as running:
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
        assert await asyncio.to_thread(running.updates.close, _PATIENCE_S)
        with pytest.raises(NotReadyError):
            await _soon(running.updates.snapshot())
        outcomes = await _outcomes(tasks)
        assert outcomes == [
            ChangeResult(1, 1, 0, 0),
            ChangeResult(2, 1, 0, 0),
            ChangeResult(3, 0, 0, 1),
        ]
    for change in changes:
        model.apply(change)
    _assert_kept(corpus, model, 3)


async def test_a_corpus_that_is_only_read_takes_no_changes(corpus: Path, model: Model) -> None:
    async with _running(corpus) as writer:
        await writer.done(posts_of([21]))
        async with _running(corpus, read_only=True) as reader:
            with pytest.raises(ReadOnlyError, match="takes no changes"):
                await reader.updates.submit(posts_of([22]))
            with pytest.raises(ReadOnlyError):
                reader.updates.check_open()
            await _soon(reader.updates.wait_for(0, 1.0))
            with pytest.raises(DeadlineExceededError):
                await reader.updates.wait_for(1, 0.01)
            _assert_holds(reader.target.corpus, model)
        assert await writer.done(id_array(21)) == [ChangeResult(2, 0, 0, 1)]


def test_whoever_waits_on_a_loop_that_is_closed_harms_nobody(corpus: Path, model: Model) -> None:
    running = _Running(corpus)
    change = posts_of([21])

    async def leave() -> None:
        await running.hold(change)

    asyncio.run(leave())
    running.gate.set()
    assert running.updates.close(_PATIENCE_S)
    running.store.close()
    model.apply(change)
    _assert_kept(corpus, model, 1)
