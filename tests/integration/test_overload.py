"""An overloaded server over the wire, with a device that waits for the test."""

import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from integration.conftest import SMALL
from integration.wire import PATIENCE_S, connect
from phoenix_client import (
    DeadlineExceededError,
    PhoenixClient,
    ResourceExhaustedError,
    RetrieveQuery,
    RetrieveResult,
    ServingStats,
    User,
)
from phoenix_retrieval.v1 import retrieval_service_pb2 as pb
from phoenix_retrieval.v1 import user_pb2
from phoenix_retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from phoenix_server.config import ServeConfig
from phoenix_server.engine.batch import LaunchedBatch, PreparedBatch
from phoenix_server.engine.engine import Engine
from phoenix_server.engine.query import Answer, Query
from servers import run_server


class Gate:
    """A gate in front of the device.

    Attributes:
        user_s: The cost of a user that the engine forecasts, in seconds.
        launched: The `top_k` of every query that has reached the device.
    """

    def __init__(self) -> None:
        self.user_s = 0.0
        self.launched: list[int] = []
        self._entered = threading.Semaphore(0)
        self._open = threading.Event()
        self._open.set()

    @contextmanager
    def closed(self, *, user_s: float) -> Generator[None, None, None]:
        """Keep the device busy with its current batch until the block ends."""
        self.user_s = user_s
        self._entered = threading.Semaphore(0)
        self._open.clear()
        try:
            yield
        finally:
            self.user_s = 0.0
            self._open.set()

    def wait_entered(self) -> None:
        """Wait until the device has one more batch since the gate was closed."""
        assert self._entered.acquire(timeout=PATIENCE_S)

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        launch, collect = Engine.launch, Engine.collect

        def note_launch(engine: Engine, prepared: PreparedBatch) -> LaunchedBatch:
            self.launched.extend(query.top_k for query in prepared.queries)
            return launch(engine, prepared)

        def wait_then_collect(engine: Engine, launched: LaunchedBatch) -> list[Answer]:
            self._entered.release()
            assert self._open.wait(timeout=PATIENCE_S)
            return collect(engine, launched)

        def user_seconds(engine: Engine, query: Query) -> float:
            return self.user_s

        def batch_seconds(engine: Engine, users: int) -> float:
            return 0.0

        patch.setattr(Engine, "launch", note_launch)
        patch.setattr(Engine, "collect", wait_then_collect)
        patch.setattr(Engine, "user_seconds", user_seconds)
        patch.setattr(Engine, "batch_seconds", batch_seconds)


@pytest.fixture(scope="module")
def gated(bundle_f32: Path, golden_corpus: Path) -> Iterator[tuple[Gate, str]]:
    gate = Gate()
    config = ServeConfig(bundle=bundle_f32, corpus=golden_corpus, shards=1, engine=SMALL)
    with pytest.MonkeyPatch.context() as patch, run_server(config) as server:
        gate.patch(patch)
        yield gate, server.address


@pytest.fixture
def gate(gated: tuple[Gate, str]) -> Gate:
    gated[0].launched.clear()
    return gated[0]


@pytest.fixture
def client(gated: tuple[Gate, str]) -> Iterator[PhoenixClient]:
    with connect(gated[1]) as client:
        yield client


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def _await_stats(client: PhoenixClient, reached: Callable[[ServingStats], bool]) -> ServingStats:
    """Ask for the counts until they are as expected; return them."""
    while not reached(stats := client.get_serving_stats()):
        pass  # a test that hangs is ended by its time limit
    return stats


def test_a_request_that_would_be_late_is_refused_while_the_device_is_busy(
    gate: Gate, client: PhoenixClient, pool: ThreadPoolExecutor
) -> None:
    before = client.get_serving_stats()
    with gate.closed(user_s=40.0):
        first = pool.submit(client.retrieve, User(user_id=1), top_k=1)
        gate.wait_entered()
        with pytest.raises(ResourceExhaustedError, match=r"would be .* late") as caught:
            client.retrieve(User(user_id=2), top_k=2, timeout_s=50.0)
        assert caught.value.retryable
        assert caught.value.retry_after_s is not None
        assert 0 < caught.value.retry_after_s < 400
        assert not first.done()
        second = pool.submit(client.retrieve, User(user_id=3), top_k=3)
        _await_stats(client, lambda stats: stats.waiting == 1)
    assert len(first.result().candidates) == 1
    assert len(second.result().candidates) == 3
    assert gate.launched == [1, 3]
    stats = client.get_serving_stats()
    assert stats.refused_late == before.refused_late + 1
    assert stats.accepted == before.accepted + 2


def test_an_expired_request_never_reaches_the_device(
    gate: Gate, client: PhoenixClient, pool: ThreadPoolExecutor
) -> None:
    before = client.get_serving_stats()
    with gate.closed(user_s=0.0):
        first = pool.submit(client.retrieve, User(user_id=1), top_k=1)
        gate.wait_entered()
        timeout_s = 0.2
        while client.get_serving_stats().accepted < before.accepted + 2:
            with pytest.raises(DeadlineExceededError):
                client.retrieve(User(user_id=2), top_k=2, timeout_s=timeout_s)
            timeout_s *= 2  # a busy machine may not see a call before its deadline
        _await_stats(
            client,
            lambda stats: stats.expired + stats.cancelled > before.expired + before.cancelled,
        )
    assert len(first.result().candidates) == 1
    assert len(client.retrieve(User(user_id=3), top_k=3).candidates) == 3
    assert gate.launched == [1, 3]


