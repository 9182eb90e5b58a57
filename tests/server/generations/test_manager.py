"""Generations are loaded, activated and unloaded; over a loader that loads nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from phoenix_server.config import ServeConfig
from phoenix_server.errors import (
    BusyError,
    GenerationError,
    NoGenerationError,
    NoMemoryError,
    NotReadyError,
)
from phoenix_server.generations.generation import GenerationState
from phoenix_server.generations.manager import GenerationManager
from server.generations.cases import BUNDLE, CORPUS, fake_engine, fake_store

S = GenerationState

_OTHER = Path("other")


class _Loader:
    """Loads fake engines, and is the `Sources` of their stores as well.

    Attributes:
        opened: The stores that are open.
        shares: Whether no release of a store is its last.
        room: The number of generations for which there is memory.
        failure: Raised by the next load.
        go: Loading waits for it.
    """

    def __init__(self) -> None:
        self.sources = self
        self.opened: list[Any] = []
        self.shares = False
        self.room = 10
        self.failure: Exception | None = None
        self.go = threading.Event()
        self.go.set()

    def open(self, bundle: Path, corpus: Path) -> Any:
        self.opened.append(store := fake_store(read_only=True, adopt=lambda snapshot: None))
        return SimpleNamespace(bundle=bundle, store=store)

    def release(self, store: Any, while_closing: Any = nullcontext()) -> None:  # noqa: B008
        assert threading.current_thread() is not threading.main_thread()  # closing takes a while
        with nullcontext() if self.shares else while_closing:
            self._release(store)

    def _release(self, store: Any) -> None:
        self.opened = [each for each in self.opened if each is not store]

    def check_memory(self, source: Any, loaded: object) -> None:
        if len(self.opened) > self.room:
            raise NoMemoryError("no memory")

    def load(self, source: Any, *_: object, **__: object) -> tuple[Any, Any]:
        self.go.wait()
        if self.failure is not None:
            self.release(source.store)
            raise self.failure
        return fake_engine(), source.store


def _manager(loader: Any) -> GenerationManager:
    return GenerationManager(ServeConfig(bundle=BUNDLE, corpus=CORPUS), loader)


@asynccontextmanager
async def _started(loader: _Loader) -> AsyncGenerator[GenerationManager, None]:
    """Run a manager whose first generation is active."""
    manager = _manager(loader)
    await manager.start()
    try:
        yield manager
    finally:
        assert await asyncio.to_thread(manager.updates.close, 60)
        assert await asyncio.to_thread(manager.close, 60)


def _states(manager: GenerationManager) -> dict[int, GenerationState]:
    return {each.number: each.state for each in manager.listed()}


async def test_the_first_generation_is_active_once_it_is_loaded() -> None:
    starting = _manager(_Loader())
    for read in (lambda: starting.active, lambda: starting.updates, starting.listed):
        with pytest.raises(NotReadyError, match="is loading its bundle and corpus"):
            read()
    for change in (starting.load(None, None), starting.activate(1), starting.roll_back()):
        with pytest.raises(NotReadyError, match="is loading its bundle and corpus"):
            await change
    async with _started(_Loader()) as manager:
        assert _states(manager) == {1: S.ACTIVE}
        assert (manager.active.number, manager.active.bundle) == (1, BUNDLE)


async def test_a_loaded_generation_waits_for_its_activation() -> None:
    loader = _Loader()
    async with _started(loader) as manager:
        loaded = await manager.load(_OTHER, None)
        assert (loaded.number, loaded.bundle, loaded.corpus) == (2, _OTHER, CORPUS)
        assert _states(manager) == {1: S.ACTIVE, 2: S.READY}
        assert await manager.activate(2) is loaded is manager.active
        assert _states(manager) == {1: S.ROLLBACK, 2: S.ACTIVE}
        assert manager.updates.store is loaded.store
        assert await manager.activate(2) is loaded  # nothing changes
        assert _states(manager) == {1: S.ROLLBACK, 2: S.ACTIVE}
        assert (await manager.roll_back()).number == 1
        assert _states(manager) == {1: S.ACTIVE, 2: S.ROLLBACK}
        with pytest.raises(NoGenerationError, match="no generation 3 that is ready"):
            await manager.activate(3)


async def test_only_the_active_and_the_previous_generation_stay_loaded() -> None:
    loader = _Loader()
    async with _started(loader) as manager:
        for _ in range(2):
            await manager.load(None, None, activate=True)
        assert _states(manager) == {2: S.ROLLBACK, 3: S.ACTIVE}
        assert loader.opened == [each.store for each in manager.listed()]


async def test_an_activation_goes_on_without_its_caller() -> None:
    loader = _Loader()
    async with _started(loader) as manager:
        await manager.load(None, None, activate=True)
        await manager.load(None, None)
        with manager.updates.snapshots_paused():  # the first one's corpus waits for it
            activating = asyncio.create_task(manager.activate(3))
            async with asyncio.timeout(60):
                while _states(manager) != {2: S.ROLLBACK, 3: S.ACTIVE}:
                    await asyncio.sleep(0.001)
            activating.cancel()
            with pytest.raises(asyncio.CancelledError):
                await activating
            assert manager.is_busy
        async with asyncio.timeout(60):
            while manager.is_busy:
                await asyncio.sleep(0.001)
        assert loader.opened == [each.store for each in manager.listed()]
        await manager.load(None, None, activate=True)
        assert _states(manager) == {3: S.ROLLBACK, 4: S.ACTIVE}


async def test_unloading_waits_for_no_snapshot_while_another_generation_has_the_corpus() -> None:
    loader = _Loader()
    loader.shares = True
    async with _started(loader) as manager:
        await manager.load(None, None, activate=True)
        await manager.load(None, None)
        with manager.updates.snapshots_paused():
            async with asyncio.timeout(60):
                await manager.activate(3)
            assert _states(manager) == {2: S.ROLLBACK, 3: S.ACTIVE}


async def test_idle_generations_are_unloaded_where_memory_is_short() -> None:
    loader = _Loader()
    async with _started(loader) as manager:
        await manager.load(None, None)
        loader.room = 2
        await manager.load(None, None)
        assert _states(manager) == {1: S.ACTIVE, 3: S.READY}
        loader.room = 0
        with pytest.raises(NoMemoryError):
            await manager.load(None, None)
        assert _states(manager) == {1: S.ACTIVE, 4: S.FAILED}
        assert loader.opened == [manager.active.store]


async def test_a_generation_that_cannot_be_loaded_is_listed_with_the_reason() -> None:
    loader = _Loader()
    async with _started(loader) as manager:
        loader.failure = ValueError("odd")
        with pytest.raises(GenerationError, match="odd"):
            await manager.load(_OTHER, None, activate=True)
        first, failed = manager.listed()
        assert (first.state, failed.state) == (S.ACTIVE, S.FAILED)
        assert "odd" in failed.reason
        assert loader.opened == [first.store]
        with pytest.raises(GenerationError, match="no generation to roll back to"):
            await manager.roll_back()


async def test_one_generation_is_loaded_at_a_time_even_if_nobody_waits_for_it() -> None:
    loader = _Loader()
    async with _started(loader) as manager:
        loader.go.clear()
        loading = asyncio.create_task(manager.load(_OTHER, None))
        async with asyncio.timeout(60):
            while _states(manager) != {1: S.ACTIVE, 2: S.LOADING}:
                await asyncio.sleep(0)
        with pytest.raises(BusyError, match="another generation is being loaded"):
            await manager.load(_OTHER, None)
        with pytest.raises(BusyError):
            await manager.activate(1)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
        loader.go.set()
        async with asyncio.timeout(60), manager._busy:  # pyright: ignore[reportPrivateUsage]
            assert _states(manager) == {1: S.ACTIVE, 2: S.READY}
