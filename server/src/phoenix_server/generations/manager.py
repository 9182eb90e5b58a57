"""The generations of a server: one answers, one may be ready, one stays to go back to."""

import asyncio
import logging
from collections.abc import Iterable
from enum import Enum
from itertools import count
from pathlib import Path
from typing import NamedTuple

from phoenix_server.artifacts import describe_error
from phoenix_server.batching.stats import QueueStats, add_stats
from phoenix_server.config import ServeConfig
from phoenix_server.corpus.disk.store import Store
from phoenix_server.corpus.updates.replay import catch_up
from phoenix_server.corpus.updates.worker import UpdateWorker
from phoenix_server.engine.engine import Engine
from phoenix_server.errors import (
    BusyError,
    CorpusError,
    GenerationError,
    NoGenerationError,
    NoMemoryError,
    NotReadyError,
    PhoenixServerError,
)
from phoenix_server.generations.generation import Generation
from phoenix_server.generations.preparing_tmp import Prepared, check_memory, prepare, replay
from phoenix_server.generations.throttle import Throttle
from phoenix_server.runtime.memory import release_unused_memory
from phoenix_server.runtime.program_cache import ProgramCache
from phoenix_server.runtime.threads import in_thread

_log = logging.getLogger(__name__)

_REMEMBERED = 8  # loads that failed
_FEW, _ROUNDS = 64, 10  # changes that may be missing when another generation is to answer


class State(Enum):
    """What a generation is doing."""

    LOADING = "loading"
    READY = "ready"
    ACTIVE = "active"
    FAILED = "failed"


class Status(NamedTuple):
    """What is known of a generation.

    Attributes:
        number: Its number.
        state: What it is doing.
        bundle: The bundle's directory.
        corpus: The corpus's directory.
        generation: It, if it is ready or active.
        reason: Why it failed, if it did.
    """

    number: int
    state: State
    bundle: Path
    corpus: Path
    generation: Generation | None = None
    reason: str = ""


