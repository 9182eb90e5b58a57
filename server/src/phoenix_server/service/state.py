"""What the services share: the generation that answers, once there is one, and the limits."""

import time
from dataclasses import replace

from phoenix_server.batching.stats import QueueStats, add_stats
from phoenix_server.config import Limits
from phoenix_server.corpus.updates.worker import UpdateWorker
from phoenix_server.errors import NotReadyError
from phoenix_server.generations.generation import Generation
from phoenix_server.generations.manager import GenerationManager


class ServingState:
    """The generations, and the changes of their corpus, once they are ready."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._generations: GenerationManager | None = None
        self._live: UpdateWorker | None = None
        self._began_s = time.monotonic()

    def set_ready(self, generations: GenerationManager, live: UpdateWorker) -> None:
        """Begin to answer."""
        self._generations, self._live = generations, live
        self._began_s = time.monotonic()

    @property
    def generations(self) -> GenerationManager:
        """All generations; errors as for `generation`."""
        if self._generations is None:
            raise NotReadyError("the server loads its bundle and corpus")
        return self._generations

    @property
    def generation(self) -> Generation:
        """The generation that answers. A request asks for it once.

        Raises:
            NotReadyError: The server still loads.
        """
        return self.generations.active

    @property
    def live(self) -> UpdateWorker:
        """What takes changes of the corpus; errors as for `generation`."""
        if self._live is None:
            raise NotReadyError("the server loads its bundle and corpus")
        return self._live

    def stats(self) -> QueueStats:
        """Return the state of the queue, and counts since the server began to answer."""
        current = self.generation.batcher.stats()
        for other in self.generations.other_stats():
            current = add_stats(current, other)
        return replace(current, uptime_s=time.monotonic() - self._began_s)
