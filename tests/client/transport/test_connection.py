from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from client.conftest import Ask
from fake_server.server import (
    GENERATION,
    POSTS,
    Failure,
    FakeServer,
    run_fake_server,
)
from phoenix_client import (
    Action,
    AsyncPhoenixClient,
    CallCancelledError,
    DeadlineExceededError,
    Engagement,
    History,
    NotFoundError,
    PhoenixClient,
    Post,
    UnavailableError,
    UnimplementedError,
    User,
)

USER = User(2**64 - 1, History.from_engagements([Engagement(2**63, 5, {Action.REPLY}, 3)]))


CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("retrieve", (USER,), {"top_k": 1}),
    ("batch_retrieve", ([],), {}),
    ("search", (), {"post_ids": [1], "top_k": 1}),
    ("encode_user", (USER,), {}),
    ("encode_candidates", ([1], [2]), {}),
    ("score_posts", (USER, [POSTS[0].post_id]), {}),
    ("get_model", (), {}),
    ("get_serving_stats", (), {}),
    ("activate_generation", (1,), {}),
    ("list_generations", (), {}),
    ("upsert_posts", ([Post(1, 2)],), {}),
    ("stream_upsert_posts", ([[Post(1, 2)]],), {}),
    ("delete_posts", ([1],), {}),
    ("get_posts", ([1],), {}),
    ("get_corpus", (), {}),
    ("create_snapshot", (), {}),
    ("list_snapshots", (), {}),
]


@pytest.mark.parametrize(("method", "arguments", "options"), CALLS)
def test_every_call_ends_at_its_own_time_limit(
    server: FakeServer, ask: Ask, method: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    server.hangs = True
    with pytest.raises(DeadlineExceededError):
        ask(method, *arguments, **options, timeout_s=0.05)


def test_a_call_without_a_time_limit_has_the_clients(server: FakeServer, ask: Ask) -> None:
    server.hangs = True
    ask.client_options = {"timeout_s": 0.05}
    with pytest.raises(DeadlineExceededError):
        ask("get_model")


@pytest.mark.parametrize("timeout_s", [0, -1, math.nan, math.inf])
def test_a_time_limit_that_is_none_is_refused(ask: Ask, timeout_s: float) -> None:
    with pytest.raises(ValueError, match="timeout_s: must be above 0 and finite"):
        ask("get_model", timeout_s=timeout_s)
    ask.client_options = {"timeout_s": timeout_s}
    with pytest.raises(ValueError, match="timeout_s: must be above 0 and finite"):
        ask("get_model")


@pytest.mark.parametrize(("method", "arguments", "options"), CALLS)
def test_a_server_that_is_unavailable_for_a_moment_is_asked_again(
    server: FakeServer, ask: Ask, method: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    server.failures = [Failure(grpc.StatusCode.UNAVAILABLE)] * 2
    ask(method, *arguments, **options)
    first, second, third = server.requests
    assert first == second == third


def test_no_other_failure_is_asked_again(server: FakeServer, ask: Ask) -> None:
    server.failures = [Failure(grpc.StatusCode.UNIMPLEMENTED)]
    with pytest.raises(UnimplementedError):
        ask("get_model")
    assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with run_fake_server() as gone:
        pass
    with PhoenixClient(gone.target) as client, pytest.raises(UnavailableError):
        client.get_model()


async def test_cancelling_a_task_cancels_its_call(server: FakeServer) -> None:
    server.hangs = True
    async with AsyncPhoenixClient(server.target) as client:
        task = asyncio.create_task(client.get_model(timeout_s=60))
        assert await asyncio.to_thread(server.called.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await asyncio.to_thread(server.given_up.wait, 10)


def test_closing_the_client_cancels_its_calls(server: FakeServer) -> None:
    server.hangs = True
    with ThreadPoolExecutor(1) as pool, PhoenixClient(server.target) as client:
        call = pool.submit(client.get_model, timeout_s=60)
        assert server.called.wait(10)
        client.close()
        with pytest.raises(CallCancelledError):
            call.result()


def test_a_channel_that_was_given_stays_open(server: FakeServer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        for _ in range(2):
            with PhoenixClient(channel=channel) as client:
                assert client.get_model().generation == GENERATION


async def test_a_channel_that_was_given_stays_open_async(server: FakeServer) -> None:
    async with grpc.aio.insecure_channel(server.target) as channel:
        for _ in range(2):
            async with AsyncPhoenixClient(channel=channel) as client:
                assert (await client.get_model()).generation == GENERATION


def test_credentials_encrypt(tls_files: tuple[Path, Path]) -> None:
    key, certificate = (file.read_bytes() for file in tls_files)
    with run_fake_server(grpc.ssl_server_credentials([(key, certificate)])) as server:
        credentials = grpc.ssl_channel_credentials(certificate)
        with PhoenixClient(server.target, credentials=credentials) as client:
            assert client.get_model().generation == GENERATION
        with PhoenixClient(server.target) as client, pytest.raises(UnavailableError):
            client.get_model()


def test_is_serving_says_what_the_health_check_says(server: FakeServer, ask: Ask) -> None:
    assert ask("is_serving") is False
    server.serving.set()
    assert ask("is_serving") is True


def test_a_server_that_is_not_there_is_not_serving() -> None:
    with run_fake_server() as gone:
        pass
    with PhoenixClient(gone.target) as client:
        assert client.is_serving(timeout_s=0.2) is False


def test_wait_until_ready_returns_when_the_server_is_serving(server: FakeServer, ask: Ask) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, "wait_until_ready", timeout_s=60)
        try:
            assert server.watched.wait(10)
            assert not waiting.done()
        finally:
            server.serving.set()
        waiting.result()


def test_wait_until_ready_ends_at_its_time_limit(ask: Ask) -> None:
    with pytest.raises(DeadlineExceededError):
        ask("wait_until_ready", timeout_s=0.05)


def test_a_health_check_that_ends_early_is_unavailable(server: FakeServer, ask: Ask) -> None:
    server.watch_ends = True
    with pytest.raises(UnavailableError, match="ended before the server was serving"):
        ask("wait_until_ready")


async def test_the_health_check_is_the_standard_one() -> None:
    """Ask grpcio-health-checking's own servicer, of the whole server and of a service."""
    servicer = HealthServicer()
    server = grpc.server(ThreadPoolExecutor(2))
    add_HealthServicer_to_server(servicer, server)
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        async with AsyncPhoenixClient(target) as async_client:
            with PhoenixClient(target) as client:
                for service in ("", "phoenix_retrieval.v1.RetrievalService"):
                    for status in HealthCheckResponse.ServingStatus.values():
                        servicer.set(service, status)
                        serving = status == HealthCheckResponse.SERVING
                        assert client.is_serving(service) is serving
                        assert await async_client.is_serving(service) is serving
                with pytest.raises(NotFoundError):
                    client.is_serving("unknown")
    finally:
        server.stop(None).wait()


def test_an_async_client_belongs_to_a_running_event_loop() -> None:
    with pytest.raises(RuntimeError, match="create AsyncPhoenixClient in a coroutine"):
        AsyncPhoenixClient("127.0.0.1:1")
