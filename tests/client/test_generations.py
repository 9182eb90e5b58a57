from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from client.conftest import Ask
from fake_server.server import Failure, FakeServer
from phoenix_client import (
    AsyncPhoenixClient,
    DeadlineExceededError,
    FailedPreconditionError,
    Generation,
    GenerationState,
    MalformedReplyError,
    NotFoundError,
    PermissionDeniedError,
    PhoenixClient,
    PhoenixClientError,
    ResourceExhaustedError,
    UnavailableError,
)
from phoenix_retrieval.v1 import model_service_pb2 as model_pb2

FIRST = Generation(
    number=1,
    state=GenerationState.ACTIVE,
    generation="towers-1+posts-7",
    bundle="bundles/1",
    corpus="corpus",
    tower_fingerprint="f001",
    corpus_rows=2**40,
    sequence=2**64 - 1,
    previous=False,
    reason="",
)


SECOND = Generation(
    number=2,
    state=GenerationState.READY,
    generation="towers-2+posts-7",
    bundle="allowed/2",
    corpus="corpus",
    tower_fingerprint="f002",
    corpus_rows=2**40 + 2,
    sequence=2**64 - 3,
    previous=False,
    reason="",
)


ACTIVE_SECOND = replace(SECOND, state=GenerationState.ACTIVE)


PREVIOUS_FIRST = replace(FIRST, state=GenerationState.READY, previous=True)


FAILED = model_pb2.Generation(
    number=3,
    state=model_pb2.GENERATION_STATE_FAILED,
    bundle="allowed/\x1b[2J",
    corpus="corpus",
    reason="allowed/3: weights.safetensors:\nhas another sum",
)


LOADING = model_pb2.Generation(
    number=4, state=model_pb2.GENERATION_STATE_LOADING, bundle="allowed/4", corpus="corpus"
)


CALLS: list[tuple[str, tuple[Any, ...]]] = [
    ("load_generation", ("allowed/2",)),
    ("activate_generation", (1,)),
    ("roll_back_generation", ()),
    ("list_generations", ()),
]


def test_load_generation_returns_what_is_ready(server: FakeServer, ask: Ask) -> None:
    assert ask("load_generation", "allowed/2") == SECOND
    assert ask("list_generations") == (FIRST, SECOND)
    assert server.requests[0] == model_pb2.LoadGenerationRequest(bundle="allowed/2")


def test_load_generation_activates_what_it_loads_if_asked(ask: Ask) -> None:
    assert ask("load_generation", "allowed/2", activate=True) == ACTIVE_SECOND
    assert ask("list_generations") == (PREVIOUS_FIRST, ACTIVE_SECOND)


def test_load_generation_takes_a_corpus_alone(server: FakeServer, ask: Ask) -> None:
    assert ask("load_generation", corpus="allowed/other").bundle == FIRST.bundle
    assert server.requests == [model_pb2.LoadGenerationRequest(corpus="allowed/other")]


