"""The generations of a server: one is ACTIVE, one may be READY, one is kept for a rollback."""

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeVar

from phoenix_server.artifacts import describe_error
from phoenix_server.batching.stats import QueueStats, added
from phoenix_server.config import ServeConfig
from phoenix_server.corpus.disk.store import Store
from phoenix_server.corpus.updates.worker import UpdateWorker
from phoenix_server.errors import (
    BusyError,
    GenerationError,
    NoGenerationError,
    NoMemoryError,
    NotReadyError,
    PhoenixServerError,
)
from phoenix_server.generations.generation import MOVES, Generation, GenerationState
from phoenix_server.generations.loader import Loader, answer_recent
from phoenix_server.generations.sources import Source
from phoenix_server.generations.throttle import Throttle
from phoenix_server.runtime.memory import release_unused_memory
from phoenix_server.runtime.threads import run_in_thread

_log = logging.getLogger(__name__)

T = TypeVar("T")

_MAX_FAILED = 8  # generations that are remembered
_FEW_CHANGES, _MAX_ROUNDS = 64, 10  # of catching up while changes go on, before a switch

_S = GenerationState
_STANDBY = (_S.READY, _S.ROLLBACK)


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
        self._numbers = count(1)
        self._generations: dict[int, Generation] = {}
        self._active: Generation | None = None
        self._updates: UpdateWorker | None = None
        self._states = threading.Lock()
        self._busy = asyncio.Lock()  # while one is loaded, activated or unloaded
        self._unloaded_stats = QueueStats()

    @property
    def active(self) -> Generation:
        """The generation that answers requests. A request asks for it once.

        Raises:
            NotReadyError: The first is still being loaded.
        """
        if self._active is None:
            raise NotReadyError("the server is loading its bundle and corpus")
        return self._active

    @property
    def updates(self) -> UpdateWorker:
        """Takes changes of the active corpus; errors as for `active`."""
        if self._updates is None:
            raise NotReadyError("the server is loading its bundle and corpus")
        return self._updates

    def list(self) -> list[Generation]:
        """Return the generations in the order of their numbers, but for UNLOADING ones."""
        found = sorted(self._generations.values(), key=lambda generation: generation.number)
        return [generation for generation in found if generation.state is not _S.UNLOADING]

    def stats(self) -> QueueStats:
        """Return the state of the active queue, and the counts of all queues."""
        total = self.active.batcher.stats()
        others = [each for each in self._generations.values() if each is not self._active]
        for stats in (
            self._unloaded_stats,
            *(each.batcher.stats() for each in others if each.is_loaded),
        ):
            total = added(total, stats)
        return total

    async def start(self, source: Source | None = None) -> None:
        """Load the first generation and activate it.

        Args:
            source: The bundle and the corpus, if they are open already.

        Raises:
            ArtifactError: The bundle or the corpus cannot be used.
            StartupError: There are too few devices, or the search does not work on them.
        """
        async with self._busy:
            generation = self._add(self._config.bundle, self._config.corpus)
            await self._load(generation, source)
            await _thread(generation.prepare_activation, "load")
            self._updates = UpdateWorker(
                generation.update_target,
                snapshot_after=self._config.snapshot_after,
                evict_oldest=self._config.evict_oldest,
                before_trim=self._catch_up_standbys,
            )
            self._set_active(generation)

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
        self._check_not_busy()
        active = self.active
        task = asyncio.create_task(
            self._load_beside(bundle or active.bundle, corpus or active.corpus, activate)
        )
        return await asyncio.shield(task)

    async def activate(self, number: int) -> Generation:
        """Activate a generation that is READY or kept for a rollback.

        Raises:
            NoGenerationError: There is none of this number.
            GenerationError: It cannot be brought up to date, or another is being loaded.
        """
        generation = self._standby(number)
        self._check_not_busy()
        async with self._busy:
            try:
                await self._activate(generation)
            except Exception as exc:
                raise _as_generation_error(exc) from exc
        return self.active

    async def roll_back(self) -> Generation:
        """Activate the generation that was active before.

        Raises:
            GenerationError: There is none, or another is being loaded.
        """
        for generation in self._generations.values():
            if generation.state is _S.ROLLBACK:
                return await self.activate(generation.number)
        raise GenerationError("there is no generation to roll back to")

    def close(self, timeout_s: float | None = None) -> bool:
        """End all generations, after the update worker has been closed.

        Returns:
            Whether all threads have ended and nothing is being loaded.
        """
        loaded = [each for each in self._generations.values() if each.is_loaded]
        ended = [generation.close(timeout_s) for generation in loaded]
        return all(ended) and not self._busy.locked()

    async def _load_beside(self, bundle: Path, corpus: Path, activate: bool) -> Generation:
        async with self._busy:
            generation = self._add(bundle, corpus)
            try:
                await self._load(generation)
                if activate:
                    await self._activate(generation)
            except Exception as exc:
                reason = describe_error(exc)
                unexpected = not isinstance(exc, PhoenixServerError)
                _log.warning(
                    "generation %d failed: %s", generation.number, reason, exc_info=unexpected
                )
                await self._fail(generation, reason)
                raise _as_generation_error(exc) from exc
            return generation

    async def _load(self, generation: Generation, source: Source | None = None) -> None:
        """Bring a generation from LOADING to READY."""
        beside = self._active is not None
        in_thread = partial(_thread, name="load", in_background=beside)
        bundle, corpus = generation.bundle, generation.corpus
        if source is None:
            source = await in_thread(lambda: self._loader.sources.open(bundle, corpus))
        if beside:
            await self._make_room(source)
        async with self._snapshots_paused():  # so the journal keeps all changes that it will need
            engine, store = await in_thread(lambda: self._load_engine(source, beside))
            # Here, not in that thread, whose low priority the queue's threads would inherit.
            generation.attach(engine, store, self._config.queue)
            self._set_state(generation, _S.READY)
        _log.info("generation %d is ready: %s, %s", generation.number, bundle, corpus)

    def _load_engine(self, source: Source, beside: bool) -> tuple[Engine, Store]:
        ...
