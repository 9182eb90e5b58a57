"""The generations of a server: one is ACTIVE, others are READY, one is kept for a rollback."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import ExitStack, asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from phoenix_server.artifacts import describe_error
from phoenix_server.batching.stats import QueueStats
from phoenix_server.config import ServeConfig
from phoenix_server.corpus.disk.store import Store
from phoenix_server.corpus.updates.worker import UpdateWorker
from phoenix_server.engine.engine import Engine
from phoenix_server.errors import (
    BusyError,
    GenerationError,
    NoGenerationError,
    NoMemoryError,
    NotReadyError,
    PhoenixServerError,
)
from phoenix_server.generations.generation import Generation, GenerationState
from phoenix_server.generations.loader import Loader
from phoenix_server.generations.registry import Registry
from phoenix_server.generations.sources import Source
from phoenix_server.generations.throttle import Throttle
from phoenix_server.runtime.memory import release_unused_memory
from phoenix_server.runtime.threads import call_in_thread

_log = logging.getLogger(__name__)

_FEW_CHANGES, _MAX_ROUNDS = 64, 10  # of catching up while changes go on, before a switch

_S = GenerationState


class GenerationManager:
    """Loads, activates and unloads generations. Its coroutines run on the event loop."""

    def __init__(self, config: ServeConfig, loader: Loader) -> None:
        """Begin without a generation.

        Args:
            config: How to serve.
            loader: Loads generations.
        """
        self._config = config
        self._loader = loader
        self._registry = Registry(config.user_cache)
        self._updates: UpdateWorker | None = None
        self._busy = asyncio.Lock()  # while one is loaded, activated or unloaded

    @property
    def active(self) -> Generation:
        """The generation that answers requests. A request asks for it once.

        Raises:
            NotReadyError: The first is still being loaded.
        """
        return self._registry.active

    @property
    def updates(self) -> UpdateWorker:
        """Takes changes of the active corpus; errors as for `active`."""
        if self._updates is None:
            raise NotReadyError("the server is loading its bundle and corpus")
        return self._updates

    @property
    def is_busy(self) -> bool:
        """Whether a generation is being loaded, activated or unloaded."""
        return self._busy.locked()

    def listed(self) -> list[Generation]:
        """Return the generations by number, but for UNLOADING ones; errors as for `active`."""
        _ = self.active
        return [each for each in self._registry.all() if each.state is not _S.UNLOADING]

    def stats(self) -> QueueStats:
        """Return the state of the active queue, and the counts since the server began to answer."""
        return self._registry.stats()

    async def start(self, source: Source | None = None) -> None:
        """Load the first generation and activate it.

        Args:
            source: The bundle and the corpus, if they are open already.

        Raises:
            ArtifactError: The bundle or the corpus cannot be used.
            StartupError: There are too few devices, or the search does not work on them.
        """
        async with self._busy:
            generation = self._registry.add(self._config.bundle, self._config.corpus)
            await self._load(generation, source)
            await call_in_thread(generation.prepare_activation, "load")
            self._updates = UpdateWorker(
                generation.update_target,
                snapshot_after=self._config.snapshot_after,
                evict_oldest=self._config.evict_oldest,
                before_trim=self._catch_up_standbys,
            )
            self._registry.set_active(generation)

    async def load(
        self, bundle: Path | None, corpus: Path | None, *, activate: bool = False
    ) -> Generation:
        """Load a generation beside the active one.

        A caller that stops waiting does not cancel it.

        Args:
            bundle: A bundle. Default: the active one's.
            corpus: A corpus. Default: the active one's, with all its changes.
            activate: Activate the generation when it is READY.

        Raises:
            GenerationError: It cannot be used, or another is being loaded.
            NoMemoryError: It does not fit.
        """
        active = self.active
        bundle, corpus = bundle or active.bundle, corpus or active.corpus
        return await self._run_alone(lambda: self._load_beside(bundle, corpus, activate))

    async def activate(self, number: int) -> Generation:
        """Activate a generation that is READY or kept for a rollback.

        A caller that stops waiting does not cancel it.

        Raises:
            NoGenerationError: There is none of this number.
            GenerationError: It cannot be brought up to date, or another is being loaded.
        """
        _ = self.active
        generation = self._registry.standby(number)
        return await self._run_alone(lambda: self._activate(generation))

    async def roll_back(self) -> Generation:
        """Activate the generation that was active before.

        Raises:
            GenerationError: There is none, or another is being loaded.
        """
        _ = self.active
        return await self.activate(self._registry.rollback.number)

    def close(self, timeout_s: float | None = None) -> bool:
        """End all generations, after the update worker has been closed.

        Returns:
            Whether all threads have ended and nothing is being loaded.
        """
        ended = [each.close(timeout_s) for each in self._registry.all()]
        return all(ended) and not self.is_busy

    async def _load_beside(self, bundle: Path, corpus: Path, activate: bool) -> Generation:
        generation = self._registry.add(bundle, corpus)
        try:
            await self._load(generation)
            if activate:
                await self._activate(generation)
        except Exception as exc:
            reason = describe_error(exc)
            unexpected = not isinstance(exc, PhoenixServerError)
            _log.warning("generation %d failed: %s", generation.number, reason, exc_info=unexpected)
            self._registry.fail(generation, reason)
            if generation.state is _S.FAILED:
                await self._unload([generation])
            raise
        return generation

    async def _load(self, generation: Generation, source: Source | None = None) -> None:
        """Bring a generation from LOADING to READY."""
        beside = self._registry.has_active
        bundle, corpus = generation.bundle, generation.corpus
        if source is None:
            source = await call_in_thread(
                lambda: self._loader.sources.open(bundle, corpus), "load", in_background=beside
            )
        if beside:
            await self._make_room(source)
        async with self._snapshots_paused():  # so the journal keeps all changes that it will need
            engine, store = await call_in_thread(
                partial(self._load_engine, source), "load", in_background=beside
            )
            # Not in that thread: the queue's threads would inherit its low priority.
            generation.attach(engine, store, self._config.queue)
            self._registry.set_ready(generation)
        _log.info("generation %d is ready: %s, %s", generation.number, bundle, corpus)

    def _load_engine(self, source: Source) -> tuple[Engine, Store]:
        if not self._registry.has_active:
            return self._loader.load(source)
        return self._loader.load(
            source,
            self._registry.index_of(source.store),
            throttle=Throttle(lambda: self.active.batcher.is_idle),
            compile_all=True,
            recent=lambda: list(self.active.batcher.recent),
        )

    async def _make_room(self, source: Source) -> None:
        """Unload the generations that are not active, if there is no memory for another.

        Raises:
            NoMemoryError: There is none even so; the source's store is released.
        """
        try:
            try:
                self._loader.check_memory(source, self._registry.index_of(source.store))
            except NoMemoryError:
                if not (idle := self._registry.idle()):
                    raise
                _log.info("unloading %d generations to make room", len(idle))
                await self._unload(idle)
                self._loader.check_memory(source, self._registry.index_of(source.store))
        except BaseException:
            await call_in_thread(partial(self._release, source.store), "unload")
            raise

    async def _activate(self, generation: Generation) -> Generation:
        before = self.active
        if generation is before:
            return generation
        await self._catch_up(generation)
        await self.updates.switch(generation.update_target, partial(self._switch_to, generation))
        _log.info("generation %d is active", generation.number)
        keep = None if before.engine.corpus.arrays.torn else before
        await self._unload([each for each in self._registry.idle() if each is not keep])
        return generation

    async def _catch_up(self, generation: Generation) -> None:
        """Apply most of the changes that a generation lacks, while others are written."""
        for _ in range(_MAX_ROUNDS):
            missed = self.active.engine.corpus.sequence - generation.engine.corpus.sequence
            if generation.store is not self.active.store or missed < _FEW_CHANGES:
                return
            await call_in_thread(generation.catch_up, "replay", in_background=True)

    def _switch_to(self, generation: Generation) -> None:
        """Have requests go to a generation that is up to date; on the update worker's thread.

        Nothing is written meanwhile: a request that comes later sees every acknowledged change.
        """
        generation.prepare_activation()
        self._registry.set_active(generation)

    def _catch_up_standbys(self, store: Store) -> None:
        """Apply the changes of a journal that is about to be trimmed; on the snapshot's thread."""
        for generation in self._registry.idle():
            try:
                if generation.is_standby and generation.store is store:
                    generation.catch_up()
            except NotReadyError:
                continue  # it is being unloaded
            except Exception as exc:  # the snapshot goes on, without this generation
                _log.exception("generation %d misses changes", generation.number)
                reason = f"it misses changes, load it again: {describe_error(exc)}"
                self._registry.fail(generation, reason)

    async def _unload(self, generations: Iterable[Generation]) -> None:
        """Answer the requests in the queues of generations, then free their memory."""
        loaded = [each for each in generations if each.is_loaded]
        for generation in loaded:
            self._registry.begin_unloading(generation)
            store = generation.store
            await call_in_thread(generation.close, "unload")
            self._registry.remove(generation)
            await call_in_thread(partial(self._release, store), "unload")
        if loaded:
            await call_in_thread(partial(release_unused_memory, of_what_served=True), "unload")

    def _release(self, store: Store) -> None:
        """Give up a use of a store; in a thread, for closing its journal writes to the disk."""
        paused = nullcontext() if self._updates is None else self._updates.snapshots_paused()
        self._loader.sources.release(store, paused)  # a snapshot may still be written of it

    @asynccontextmanager
    async def _snapshots_paused(self) -> AsyncGenerator[None, None]:
        with ExitStack() as stack:
            if self._updates is not None:
                paused = self._updates.snapshots_paused()
                await call_in_thread(lambda: stack.enter_context(paused), "pause")
            yield

    async def _run_alone(self, change: Callable[[], Coroutine[Any, Any, Generation]]) -> Generation:
        """Load or activate, while `is_busy`; it goes on if the caller stops waiting."""
        if self.is_busy:
            raise BusyError("another generation is being loaded, or activated")
        await self._busy.acquire()  # at once
        task = asyncio.create_task(change())
        task.add_done_callback(lambda _: self._busy.release())
        try:
            return await asyncio.shield(task)
        except (GenerationError, NoGenerationError, NoMemoryError, NotReadyError):
            raise
        except Exception as exc:
            raise GenerationError(describe_error(exc)) from exc