@pytest.mark.parametrize("kind", [str, Path, PurePosixPath])
def test_directories_go_as_they_are_given(
    server: FakeServer, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    (tmp_path / "allowed").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    ask("load_generation", kind("allowed/../2"), kind("allowed/~/$HOME"))
    assert server.requests == [
        model_pb2.LoadGenerationRequest(bundle="allowed/../2", corpus="allowed/~/$HOME")
    ]


@pytest.mark.parametrize(
    ("directories", "message"),
    [
        ((), "bundle: is needed, or corpus"),
        ((None, None), "bundle: is needed, or corpus"),
        (("", "allowed/x"), "bundle: is empty"),
        (("allowed/x", ""), "corpus: is empty"),
        (("allowed/\udc80",), r"bundle: 'allowed/\\udc80' is not valid text"),
    ],
)
def test_directories_that_cannot_be_sent_are_named(
    server: FakeServer, ask: Ask, directories: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ask("load_generation", *directories)
    assert not server.requests


def test_activate_generation_and_back(server: FakeServer, ask: Ask) -> None:
    ask("load_generation", "allowed/2")
    assert ask("activate_generation", 2) == ACTIVE_SECOND
    assert server.requests[-1] == model_pb2.ActivateGenerationRequest(number=2)
    assert ask("list_generations") == (PREVIOUS_FIRST, ACTIVE_SECOND)
    assert ask("roll_back_generation") == FIRST
    assert server.requests[-1] == model_pb2.RollbackGenerationRequest()
    assert ask("list_generations") == (FIRST, replace(SECOND, previous=True))


@pytest.mark.parametrize("number", [-1, 2**32, "2", 1.0, None])
def test_a_number_that_cannot_be_sent_is_refused(
    server: FakeServer, ask: Ask, number: object
) -> None:
    with pytest.raises(ValueError, match=r"number: must be integers from 0 to 2\*\*32 - 1"):
        ask("activate_generation", number)
    assert not server.requests


def test_list_generations_tells_of_those_that_load_or_failed(server: FakeServer, ask: Ask) -> None:
    server.generations |= {3: FAILED, 4: LOADING}
    first, failed, loading = ask("list_generations")
    assert first == FIRST
    assert (failed.state, failed.generation, failed.reason) == (
        GenerationState.FAILED,
        "",
        FAILED.reason,
    )
    assert (loading.number, loading.state) == (4, GenerationState.LOADING)


@pytest.mark.parametrize(
    ("method", "reply", "message"),
    [
        ("load_generation", model_pb2.LoadGenerationResponse(), "^generation: is missing"),
        ("activate_generation", model_pb2.ActivateGenerationResponse(), "^generation: is missing"),
        ("roll_back_generation", model_pb2.RollbackGenerationResponse(), "^generation: is missing"),
        (
            "roll_back_generation",
            model_pb2.RollbackGenerationResponse(generation=model_pb2.Generation()),
            r"^generation\.state: 0 is not known",
        ),
        (
            "list_generations",
            model_pb2.ListGenerationsResponse(
                generations=[
                    LOADING,
                    model_pb2.Generation(state=9),  # pyright: ignore[reportArgumentType]
                ]
            ),
            r"^generations\[1\]\.state: 9 is not known",
        ),
    ],
)
def test_a_reply_that_cannot_be_is_refused(
    server: FakeServer, ask: Ask, method: str, reply: Message, message: str
) -> None:
    server.replies = [reply]
    with pytest.raises(MalformedReplyError, match=message):
        ask(method, *dict(CALLS)[method])


def test_a_directory_that_is_not_allowed_is_permission_denied(ask: Ask) -> None:
    with pytest.raises(PermissionDeniedError, match="corpus: /etc is not allowed") as caught:
        ask("load_generation", "allowed/2", "/etc")
    assert not caught.value.retryable


def test_a_generation_that_there_is_not_is_not_found(ask: Ask) -> None:
    with pytest.raises(NotFoundError, match="there is no generation 7") as caught:
        ask("activate_generation", 7)
    assert (caught.value.retryable, caught.value.missing_post_ids) == (False, ())


def test_nothing_to_go_back_to_is_a_failed_precondition(ask: Ask) -> None:
    with pytest.raises(FailedPreconditionError, match="none to go back to") as caught:
        ask("roll_back_generation")
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, PermissionDeniedError),
        (grpc.StatusCode.FAILED_PRECONDITION, FailedPreconditionError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ResourceExhaustedError),
        (grpc.StatusCode.NOT_FOUND, NotFoundError),
    ],
)
@pytest.mark.parametrize(("method", "arguments"), CALLS)
def test_a_failure_is_raised_and_not_retryable(
    server: FakeServer,
    ask: Ask,
    method: str,
    arguments: tuple[Any, ...],
    code: grpc.StatusCode,
    expected: type[PhoenixClientError],
) -> None:
    server.failures = [Failure(code, "as it is")]
    with pytest.raises(expected, match="as it is") as caught:
        ask(method, *arguments)
    assert type(caught.value) is expected
    assert not caught.value.retryable


@pytest.mark.parametrize(("method", "arguments"), [CALLS[0], CALLS[2]])
def test_what_twice_would_be_something_else_is_asked_once(
    server: FakeServer, ask: Ask, method: str, arguments: tuple[Any, ...]
) -> None:
    server.failures = [Failure(grpc.StatusCode.UNAVAILABLE)]
    with pytest.raises(UnavailableError):
        ask(method, *arguments)
    assert len(server.requests) == 1


@pytest.mark.parametrize(("method", "arguments"), CALLS)
def test_every_call_ends_at_its_own_time_limit(
    server: FakeServer, ask: Ask, method: str, arguments: tuple[Any, ...]
) -> None:
    server.hangs = True
    with pytest.raises(DeadlineExceededError):
        ask(method, *arguments, timeout_s=0.05)


def test_loading_has_the_time_limit_of_the_client_only_if_asked(
    server: FakeServer, ask: Ask
) -> None:
    server.hangs = True
    ask.client_options = {"timeout_s": 0.05}
    with pytest.raises(DeadlineExceededError):
        ask("load_generation", "allowed/2", timeout_s=None)
    for client in (PhoenixClient, AsyncPhoenixClient):
        parameters = inspect.signature(client.load_generation).parameters
        assert parameters["timeout_s"].default == 600
