"""The generations of a server: one answers, one may be ready, one stays to go back to."""

import asyncio
import logging
from collections.abc import Iterable
from enum import Enum
from itertools import count
from pathlib import Path
from typing import NamedTuple

from phoenix_server.artifacts import describe_error
from phoenix_server.batching.stats import QueueStats, added
from phoenix_server.config import ServeConfig
from phoenix_server.corpus.live import LiveCorpus
from phoenix_server.corpus.store import Store
from phoenix_server.errors import (
    ArtifactError,
    GenerationError,
    NoGenerationError,
    PhoenixServerError,
    StartupError,
)
from phoenix_server.generations.generation import Generation
from phoenix_server.generations.preparing import Prepared, check_memory, prepare, replay
from phoenix_server.memory import release_unused_memory
from phoenix_server.programs import Programs
from phoenix_server.threads import in_thread

_log = logging.getLogger(__name__)

_REMEMBERED = 8  # loads that failed


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


class Generations:
    """Loads generations, and says which answers. Its coroutines run on the event loop.

    Attributes:
        active: The one that answers.
        previous: The one that answered before, if it is still there.
    """

    def __init__(
        self, first: Generation, live: LiveCorpus, config: ServeConfig, programs: Programs
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
        others = [each for each in self._kept.values() if each is not self.active]
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
            raise GenerationError("another generation is being loaded, or activated")
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
        if number not in self._kept:
            raise NoGenerationError(f"there is no generation {number} that is ready")
        if self._busy.locked():
            raise GenerationError("another generation is being loaded, or activated")
        async with self._busy:
            try:
                await self._activate(self._kept[number])
            except ArtifactError as exc:
                raise GenerationError(describe_error(exc)) from exc
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
                generation = await self._make(number, bundle, corpus)
                if activate:
                    await self._activate(generation)
            except Exception as exc:
                reason = describe_error(exc)
                _log.log(
                    logging.WARNING if isinstance(exc, PhoenixServerError) else logging.ERROR,
                    "generation %d was not loaded: %s",
                    number,
                    reason,
                    exc_info=not isinstance(exc, PhoenixServerError),
                )
                if number in self._kept:
                    await self._drop([self._kept[number]])
                self._remember(Status(number, State.FAILED, bundle, corpus, reason=reason))
                if isinstance(exc, ArtifactError | StartupError):
                    raise GenerationError(reason) from exc
                raise
            del self._others[number]
            return generation

    async def _make(self, number: int, bundle: Path, corpus: Path) -> Generation:
        prepared = await in_thread(
            lambda: prepare(bundle, corpus, self.active.store, self._config),
            "load",
            in_background=True,
        )
        try:
            await self._make_room(prepared)
            generation = await in_thread(
                lambda: self._bring_up(number, prepared), "load", in_background=True
            )
        except BaseException:
            if prepared.store is not self.active.store:
                prepared.store.close()
            raise
        _log.info("generation %d is ready: %s, %s", number, bundle, corpus)
        return generation

    def _bring_up(self, number: int, prepared: Prepared) -> Generation:
        """Load; while no snapshot is written, so that the journal holds all that it will miss."""
        with self._live.without_snapshots():
            engine = prepared.make_engine(self._programs)
            generation = Generation(number, engine, prepared.store, self._config.queue)
            try:
                generation.catch_up()
                replay(engine, list(self.active.batcher.recent))
            except BaseException:
                generation.close()
                raise
            self._kept[number] = generation
        release_unused_memory()
        return generation

    async def _make_room(self, prepared: Prepared) -> None:
        """Drop what does not answer, if there is no room for another.

        Raises:
            NoMemoryError: There is none even so.
        """
        idle = [each for each in self._kept.values() if each is not self.active]
        if idle and not check_memory(prepared, quietly=True):
            _log.info("dropping %d generations to make room", len(idle))
            await self._drop(idle)
        check_memory(prepared)

    async def _activate(self, generation: Generation) -> None:
        before = self.active
        if generation is before:
            return

        def flip() -> None:
            self.previous, self.active = before, generation

        await self._live.switch(generation.home, generation.settle_in, flip)
        _log.info("generation %d answers", generation.number)
        keep = (generation, before)
        if old := [each for each in self._kept.values() if each not in keep]:
            await self._drop(old)

    async def _drop(self, generations: list[Generation]) -> None:
        """End generations that do not answer, once they have answered what they had."""
        for each in generations:
            if each is self.previous:
                self.previous = None
            del self._kept[each.number]
            await in_thread(each.close, "drop")
            self._ended = added(self._ended, each.batcher.stats())
            if not self._shared(each.store):
                each.store.close()
        generations.clear()
        await in_thread(lambda: release_unused_memory(of_what_served=True), "drop")

    def _shared(self, store: Store) -> bool:
        return any(each.store is store for each in self._kept.values())

    def _bring_along(self, store: Store) -> None:
        """Bring up to date who does not answer, before the journal is trimmed; in a thread."""
        for each in list(self._kept.values()):
            if each.store is store and each is not self.active:
                try:
                    each.catch_up()
                except Exception:  # it cannot be activated any more; the snapshot goes on
                    _log.exception("generation %d does not keep up", each.number)
                    assert self._loop is not None  # it was loaded
                    asyncio.run_coroutine_threadsafe(self._give_up(each), self._loop)

    async def _give_up(self, generation: Generation) -> None:
        async with self._busy:
            if generation is not self.active and generation.number in self._kept:
                await self._drop([generation])

    def _remember(self, status: Status) -> None:
        self._others[status.number] = status
        for number in sorted(self._others)[:-_REMEMBERED]:
            del self._others[number]
