from collections.abc import AsyncGenerator, Iterator
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest

from phoenix_server.batching.batcher import Batcher
from phoenix_server.config import Limits, QueueConfig
from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.corpus.disk.store import Store
from phoenix_server.corpus.updates.worker import UpdateWorker
from phoenix_server.engine.engine import Engine
from phoenix_server.generations.generation import Generation
from phoenix_server.service.retrieval import RetrievalServicer
from phoenix_server.service.state import ServingState
from server.service.listener_cases import Running, run_listener


@pytest.fixture
def generation(engine: Engine, snapshot: Snapshot) -> Iterator[Generation]:
    store = Store(snapshot.path, read_only=True)
    generation = Generation(1, engine.bundle.path, store.path)
    generation.attach(engine, store, QueueConfig(max_waiting=100))
    yield generation
    generation.batcher.close()


@pytest.fixture
def batcher(generation: Generation) -> Batcher:
    return generation.batcher


@pytest.fixture
def state(generation: Generation) -> ServingState:
    manager = SimpleNamespace(
        active=generation,
        updates=UpdateWorker(generation.update_target),
        stats=generation.batcher.stats,
    )
    return ServingState(cast(Any, manager), Limits(max_batch_users=4, max_candidates=6))


@pytest.fixture
def servicer(state: ServingState) -> RetrievalServicer:
    return RetrievalServicer(state)


@pytest.fixture
async def running() -> AsyncGenerator[Running]:
    async with run_listener() as server:
        yield server


@pytest.fixture
async def channel(running: Running) -> AsyncGenerator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(running.address) as channel:
        yield channel
