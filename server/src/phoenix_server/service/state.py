"""What the services share: the generations of the server, and its limits."""

from dataclasses import dataclass
from typing import Any, TypeAlias

import grpc

from phoenix_server.config import Limits
from phoenix_server.corpus.updates.worker import UpdateWorker
from phoenix_server.generations.generation import Generation
from phoenix_server.generations.manager import GenerationManager

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
"""The context of a call; gRPC's types are generic to type checkers only."""


@dataclass(frozen=True)
class ServingState:
    """The generations of a server, and the largest requests that it takes.

    Attributes:
        manager: Loads and activates generations.
        limits: The largest requests.
    """

    manager: GenerationManager
    limits: Limits

    @property
    def generation(self) -> Generation:
        """The active generation. A request asks for it once.

        Raises:
            NotReadyError: The server is still loading.
        """
        return self.manager.active

    @property
    def updates(self) -> UpdateWorker:
        """Takes changes of the corpus; errors as for `generation`."""
        return self.manager.updates
