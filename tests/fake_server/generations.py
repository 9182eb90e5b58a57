"""The part of the small server that keeps generations: the half of `ModelService` about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message

from fake_server.corpus import Context
from phoenix_retrieval.v1 import model_service_pb2 as model_pb2
from phoenix_retrieval.v1 import model_service_pb2_grpc

ALLOWED = "allowed/"  # what may be loaded begins with this


def _first() -> model_pb2.Generation:
    return model_pb2.Generation(
        number=1,
        state=model_pb2.GENERATION_STATE_ACTIVE,
        generation="towers-1+posts-7",
        bundle="bundles/1",
        corpus="corpus",
        tower_fingerprint="f001",
        corpus_rows=2**40,
        sequence=2**64 - 1,
    )


@dataclass
class FakeGenerations(model_service_pb2_grpc.ModelServiceServicer):
    """Generations by number, one of which answers."""

    generations: dict[int, model_pb2.Generation] = field(default_factory=lambda: {1: _first()})

    def _enter(self, request: Message, context: Context) -> Any:
        """Note a request; return the reply that the test wants instead of the right one, if any."""
        raise NotImplementedError

    def LoadGeneration(
        self, request: model_pb2.LoadGenerationRequest, context: Context
    ) -> model_pb2.LoadGenerationResponse:
        if reply := self._enter(request, context):
            return reply
        for name, path in (("bundle", request.bundle), ("corpus", request.corpus)):
            if path and not path.startswith(ALLOWED):
                context.abort(grpc.StatusCode.PERMISSION_DENIED, f"{name}: {path} is not allowed")
        active = self._active()
        number = max(self.generations) + 1
        self.generations[number] = model_pb2.Generation(
            number=number,
            state=model_pb2.GENERATION_STATE_READY,
            generation=f"towers-{number}+posts-7",
            bundle=request.bundle or active.bundle,
            corpus=request.corpus or active.corpus,
            tower_fingerprint=f"f00{number}",
            corpus_rows=2**40 + number,
            sequence=2**64 - 1 - number,
        )
        if request.activate:
            self._activate(number)
        return model_pb2.LoadGenerationResponse(generation=self.generations[number])

    def ActivateGeneration(
        self, request: model_pb2.ActivateGenerationRequest, context: Context
    ) -> model_pb2.ActivateGenerationResponse:
        if reply := self._enter(request, context):
            return reply
        if request.number not in self.generations:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no generation {request.number}")
        self._activate(request.number)
        return model_pb2.ActivateGenerationResponse(generation=self._active())

    def RollbackGeneration(
        self, request: model_pb2.RollbackGenerationRequest, context: Context
    ) -> model_pb2.RollbackGenerationResponse:
        if reply := self._enter(request, context):
            return reply
        previous = [number for number, each in self.generations.items() if each.previous]
        if not previous:
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "there is none to go back to")
        self._activate(previous[0])
        return model_pb2.RollbackGenerationResponse(generation=self._active())

    def ListGenerations(
        self, request: model_pb2.ListGenerationsRequest, context: Context
    ) -> model_pb2.ListGenerationsResponse:
        return self._enter(request, context) or model_pb2.ListGenerationsResponse(
            generations=self.generations.values()
        )

    def _active(self) -> model_pb2.Generation:
        (active,) = [
            each
            for each in self.generations.values()
            if each.state == model_pb2.GENERATION_STATE_ACTIVE
        ]
        return active

    def _activate(self, number: int) -> None:
        before, after = self._active(), self.generations[number]
        if after is before:
            return
        for each in self.generations.values():
            each.previous = each is before
        before.state = model_pb2.GENERATION_STATE_READY
        after.state = model_pb2.GENERATION_STATE_ACTIVE
