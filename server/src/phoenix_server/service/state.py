"""What the services share: the generation that answers, once there is one, and the limits."""

from phoenix_server.batching.batcher import Batcher
from phoenix_server.corpus.live import LiveCorpus
from phoenix_server.engine import Engine
from phoenix_server.errors import NotReadyError
from phoenix_server.limits import Limits


class ServingState:
    """The engine, its queue and the changes of its corpus, once they are ready."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._engine: Engine | None = None
        self._batcher: Batcher | None = None
        self._live: LiveCorpus | None = None

    def set_ready(self, engine: Engine, batcher: Batcher, live: LiveCorpus) -> None:
        """Begin to answer."""
        self._engine, self._batcher, self._live = engine, batcher, live

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            NotReadyError: The server still loads.
        """
        if self._engine is None:
            raise NotReadyError("the server loads its bundle and corpus")
        return self._engine

    @property
    def batcher(self) -> Batcher:
        """The queue before the engine; errors as for `engine`."""
        if self._batcher is None:
            raise NotReadyError("the server loads its bundle and corpus")
        return self._batcher

    @property
    def live(self) -> LiveCorpus:
        """What takes changes of the corpus; errors as for `engine`."""
        if self._live is None:
            raise NotReadyError("the server loads its bundle and corpus")
        return self._live