def test_a_cancelled_call_leaves_the_queue(
    gate: Gate, client: PhoenixClient, pool: ThreadPoolExecutor, gated: tuple[Gate, str]
) -> None:
    before = client.get_serving_stats()
    with gate.closed(user_s=1.0), grpc.insecure_channel(gated[1]) as channel:
        first = pool.submit(client.retrieve, User(user_id=1), top_k=1)
        gate.wait_entered()
        stub: Any = RetrievalServiceStub(channel)
        request = pb.RetrieveRequest(user=user_pb2.User(user_id=2), top_k=2)
        given_up = stub.Retrieve.future(request, timeout=PATIENCE_S, wait_for_ready=True)
        _await_stats(client, lambda stats: stats.waiting == 1 or given_up.done())
        assert not given_up.done()
        given_up.cancel()
        stats = _await_stats(client, lambda stats: stats.waiting == 0)
        assert stats.cancelled == before.cancelled + 1
    assert len(first.result().candidates) == 1
    assert gate.launched == [1]


def test_the_request_with_the_earliest_deadline_runs_first(
    gate: Gate, client: PhoenixClient, pool: ThreadPoolExecutor
) -> None:
    with gate.closed(user_s=5.0):
        calls = [pool.submit(client.retrieve, User(user_id=1), top_k=1)]
        gate.wait_entered()
        for i, timeout_s in enumerate((275.0, 250.0, 225.0, 200.0, 175.0), start=2):
            calls.append(
                pool.submit(client.retrieve, User(user_id=i), top_k=i, timeout_s=timeout_s)
            )
            _await_stats(client, lambda stats, waiting=i - 1: stats.waiting == waiting)
    assert [len(call.result().candidates) for call in calls] == [1, 2, 3, 4, 5, 6]
    assert gate.launched == [1, 6, 5, 4, 3, 2]


def test_requests_of_a_batch_are_refused_one_by_one(
    gate: Gate, client: PhoenixClient, pool: ThreadPoolExecutor
) -> None:
    with gate.closed(user_s=PATIENCE_S / 15):
        first = pool.submit(client.retrieve, User(user_id=1), top_k=1)
        gate.wait_entered()
        queries = [RetrieveQuery(user=User(user_id=i), top_k=i) for i in range(2, 22)]
        batch = pool.submit(client.batch_retrieve, queries, timeout_s=PATIENCE_S)
        _await_stats(client, lambda stats: stats.waiting > 0)
    assert len(first.result().candidates) == 1
    results = batch.result()
    answered = [result for result in results if isinstance(result, RetrieveResult)]
    refused = [result for result in results if isinstance(result, ResourceExhaustedError)]
    assert len(answered) + len(refused) == len(results)
    assert answered
    assert refused
    assert all(result.retry_after_s for result in refused)


def test_queries_of_a_search_are_refused_one_by_one(
    gate: Gate, client: PhoenixClient, pool: ThreadPoolExecutor
) -> None:
    vector = client.encode_user(User(user_id=1)).user_representation
    with gate.closed(user_s=PATIENCE_S / 15):
        first = pool.submit(client.retrieve, User(user_id=1), top_k=1)
        gate.wait_entered()
        search = pool.submit(client.search, vectors=[vector] * 20, top_k=2, timeout_s=PATIENCE_S)
        _await_stats(client, lambda stats: stats.waiting > 0)
    assert len(first.result().candidates) == 1
    results = search.result()
    refused = [result for result in results if isinstance(result, ResourceExhaustedError)]
    assert sum(isinstance(result, RetrieveResult) for result in results) + len(refused) == 20
    assert 0 < len(refused) < 20
    assert all(result.retry_after_s for result in refused)


def test_a_search_that_would_be_late_as_the_last_one_was_is_refused_before_it_is_read(
    gate: Gate, client: PhoenixClient, pool: ThreadPoolExecutor
) -> None:
    vectors = [client.encode_user(User(user_id=1)).user_representation] * 3
    before = client.get_serving_stats()
    with gate.closed(user_s=300.0):
        first = pool.submit(client.retrieve, User(user_id=1), top_k=1)
        gate.wait_entered()
        results = client.search(vectors=vectors, top_k=2, timeout_s=50.0)
        assert all(isinstance(result, ResourceExhaustedError) for result in results)
        with pytest.raises(ResourceExhaustedError, match=r"would be .* late") as caught:
            client.search(vectors=vectors, top_k=3, timeout_s=50.0)
        assert caught.value.retry_after_s is not None
    assert len(first.result().candidates) == 1
    assert client.get_serving_stats().refused_late == before.refused_late + 3 + 1
    assert not {2, 3} & set(gate.launched)
