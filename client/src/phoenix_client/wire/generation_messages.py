"""Build requests about generations and read replies, for the sync and the async client."""

from __future__ import annotations

import os
from pathlib import PurePath

from phoenix_client.errors import MalformedReplyError
from phoenix_client.types.columns import u32_column
from phoenix_client.types.generations import Generation, GenerationState
from phoenix_client.types.labels import check_text
from phoenix_client.wire.call import Call
from phoenix_client.wire.messages import same_fields
from phoenix_retrieval.v1 import model_service_pb2 as model_pb2

_STATES: dict[int, GenerationState] = {
    model_pb2.GenerationState.Value(f"GENERATION_STATE_{state.name}"): state
    for state in GenerationState
}


def load(
    bundle: str | PurePath | None, corpus: str | PurePath | None, activate: bool
) -> Call[Generation]:
    """Return the call that loads a generation.

    The directories name the server's and are sent unchanged.

    Raises:
        ValueError: Neither is given, or one is empty or not valid text; names the field.
    """
    if bundle is None and corpus is None:
        raise ValueError("bundle: is needed, or corpus, or both")
    directories = {"bundle": _directory("bundle", bundle), "corpus": _directory("corpus", corpus)}
    request = model_pb2.LoadGenerationRequest(**directories, activate=activate)
    return Call("LoadGeneration", request, read_generation)


def _directory(name: str, given: str | PurePath | None) -> str:
    """Return a directory as the contract writes it: empty text stands for none."""
    if given is None:
        return ""
    directory = os.fspath(given)
    if not directory:
        raise ValueError(f"{name}: is empty")
    check_text(directory, name)
    return directory


def activate(number: int) -> Call[Generation]:
    """Return the call that activates a generation.

    Raises:
        ValueError: `number` is not an unsigned 32-bit integer.
    """
    (checked,) = u32_column("number", [number])
    request = model_pb2.ActivateGenerationRequest(number=checked)
    return Call("ActivateGeneration", request, read_generation)


def read_generation(
    reply: model_pb2.LoadGenerationResponse
    | model_pb2.ActivateGenerationResponse
    | model_pb2.RollbackGenerationResponse,
) -> Generation:
    """Read the generation that was loaded or activated.

    Raises:
        MalformedReplyError: It is missing, or its state is unknown.
    """
    if not reply.HasField("generation"):
        raise MalformedReplyError("generation: is missing")
    return _read(reply.generation, "generation")


def read_generations(reply: model_pb2.ListGenerationsResponse) -> tuple[Generation, ...]:
    """Read the list of generations.

    Raises:
        MalformedReplyError: The state of one is unknown.
    """
    return tuple(
        _read(each, f"generations[{index}]") for index, each in enumerate(reply.generations)
    )


ROLL_BACK = Call("RollbackGeneration", model_pb2.RollbackGenerationRequest(), read_generation)
LIST_GENERATIONS = Call("ListGenerations", model_pb2.ListGenerationsRequest(), read_generations)


def _read(message: model_pb2.Generation, at: str) -> Generation:
    if message.state not in _STATES:
        raise MalformedReplyError(f"{at}.state: {message.state} is not known")
    return same_fields(Generation, message, state=_STATES[message.state])
