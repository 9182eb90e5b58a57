"""Cases for tests of the update worker: a live corpus, and a gate before each change."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jax

from phoenix_server.corpus.changes import Change, ChangeResult, NetChange
from phoenix_server.corpus.disk.store import Store
from phoenix_server.corpus.memory.index import CorpusIndex
from phoenix_server.corpus.updates.commands import UpdateTarget
from phoenix_server.corpus.updates.replay import replay
from phoenix_server.corpus.updates.worker import UpdateWorker
from phoenix_server.runtime.program_cache import ProgramCache
from server.corpus.change_cases import OwnTowers, held, id_array, written_corpus
from server.corpus.reference import Model

ROWS = 20
CAPACITY = 40
_MAX_LABELS = 5
PATIENCE_S = 500.0  # less than the time limit of a test
NOBODY = 999_999
PROGRAMS = ProgramCache()  # of all tests: they are of one size


class _Target(OwnTowers):
    """An index, and what was applied to it."""

    def __init__(self, store: Store) -> None:
        self.corpus = CorpusIndex(
            store.snapshot,
            tuple(jax.devices()[:1]),
            capacity=CAPACITY,
            max_labels=_MAX_LABELS,
        )
        self.corpus.arrays.compile_updates(PROGRAMS)
        self.sequences: list[int] = []
        self.failure: Exception | None = None

    def apply(self, change: NetChange, sequence: int) -> None:
        if self.failure is not None:
            raise self.failure
        self.corpus.apply(change, sequence)
        self.sequences.append(sequence)


class Running:
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
        self.update_target = UpdateTarget(self.store, self.target, self._between)
        self.updates = UpdateWorker(self.update_target, evict_oldest=evict_oldest)

    async def submit(self, *changes: Change) -> list[asyncio.Task[ChangeResult]]:
        """Submit changes, in order; return while they wait or are made."""
        tasks = [asyncio.create_task(self.updates.submit(change)) for change in changes]
        await asyncio.sleep(0)  # lets each task run up to where it waits
        return tasks

    async def done(self, *changes: Change) -> list[ChangeResult]:
        """Make changes one after the other."""
        return [await soon(self.updates.submit(change)) for change in changes]

    async def hold(self, change: Change) -> asyncio.Task[ChangeResult]:
        """Close the gate, and submit a change; return when it is on the disk but not visible."""
        self.gate.clear()
        (task,) = await self.submit(change)
        assert await asyncio.to_thread(self._held.acquire, timeout=PATIENCE_S)
        return task

    async def together(self, *changes: Change) -> list[asyncio.Task[ChangeResult]]:
        """Submit changes that will be one group: all come while another is made."""
        first = await self.hold(id_array(NOBODY))
        tasks = await self.submit(*changes)
        self.gate.set()
        await soon(first)
        return tasks

    def _between(self, run: Callable[[], None]) -> None:
        if not self.gate.is_set():
            self._held.release()
            assert self.gate.wait(PATIENCE_S)
        run()

    def _count_appends(self) -> None:
        append = self.store.append

        def counted(first: int, changes: Sequence[Change]) -> None:
            append(first, changes)
            self.groups.append(len(changes))

        self.store.append = counted


@asynccontextmanager
async def running_corpus(
    path: Path, *, read_only: bool = False, evict_oldest: bool = False
) -> AsyncGenerator[Running, None]:
    """Run a live corpus until the block ends."""
    running = Running(path, read_only=read_only, evict_oldest=evict_oldest)
    try:
        yield running
    finally:
        running.gate.set()
        assert await asyncio.to_thread(running.updates.close, PATIENCE_S)
        running.store.close()


async def soon(awaited: Coroutine[Any, Any, Any] | asyncio.Task[Any]) -> Any:
    """Wait for something that happens soon."""
    async with asyncio.timeout(PATIENCE_S):
        return await awaited


async def outcomes_of(
    tasks: Sequence[asyncio.Task[ChangeResult]],
) -> list[ChangeResult | BaseException]:
    """Wait until some changes are made or refused."""
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.gather(*tasks, return_exceptions=True)


def assert_holds(index: CorpusIndex, model: Model) -> None:
    """Check that a corpus in memory holds what the model holds."""
    assert held(index).unordered() == model.unordered()


def assert_kept(path: Path, model: Model, count: int) -> None:
    """Check that the directory holds so many changes, which lead to what the model holds."""
    _, replayed = written_corpus(path.with_name(f"{path.name} as it was"), ROWS)
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
