"""The generations of a server, and the one place where their states change."""

import threading
import time
from dataclasses import replace
from itertools import count
from pathlib import Path

from phoenix_server.batching.stats import QueueStats, add_stats
from phoenix_server.batching.user_cache import UserCache
from phoenix_server.corpus.disk.store import Store
from phoenix_server.corpus.memory.index import CorpusIndex
from phoenix_server.errors import GenerationError, NoGenerationError, NotReadyError
from phoenix_server.generations.generation import MOVES, Generation, GenerationState

_MAX_FAILED = 8  # generations that stay listed

_S = GenerationState


class Registry:
    """Generations by number, and the user cache that they share. For any thread."""

    def __init__(self, user_cache: int) -> None:
        """Begin without a generation.

        Args:
            user_cache: Maximum users of the cache; 0: there is none.
        """
        self._users = UserCache(user_cache) if user_cache else None
        self._numbers = count(1)
        self._generations: dict[int, Generation] = {}
        self._active: Generation | None = None
        self._first_active_s = 0.0
        self._lock = threading.Lock()
        self._unloaded_stats = QueueStats()

    @property
    def has_active(self) -> bool:
        """Whether a generation is ACTIVE; the first one stays LOADING for a while."""
        return self._active is not None

    @property
    def active(self) -> Generation:
        """The generation that is ACTIVE.

        Raises:
            NotReadyError: The first is still being loaded.
        """
        if self._active is None:
            raise NotReadyError("the server is loading its bundle and corpus")
        return self._active

    @property
    def rollback(self) -> Generation:
        """The generation that was ACTIVE before.

        Raises:
            GenerationError: There is none.
        """
        for generation in self.all():
            if generation.state is _S.ROLLBACK:
                return generation
        raise GenerationError("there is no generation to roll back to")

    def all(self) -> list[Generation]:
        """Return all generations, in the order of their numbers."""
        with self._lock:
            return list(self._generations.values())

    def idle(self) -> list[Generation]:
        """Return the generations that are in memory without being ACTIVE."""
        return [each for each in self.all() if each.is_loaded and each is not self._active]

    def index_of(self, store: Store) -> CorpusIndex | None:
        """Return a corpus in memory that changes with a store; None if there is none."""
        loaded = [each for each in self.all() if each.is_loaded and each.store is store]
        return loaded[0].engine.corpus if loaded else None

    def standby(self, number: int) -> Generation:
        """Return a generation that is READY, ROLLBACK or ACTIVE.

        Raises:
            NoGenerationError: There is none of this number.
        """
        for generation in self.all():
            if generation.number == number and (
                generation.is_standby or generation is self._active
            ):
                return generation
        raise NoGenerationError(f"there is no generation {number} that is ready")

    def add(self, bundle: Path, corpus: Path) -> Generation:
        """Add a generation, which is LOADING."""
        generation = Generation(next(self._numbers), bundle, corpus, self._users)
        with self._lock:
            self._generations[generation.number] = generation
        return generation

    def set_ready(self, generation: Generation) -> None:
        """Have a generation that was LOADING be READY."""
        with self._lock:
            _move(generation, _S.READY)

    def begin_unloading(self, generation: Generation) -> None:
        """Have a generation be UNLOADING, unless it is FAILED and stays so."""
        with self._lock:
            if generation.state is not _S.FAILED:
                _move(generation, _S.UNLOADING)

    def fail(self, generation: Generation, reason: str) -> None:
        """Have a generation be FAILED, unless it is ACTIVE or UNLOADING; keep the last eight."""
        with self._lock:
            if _S.FAILED in MOVES[generation.state]:
                _move(generation, _S.FAILED)
                generation.reason = reason
            failed = [each for each in self._generations.values() if each.state is _S.FAILED]
            for forgotten in failed[:-_MAX_FAILED]:
                if not forgotten.is_loaded:
                    del self._generations[forgotten.number]

    def set_active(self, generation: Generation) -> None:
        """Have requests go to a generation; the one before it is kept for a rollback."""
        with self._lock:
            _move(generation, _S.ACTIVE)
            if self._active is None:
                self._first_active_s = time.monotonic()
            else:
                _move(self._active, _S.ROLLBACK)
            self._active = generation  # one assignment: a request sees the one or the other

    def remove(self, generation: Generation) -> None:
        """Keep the counts of a generation whose queue is closed, and forget what was loaded.

        A FAILED one stays listed, without what was loaded.
        """
        with self._lock:
            self._unloaded_stats = add_stats(self._unloaded_stats, generation.batcher.stats())
            generation.detach()
            if generation.state is _S.UNLOADING:
                del self._generations[generation.number]

    def stats(self) -> QueueStats:
        """Return the state of the active queue, and the counts since the server began to answer."""
        uptime_s = time.monotonic() - self._first_active_s
        total = replace(self.active.batcher.stats(), uptime_s=uptime_s)
        with self._lock:
            others = [each for each in self._generations.values() if each is not self._active]
            for each in others:
                if each.is_loaded:
                    total = add_stats(total, each.batcher.stats())
            return add_stats(total, self._unloaded_stats)


def _move(generation: Generation, state: GenerationState) -> None:
    if state not in MOVES[generation.state]:
        raise AssertionError(f"{generation.state} does not become {state}")
    generation.state = state
