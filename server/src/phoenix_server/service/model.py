"""`ModelService`: what the server serves, what it could serve, and how busy it is."""

from __future__ import annotations  # gRPC's types are generic to type checkers only

from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc

from phoenix_retrieval.v1 import model_service_pb2, model_service_pb2_grpc
from phoenix_server.errors import ForbiddenError, InvalidRequestError, Violation
from phoenix_server.generations.generation import Generation, GenerationState
from phoenix_server.service.state import ServingState

_STATES = {
    GenerationState.LOADING: model_service_pb2.GENERATION_STATE_LOADING,
    GenerationState.READY: model_service_pb2.GENERATION_STATE_READY,
    GenerationState.ACTIVE: model_service_pb2.GENERATION_STATE_ACTIVE,
    GenerationState.ROLLBACK: model_service_pb2.GENERATION_STATE_READY,  # and `previous` is set
    GenerationState.FAILED: model_service_pb2.GENERATION_STATE_FAILED,
}


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """Describes and changes the generation that answers, and describes the queue before it."""

    def __init__(self, state: ServingState, allowed: Sequence[Path] = ()) -> None:
        """Use the generations of a server.

        Args:
            state: The server's.
            allowed: Directories from which generations may be loaded.
        """
        self._state = state
        self._allowed = [path.resolve() for path in allowed]

    async def LoadGeneration(
        self,
        request: model_service_pb2.LoadGenerationRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> model_service_pb2.LoadGenerationResponse:
        """Load a generation."""
        if not request.bundle and not request.corpus:
            raise InvalidRequestError(
                [Violation("bundle", "a bundle, a corpus or both are needed")]
            )
        loaded = await self._state.manager.load(
            self._read_path("bundle", request.bundle),
            self._read_path("corpus", request.corpus),
            activate=request.activate,
        )
        return model_service_pb2.LoadGenerationResponse(generation=_describe(loaded))

    async def ActivateGeneration(
        self,
        request: model_service_pb2.ActivateGenerationRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> model_service_pb2.ActivateGenerationResponse:
        """Have a generation answer."""
        active = await self._state.manager.activate(request.number)
        return model_service_pb2.ActivateGenerationResponse(generation=_describe(active))

    async def RollbackGeneration(
        self,
        request: model_service_pb2.RollbackGenerationRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> model_service_pb2.RollbackGenerationResponse:
        """Have the generation answer that did before."""
        active = await self._state.manager.roll_back()
        return model_service_pb2.RollbackGenerationResponse(generation=_describe(active))

    async def ListGenerations(
        self,
        request: model_service_pb2.ListGenerationsRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> model_service_pb2.ListGenerationsResponse:
        """List the generations."""
        return model_service_pb2.ListGenerationsResponse(
            generations=map(_describe, self._state.manager.listed())
        )

    async def GetModel(
        self,
        request: model_service_pb2.GetModelRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> model_service_pb2.GetModelResponse:
        """Describe the model and the corpus that answer now."""
        engine, limits = self._state.generation.engine, self._state.limits
        layout = engine.corpus.layout
        return model_service_pb2.GetModelResponse(
            generation=engine.generation,
            bundle=engine.bundle.manifest,
            corpus=engine.snapshot.manifest,
            corpus_rows=len(engine.corpus),
            shards=layout.shards,
            devices=[f"{device.device_kind} {device}" for device in layout.devices],
            max_top_k=engine.config.max_top_k,
            max_batch_users=limits.max_batch_users,
            max_candidates=limits.max_candidates,
            max_excluded=limits.max_excluded,
            max_request_bytes=limits.max_request_bytes,
            server_version=version("phoenix-server"),
        )

    async def GetServingStats(
        self,
        request: model_service_pb2.GetServingStatsRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> model_service_pb2.GetServingStatsResponse:
        """Tell what waits, and what has become of the calls so far."""
        # The message and `QueueStats` name their fields alike.
        return model_service_pb2.GetServingStatsResponse(**asdict(self._state.manager.stats()))

    def _read_path(self, field: str, given: str) -> Path | None:
        if not given:
            return None
        if "\0" in given:
            raise InvalidRequestError([Violation(field, "is not a path: it holds a zero byte")])
        path = Path(given)
        if not any(path.resolve().is_relative_to(allowed) for allowed in self._allowed):
            raise ForbiddenError(
                f"{field}: {given} is not in a directory that this server loads from; --allow-load "
                "names such directories"
            )
        return path


def _describe(generation: Generation) -> model_service_pb2.Generation:
    message = model_service_pb2.Generation(
        number=generation.number,
        state=_STATES[generation.state],
        bundle=str(generation.bundle),
        corpus=str(generation.corpus),
        reason=generation.reason,
        previous=generation.state is GenerationState.ROLLBACK,
    )
    if generation.is_loaded:
        engine = generation.engine
        message.generation = engine.generation
        message.tower_fingerprint = engine.tower
        message.corpus_rows = len(engine.corpus)
        message.sequence = engine.corpus.sequence
    return message
