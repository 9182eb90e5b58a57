"""A generation: a bundle and a corpus, from the request to load them until they are unloaded."""

import threading
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from phoenix_server.batching.batcher import Batcher
from phoenix_server.batching.user_cache import UserCache
from phoenix_server.config import QueueConfig
from phoenix_server.corpus.disk.store import Store
from phoenix_server.corpus.updates.commands import UpdateTarget
from phoenix_server.corpus.updates.replay import replay
from phoenix_server.engine.engine import Engine
from phoenix_server.errors import CorpusError, NotReadyError


class GenerationState(Enum):
    """The state of a generation.

    LOADING -> READY -> ACTIVE -> ROLLBACK (when another becomes ACTIVE) -> ACTIVE -> ...
    LOADING, READY, ROLLBACK -> FAILED; READY, ROLLBACK -> UNLOADING, and then it is gone.
    """

    LOADING = "loading"
    READY = "ready"
    ACTIVE = "active"
    ROLLBACK = "rollback"
    UNLOADING = "unloading"
    FAILED = "failed"


_S = GenerationState
MOVES: dict[GenerationState, set[GenerationState]] = {
    _S.LOADING: {_S.READY, _S.FAILED},
    _S.READY: {_S.ACTIVE, _S.UNLOADING, _S.FAILED},
    _S.ACTIVE: {_S.ROLLBACK},
    _S.ROLLBACK: {_S.ACTIVE, _S.UNLOADING, _S.FAILED},
    _S.UNLOADING: set(),
    _S.FAILED: set(),
}


class _Parts(NamedTuple):
    """What a generation has in memory."""

    engine: Engine
    batcher: Batcher
    store: Store


class Generation:
    """What answers requests. One generation answers a request from its begin to its end.

    Attributes:
        number: Counts the generations of a server, from 1.
        bundle: The bundle's directory.
        corpus: The corpus's directory.
        state: Its state; only the `Registry` changes it.
        reason: Why it is FAILED; else empty.
    """

    def __init__(
        self, number: int, bundle: Path, corpus: Path, users: UserCache | None = None
    ) -> None:
        """Begin without anything loaded.

        Args:
            number: Its number.
            bundle: The bundle's directory.
            corpus: The corpus's directory.
            users: The user cache, which generations share. Default: none.
        """
        self.number = number
        self.bundle = bundle
        self.corpus = corpus
        self.state = GenerationState.LOADING
        self.reason = ""
        self._users = users
        self._loaded: _Parts | None = None
        self._catching_up = threading.Lock()

    def attach(self, engine: Engine, store: Store, queue: QueueConfig) -> None:
        """Take what was loaded, and start the queue's threads, with the caller's priority."""
        self._loaded = _Parts(engine, Batcher(engine, queue, self._users), store)

    @property
    def is_loaded(self) -> bool:
        """Whether it is in memory. Otherwise the next four properties raise `NotReadyError`."""
        return self._loaded is not None

    @property
    def is_standby(self) -> bool:
        """Whether it can become ACTIVE."""
        return GenerationState.ACTIVE in MOVES[self.state]

    @property
    def engine(self) -> Engine:
        """Answers."""
        return self._in_memory().engine

    @property
    def batcher(self) -> Batcher:
        """The request queue before the engine."""
        return self._in_memory().batcher

    @property
    def store(self) -> Store:
        """Its corpus on the disk; other generations may share it."""
        return self._in_memory().store

    @property
    def update_target(self) -> UpdateTarget:
        """Where changes of its corpus go while it is ACTIVE."""
        engine, batcher, store = self._in_memory()
        return UpdateTarget(store, engine, batcher.run_between_batches)

    def catch_up(self) -> None:
        """Apply the changes that were made while it was not ACTIVE; in any thread.

        A corpus that is served read-only stays as it was loaded: another server changes it, and
        may drop changes that would be needed.

        Raises:
            CorpusError: A change is missing or damaged, or there is no room for the posts.
        """
        if not self.store.read_only:
            with self._catching_up:
                replay(*self.update_target)

    def prepare_activation(self) -> None:
        """Catch up, and have the corpus on the disk continue from the snapshot that was loaded.

        Raises:
            CorpusError: As `catch_up`, or a change failed half-way.
        """
        if self.engine.corpus.arrays.torn:
            raise CorpusError(self.store.path, "a change of it failed half-way in memory")
        self.catch_up()
        self.store.adopt(self.engine.snapshot)

    def close(self, timeout_s: float | None = None) -> bool:
        """Answer the requests in the queue, and end its threads; its corpus stays open.

        For any thread, also twice.

        Returns:
            Whether the threads have ended.
        """
        parts = self._loaded  # another thread may call `detach`
        if parts is None:
            return True
        ended = parts.batcher.close(timeout_s)
        parts.engine.close()
        return ended

    def detach(self) -> None:
        """Forget what was loaded, after `close`."""
        self._loaded = None

    def _in_memory(self) -> _Parts:
        if self._loaded is None:
            raise NotReadyError(f"generation {self.number} is {self.state.value}")
        return self._loaded
