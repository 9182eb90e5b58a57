"""`ModelService`: what the server serves, and how busy it is."""

from __future__ import annotations  # gRPC's types are generic to type checkers only

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import grpc

from phoenix_retrieval.v1 import model_service_pb2, model_service_pb2_grpc
from phoenix_server.service.state import ServingState


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """Describes the generation that answers, and the queue before it."""

    def __init__(self, state: ServingState) -> None:
        self._state = state

    async def GetModel(
        self,
        request: model_service_pb2.GetModelRequest,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> model_service_pb2.GetModelResponse:
        """Describe the model and the corpus that answer now."""
        engine, limits = self._state.engine, self._state.limits
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
        return model_service_pb2.GetServingStatsResponse(**asdict(self._state.batcher.stats()))