class GenerationManager:
    """Loads generations, and says which answers. Its coroutines run on the event loop.

    Attributes:
        active: The one that answers.
        previous: The one that answered before, if it is still there.
    """

    def __init__(
        self, first: Generation, live: UpdateWorker, config: ServeConfig, programs: ProgramCache
    ) -> None:
        """Begin with a generation, which answers.

        Args:
            first: It.
            live: The changes of its corpus.
            config: How to load others.
            programs: The programs of the first, which others may share.
        """
        self.active = first
        self.previous: Generation | None = None
        self._live = live
        self._config = config
        self._programs = programs
        self._kept = {first.number: first}
        self._numbers = count(first.number + 1)
        self._busy = asyncio.Lock()
        self._others: dict[int, Status] = {}  # that load, or failed
        self._behind: set[int] = set()  # numbers of those that have missed changes
        self._ending: list[Generation] = []
        self._ended = QueueStats()
        self._loop: asyncio.AbstractEventLoop | None = None
        live.before_trimming = self._bring_along

    def statuses(self) -> list[Status]:
        """Return what is known of all generations, in the order of their numbers."""
        found = dict(self._others)
        for number, each in self._kept.items():
            state = State.ACTIVE if each is self.active else State.READY
            found[number] = Status(number, state, each.engine.bundle.path, each.store.path, each)
        return [found[number] for number in sorted(found)]

    def other_stats(self) -> Iterable[QueueStats]:
        """Return the numbers of all queues but the active one's."""
        others = [each for each in (*self._kept.values(), *self._ending) if each is not self.active]
        return [self._ended, *(each.batcher.stats() for each in others)]

    async def load(
        self, bundle: Path | None, corpus: Path | None, *, activate: bool = False
    ) -> Generation:
        """Load a generation beside the one that answers.

        Who gives up waiting does not end it.

        Args:
            bundle: A bundle. Default: the active one's.
            corpus: A corpus. Default: the active one's, with all its changes.
            activate: Have it answer once it is ready.

        Raises:
            GenerationError: It cannot be used, or another is being loaded.
            NoMemoryError: It does not fit.
        """
        if self._busy.locked():
            raise BusyError("another generation is being loaded, or activated")
        self._loop = asyncio.get_running_loop()
        active = self.active
        task = asyncio.create_task(
            self._load(bundle or active.engine.bundle.path, corpus or active.store.path, activate)
        )
        return await asyncio.shield(task)

    async def activate(self, number: int) -> Generation:
        """Have a generation that is ready answer.

        Raises:
            NoGenerationError: There is none of this number.
            GenerationError: It cannot be brought up to date, or another is being loaded.
        """
        self._check_number(number)
        if self._busy.locked():
            raise BusyError("another generation is being loaded, or activated")
        async with self._busy:
            self._check_number(number)
            try:
                await self._activate(self._kept[number])
            except Exception as exc:
                raise _told(exc) from exc
        return self.active

    async def roll_back(self) -> Generation:
        """Have the generation answer that did before.

        Raises:
            GenerationError: There is none, or another is being loaded.
        """
        if self.previous is None:
            raise GenerationError("there is no generation to go back to")
        return await self.activate(self.previous.number)

    def close(self, timeout_s: float | None = None) -> bool:
        """End all generations; the changes of the corpus have ended before.

        Returns:
            Whether all threads have ended, and nothing is being loaded.
        """
        kept = list(self._kept.values())
        ended = [each.close(timeout_s) for each in kept]
        if done := all(ended) and not self._busy.locked():
            for store in {id(each.store): each.store for each in kept}.values():
                store.close()
        return done

    async def _load(self, bundle: Path, corpus: Path, activate: bool) -> Generation:
        async with self._busy:
            number = next(self._numbers)
            self._others[number] = Status(number, State.LOADING, bundle, corpus)
            try:
                await self._make(number, bundle, corpus)
                if activate:
                    await self._activate(self._kept[number])
            except Exception as exc:
                foreseen = isinstance(exc, PhoenixServerError)
                reason = describe_error(exc)
                _log.warning(
                    "generation %d was not loaded: %s", number, reason, exc_info=not foreseen
                )
                if number in self._kept:
                    await self._drop([number])
                self._remember(Status(number, State.FAILED, bundle, corpus, reason=reason))
                raise _told(exc) from exc
            del self._others[number]
            return self._kept[number]

    async def _make(self, number: int, bundle: Path, corpus: Path) -> None:
        kept = list(self._kept.values())
        prepared = await in_thread(
            lambda: prepare(bundle, corpus, kept, self._config), "load", in_background=True
        )
        kept.clear()  # or what is dropped stays in memory
        try:
            await self._make_room(prepared)
            await in_thread(lambda: self._bring_up(number, prepared), "load", in_background=True)
        except BaseException:
            if not self._is_used(prepared.store):
                prepared.store.close()
            raise
        _log.info("generation %d is ready: %s, %s", number, bundle, corpus)

    def _bring_up(self, number: int, prepared: Prepared) -> None:
        """Load; while no snapshot is written, so that the journal holds all that it will miss."""
        assert self._loop is not None
        with self._live.without_snapshots():
            give_way = Throttle(lambda: self.active.batcher.is_idle)
            engine = prepared.make_engine(self._programs, give_way)
            try:
                catch_up(prepared.store, engine)
                replay(engine, list(self.active.batcher.recent), give_way)
                release_unused_memory()
                # There, as its threads would answer with the low priority of this one.
                keeping = self._keep(number, engine, prepared.store)
                asyncio.run_coroutine_threadsafe(keeping, self._loop).result()
            except BaseException:
                engine.close()
                raise

    async def _keep(self, number: int, engine: Engine, store: Store) -> None:
        self._kept[number] = Generation(number, engine, store, self._config.queue)

    async def _make_room(self, prepared: Prepared) -> None:
        """Drop what does not answer, if there is no room for another.

        Raises:
            NoMemoryError: There is none even so.
        """
        idle = [number for number, each in self._kept.items() if each is not self.active]
        if idle and not check_memory(prepared, quietly=True):
            _log.info("dropping %d generations to make room", len(idle))
            await self._drop(idle)
        check_memory(prepared)

    async def _activate(self, generation: Generation) -> None:
        before = self.active
        if generation is before:
            return
        if generation.number in self._behind:
            raise CorpusError(generation.store.path, "its changes were missed; load it again")

        def flip() -> None:
            self.previous, self.active = before, generation

        await self._catch_up(generation)
        await self._live.switch(generation.home, generation.settle_in, flip)
        _log.info("generation %d answers", generation.number)
        keep = {generation.number}
        if not before.engine.corpus.torn:
            keep.add(before.number)
        if old := [number for number in self._kept if number not in keep]:
            del generation, before
            await self._drop(old)

    async def _catch_up(self, generation: Generation) -> None:
        """Have a generation see most of the changes that it has not, while others are made."""
        for _ in range(_ROUNDS):
            missed = self.active.engine.corpus.sequence - generation.engine.corpus.sequence
            if generation.store is not self.active.store or missed < _FEW:
                return
            await in_thread(generation.catch_up, "follow", in_background=True)

    async def _drop(self, numbers: list[int]) -> None:
        """End generations that do not answer, once they have answered what they had."""
        for number in numbers:
            await self._end(self._kept.pop(number))
            self._behind.discard(number)
        await in_thread(lambda: release_unused_memory(of_what_served=True), "drop")

    async def _end(self, generation: Generation) -> None:
        if generation is self.previous:
            self.previous = None
        self._ending.append(generation)
        await in_thread(generation.close, "drop")
        self._ending.remove(generation)
        self._ended = add_stats(self._ended, generation.batcher.stats())
        if not self._is_used(generation.store):
            await in_thread(lambda: self._close_store(generation.store), "drop")

    def _close_store(self, store: Store) -> None:
        with self._live.without_snapshots():  # one may still be written of it
            store.close()

    def _is_used(self, store: Store) -> bool:
        return any(each.store is store for each in self._kept.values())

    def _bring_along(self, store: Store) -> None:
        """Bring up to date who does not answer, before the journal is trimmed; in a thread."""
        for each in list(self._kept.values()):
            if each.store is store and each is not self.active:
                try:
                    each.catch_up()
                except Exception:  # the snapshot goes on, and this one is of no use any more
                    _log.exception("generation %d does not keep up", each.number)
                    self._behind.add(each.number)

    def _check_number(self, number: int) -> None:
        if number not in self._kept:
            raise NoGenerationError(f"there is no generation {number} that is ready")

    def _remember(self, status: Status) -> None:
        self._others[status.number] = status
        for number in sorted(self._others)[:-_REMEMBERED]:
            del self._others[number]


def _told(exc: Exception) -> PhoenixServerError:
    """Return what to tell a caller of an error of loading or activating."""
    if isinstance(exc, GenerationError | NoGenerationError | NoMemoryError | NotReadyError):
        return exc
    return GenerationError(describe_error(exc))
