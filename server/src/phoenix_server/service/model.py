"""`ModelService`: describe and switch generations, and describe the request queue."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from phoenix_retrieval.v1 import model_service_pb2 as pb
from phoenix_retrieval.v1 import model_service_pb2_grpc
from phoenix_server.artifacts import MAX_FILES, describe_error, walk
from phoenix_server.errors import ForbiddenError, InvalidRequestError, Violation
from phoenix_server.generations.generation import Generation, GenerationState
from phoenix_server.search.choice import describe_lack, describe_search
from phoenix_server.service.columns import raise_any
from phoenix_server.service.state import Context, ServingState

_MAX_PATH = 4096

_STATES = {
    GenerationState.LOADING: pb.GENERATION_STATE_LOADING,
    GenerationState.READY: pb.GENERATION_STATE_READY,
    GenerationState.ACTIVE: pb.GENERATION_STATE_ACTIVE,
    GenerationState.ROLLBACK: pb.GENERATION_STATE_READY,  # with `previous` set
    GenerationState.FAILED: pb.GENERATION_STATE_FAILED,
}


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """Describes and switches generations, and describes the request queue."""

    def __init__(self, state: ServingState, allowed: Sequence[Path] = ()) -> None:
        """Serve a server's generations.

        Args:
            state: The server's state.
            allowed: Directories from which clients may have generations loaded.
        """
        self._state = state
        self._allowed = [path.resolve() for path in allowed]

    async def LoadGeneration(
        self, request: pb.LoadGenerationRequest, context: Context
    ) -> pb.LoadGenerationResponse:
        """Load a generation beside the active one."""
        if not request.bundle and not request.corpus:
            raise_any([Violation("bundle", "a bundle, a corpus or both are needed")])
        paths = {"bundle": request.bundle, "corpus": request.corpus}
        bundle, corpus = [
            await asyncio.to_thread(self._read_path, field, given) if given else None
            for field, given in paths.items()
        ]
        loaded = await self._state.manager.load(bundle, corpus, activate=request.activate)
        return pb.LoadGenerationResponse(generation=_describe(loaded))

    async def ActivateGeneration(
        self, request: pb.ActivateGenerationRequest, context: Context
    ) -> pb.ActivateGenerationResponse:
        """Activate a generation that is READY."""
        active = await self._state.manager.activate(request.number)
        return pb.ActivateGenerationResponse(generation=_describe(active))

    async def RollbackGeneration(
        self, request: pb.RollbackGenerationRequest, context: Context
    ) -> pb.RollbackGenerationResponse:
        """Activate the previous generation again."""
        active = await self._state.manager.roll_back()
        return pb.RollbackGenerationResponse(generation=_describe(active))

    async def ListGenerations(
        self, request: pb.ListGenerationsRequest, context: Context
    ) -> pb.ListGenerationsResponse:
        """List the generations and their states."""
        return pb.ListGenerationsResponse(generations=map(_describe, self._state.manager.listed()))

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """Describe the active model and corpus, and the server's limits."""
        engine = self._state.generation.engine
        layout = engine.corpus.layout
        return pb.GetModelResponse(
            generation=engine.generation,
            bundle=engine.bundle.manifest,
            corpus=engine.snapshot.manifest,
            corpus_rows=len(engine.corpus),
            shards=layout.shards,
            devices=[f"{device.device_kind} {device}" for device in layout.devices],
            max_top_k=engine.config.max_top_k,
            server_version=version("phoenix-server"),
            search=describe_search(layout),
            search_lack=describe_lack(layout, engine.config.scan),
            **asdict(self._state.limits),  # it has the field names of the message
        )

    async def GetServingStats(
        self, request: pb.GetServingStatsRequest, context: Context
    ) -> pb.GetServingStatsResponse:
        """Describe the request queue, and count the calls so far."""
        # `QueueStats` has the field names of the message.
        return pb.GetServingStatsResponse(**asdict(self._state.manager.stats()))

    def _read_path(self, field: str, given: str) -> Path:
        """Return a caller's path, which lies with all that it holds in a directory of `allowed`.

        Raises:
            InvalidRequestError: It is not a path.
            ForbiddenError: It, or a file in it, lies elsewhere, or not all of it can be looked at.
        """
        if len(given) > _MAX_PATH or "\0" in given:
            what = f"is not a path: it is longer than {_MAX_PATH} characters or has a zero byte"
            raise InvalidRequestError([Violation(field, what)])
        path = Path(given)
        self._check_allowed(field, path)

        def refuse(exc: OSError) -> None:
            if os.access(exc.filename, os.X_OK):  # a file in it can be read by its name
                raise ForbiddenError(f"{field}: {describe_error(exc)}") from exc

        for count, entry in enumerate(walk(path, refuse)):
            if count == MAX_FILES:
                raise ForbiddenError(
                    f"{field}: {path} holds more than {MAX_FILES} files, too many to look for "
                    "links that lead elsewhere"
                )
            if entry.is_symlink():
                self._check_allowed(field, entry)
        return path

    def _check_allowed(self, field: str, path: Path) -> None:
        try:
            if any(path.resolve().is_relative_to(allowed) for allowed in self._allowed):
                return
        except (OSError, RuntimeError):  # a name is too long, or links go round in a circle
            pass
        raise ForbiddenError(
            f"{field}: {path} is not in a directory that this server loads from; --allow-load "
            "names such directories"
        )


def _describe(generation: Generation) -> pb.Generation:
    message = pb.Generation(
        number=generation.number,
        state=_STATES[generation.state],
        bundle=str(generation.bundle),
        corpus=str(generation.corpus),
        reason=generation.reason,
        previous=generation.state is GenerationState.ROLLBACK,
    )
    if generation.is_loaded and generation.state is not GenerationState.FAILED:
        engine = generation.engine
        message.generation = engine.generation
        message.tower_fingerprint = engine.tower
        message.corpus_rows = len(engine.corpus)
        message.sequence = engine.corpus.sequence
    return message
