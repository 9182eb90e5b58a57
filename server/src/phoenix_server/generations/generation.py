"""A generation: a bundle and a corpus, loaded, and the queue before them."""

import threading
import time

from phoenix_server.batching.batcher import Batcher
from phoenix_server.config import QueueConfig
from phoenix_server.corpus.disk.store import Store
from phoenix_server.corpus.updates.pending import Home
from phoenix_server.corpus.updates.replay import catch_up
from phoenix_server.engine.engine import Engine
from phoenix_server.errors import CorpusError


class Generation:
    """What answers requests. Each request is answered by one generation from its begin to its end.

    Attributes:
        number: Counts the generations of a server, from 1.
        engine: Answers.
        batcher: The queue before it.
        store: Its corpus on the disk; others may share it.
        loaded_at_unix_s: When it was ready, in seconds since 1970 UTC.
    """

    def __init__(self, number: int, engine: Engine, store: Store, queue: QueueConfig) -> None:
        """Start the queue's threads."""
        self.number = number
        self.engine = engine
        self.store = store
        self.batcher = Batcher(engine, queue)
        self.loaded_at_unix_s = time.time()
        self._catching_up = threading.Lock()

    @property
    def home(self) -> Home:
        """Where changes of its corpus go while it is active."""
        return Home(self.store, self.engine, self.batcher.run_between_batches)

    def catch_up(self) -> None:
        """Apply changes that it has not seen, because it was not active; from a thread.

        A corpus that is served read-only stays as it was loaded: others change it, and drop what
        it would need.

        Raises:
            CorpusError: One is missing or damaged, or there is no room for them.
        """
        if self.store.read_only:
            return
        with self._catching_up:
            catch_up(self.store, self.engine, self.batcher.run_between_batches)

    def settle_in(self) -> None:
        """Catch up, and have the corpus on the disk go on from what was loaded.

        Raises:
            CorpusError: As `catch_up`, or a change has failed half-way.
        """
        if self.engine.corpus.torn:
            raise CorpusError(self.store.path, "a change of it failed half-way in memory")
        self.catch_up()
        self.store.adopt(self.engine.snapshot)

    def close(self, timeout_s: float | None = None) -> bool:
        """Finish the requests that it has, and end its threads; its corpus stays open.

        Returns:
            Whether they have ended.
        """
        ended = self.batcher.close(timeout_s)
        self.engine.close()
        return ended
