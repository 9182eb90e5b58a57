from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2

from phoenix_retrieval.v1 import retrieval_service_pb2 as pb
from phoenix_server.batching.batcher import Batcher
from phoenix_server.batching.stats import QueueStats
from phoenix_server.config import Limits, ServeConfig
from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.engine.engine import Engine
from phoenix_server.engine.query import Answer, Query
from phoenix_server.errors import InvalidRequestError, NotReadyError, OverloadedError
from phoenix_server.generations.loader import Loader
from phoenix_server.generations.manager import GenerationManager
from phoenix_server.generations.sources import Sources
from phoenix_server.service.model import ModelServicer
from phoenix_server.service.retrieval import RetrievalServicer
from phoenix_server.service.state import ServingState
from server.cases import random_user
from server.service.cases import FakeContext, user_message

_CONTEXT = cast(Any, FakeContext())
_PATIENCE_S = 30.0


def _request(length: int = 3, top_k: int = 5, **options: Any) -> pb.RetrieveRequest:
    return pb.RetrieveRequest(user=user_message(random_user(length)), top_k=top_k, **options)


def _answer(engine: Engine, length: int = 3, top_k: int = 5) -> Answer:
    return engine.retrieve([Query(random_user(length), top_k)])[0]


async def test_retrieve_returns_columns(servicer: RetrievalServicer, engine: Engine) -> None:
    response = await servicer.Retrieve(_request(), _CONTEXT)
    expected = _answer(engine)
    assert response == pb.RetrieveResponse(
        generation=engine.generation,
        rows_scanned=3000,
        rows_eligible=3000,
        post_ids=expected.post_ids.tolist(),
        scores=expected.scores.tolist(),
    )


async def test_retrieve_returns_the_optional_columns_on_request(
    servicer: RetrievalServicer, engine: Engine, snapshot: Snapshot
) -> None:
    request = _request(
        return_user_representation=True,
        return_author_ids=True,
        return_labels=True,
        return_created_at=True,
    )
    response = await servicer.Retrieve(request, _CONTEXT)
    expected = _answer(engine)
    columns = snapshot.columns()
    rows = [columns.post_ids.tolist().index(post_id) for post_id in expected.post_ids]
    assert response.user_representation == expected.representation.tolist()
    assert response.author_ids == columns.author_ids[rows].tolist()
    assert response.created_at_unix_ms == columns.created_at_unix_ms[rows].tolist()
    assert response.label_counts == [1] * 5
    labels = [snapshot.manifest.label_names[code] for code in columns.labels.indices[rows]]
    assert [response.label_names[i] for i in response.label_indices] == labels
    assert sorted(set(response.label_names)) == sorted(response.label_names)
    assert set(response.label_names) == set(labels)


async def test_a_top_k_above_the_limit_is_refused(
    servicer: RetrievalServicer,
) -> None:
    with pytest.raises(InvalidRequestError, match=r"top_k: is 251, must be from 1 to 250"):
        await servicer.Retrieve(_request(top_k=251), _CONTEXT)


async def test_one_failure_does_not_fail_the_others(
    servicer: RetrievalServicer, engine: Engine
) -> None:
    requests = [_request(3), _request(3, top_k=0), pb.RetrieveRequest(top_k=1), _request(4)]
    response = await servicer.BatchRetrieve(pb.BatchRetrieveRequest(requests=requests), _CONTEXT)
    codes = [result.status.code for result in response.results]
    invalid = code_pb2.INVALID_ARGUMENT
    assert codes == [code_pb2.OK, invalid, invalid, code_pb2.OK]
    fields = [[v.field for v in r.status.field_violations] for r in response.results]
    assert fields == [[], ["top_k"], ["user"], []]
    assert [result.HasField("response") for result in response.results] == [
        True,
        False,
        False,
        True,
    ]
    for result, length in ((response.results[0], 3), (response.results[3], 4)):
        assert result.response.post_ids == _answer(engine, length).post_ids.tolist()


async def test_an_overloaded_request_in_a_batch_has_a_retry_delay(
    servicer: RetrievalServicer, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(query: Query, *, timeout_s: float | None) -> Answer:
        raise OverloadedError("the queue is full", retry_after_s=1e-9)

    monkeypatch.setattr(batcher, "retrieve", refuse)
    batch = pb.BatchRetrieveRequest(requests=[_request()])
    (result,) = (await servicer.BatchRetrieve(batch, _CONTEXT)).results
    assert result.status.code == code_pb2.RESOURCE_EXHAUSTED
    assert result.status.retry_delay == Duration(nanos=1_000_000)


@pytest.mark.parametrize("timeout_s", [None, 17.5])
async def test_every_call_queues_with_its_own_deadline(
    timeout_s: float | None,
    servicer: RetrievalServicer,
    batcher: Batcher,
    engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[float | None] = []
    retrieve, call = batcher.retrieve, batcher.call

    def note_query(query: Query, *, timeout_s: float | None) -> Awaitable[Answer]:
        seen.append(timeout_s)
        return retrieve(query, timeout_s=timeout_s)

    def note_call(
        function: Callable[[], object], *, kind: str, timeout_s: float | None
    ) -> Awaitable[object]:
        seen.append(timeout_s)
        return call(function, kind=kind, timeout_s=timeout_s)

    monkeypatch.setattr(batcher, "retrieve", note_query)
    monkeypatch.setattr(batcher, "call", note_call)
    context = cast(Any, FakeContext(timeout_s))
    user, post_ids = user_message(random_user(3)), _answer(engine).post_ids[:1].tolist()
    await servicer.Retrieve(_request(), context)
    await servicer.BatchRetrieve(pb.BatchRetrieveRequest(requests=[_request()] * 2), context)
    await servicer.EncodeUser(pb.EncodeUserRequest(user=user), context)
    encode = pb.EncodeCandidatesRequest(post_ids=post_ids, author_ids=post_ids)
    await servicer.EncodeCandidates(encode, context)
    await servicer.ScorePosts(pb.ScorePostsRequest(user=user, post_ids=post_ids), context)
    assert seen == [timeout_s] * 6


async def test_a_call_without_time_left_is_refused_as_overload(servicer: RetrievalServicer) -> None:
    with pytest.raises(OverloadedError, match="would be"):
        await servicer.Retrieve(_request(), cast(Any, FakeContext(1e-6)))


@pytest.mark.parametrize("size", [0, 5])
async def test_a_batch_of_the_wrong_size_is_refused(servicer: RetrievalServicer, size: int) -> None:
    batch = pb.BatchRetrieveRequest(requests=[_request()] * size)
    with pytest.raises(InvalidRequestError, match=f"requests: has {size} entries"):
        await servicer.BatchRetrieve(batch, _CONTEXT)


async def test_encode_user_returns_representation_and_norm(
    servicer: RetrievalServicer, engine: Engine
) -> None:
    request = pb.EncodeUserRequest(user=user_message(random_user(3)))
    response = await servicer.EncodeUser(request, _CONTEXT)
    expected = _answer(engine)
    assert response.user_representation == expected.representation.tolist()
    assert response.user_norm == np.float32(expected.norm)


async def test_encode_candidates_returns_concatenated_vectors(
    servicer: RetrievalServicer, engine: Engine
) -> None:
    posts, authors = np.arange(1, 13, dtype=np.uint64).reshape(2, 6)
    request = pb.EncodeCandidatesRequest(post_ids=posts.tolist(), author_ids=authors.tolist())
    response = await servicer.EncodeCandidates(request, _CONTEXT)
    assert response.embedding_size == 128
    expected = engine.encode_posts(posts, authors).ravel()
    assert response.candidate_representations == expected.tolist()


async def test_score_posts_ranks_as_retrieve_does(
    servicer: RetrievalServicer, engine: Engine
) -> None:
    expected = _answer(engine, top_k=250)
    places = [0, 249, 7, 7]
    post_ids = expected.post_ids[places]
    request = pb.ScorePostsRequest(user=user_message(random_user(3)), post_ids=post_ids.tolist())
    response = await servicer.ScorePosts(request, _CONTEXT)
    assert response.ranks == [place + 1 for place in places]
    assert response.scores == expected.scores[places].tolist()
    assert (response.rows_scanned, response.rows_eligible) == (3000, 3000)


async def test_a_loading_server_is_not_ready() -> None:
    config = ServeConfig(bundle=Path("bundle"), corpus=Path("corpus"))
    state = ServingState(GenerationManager(config, Loader(config, Sources())), Limits())
    servicer = RetrievalServicer(state)
    with pytest.raises(NotReadyError, match="is loading its bundle and corpus"):
        await servicer.Retrieve(_request(), _CONTEXT)
    with pytest.raises(NotReadyError):
        await ModelServicer(state).GetModel(_CONTEXT, _CONTEXT)
    with pytest.raises(NotReadyError):
        await ModelServicer(state).GetServingStats(_CONTEXT, _CONTEXT)
    batch = pb.BatchRetrieveRequest(requests=[_request()])
    (result,) = (await servicer.BatchRetrieve(batch, _CONTEXT)).results
    assert result.status.code == code_pb2.UNAVAILABLE


async def test_get_model_describes_what_is_served(state: ServingState, engine: Engine) -> None:
    response = await ModelServicer(state).GetModel(_CONTEXT, _CONTEXT)
    assert response.generation == engine.generation
    assert response.bundle == engine.bundle.manifest
    assert response.corpus == engine.snapshot.manifest
    assert (response.corpus_rows, response.shards, len(response.devices)) == (3000, 3, 3)
    assert (response.max_top_k, response.max_batch_users, response.max_candidates) == (250, 4, 6)
    assert response.search == f"native ({engine.corpus.layout.variant})"
    assert response.search_lack == ""


async def test_get_serving_stats_counts_the_calls_by_outcome(
    state: ServingState, servicer: RetrievalServicer
) -> None:
    model = ModelServicer(state)
    await servicer.BatchRetrieve(pb.BatchRetrieveRequest(requests=[_request()] * 3), _CONTEXT)
    with pytest.raises(OverloadedError):
        await servicer.Retrieve(_request(), cast(Any, FakeContext(1e-6)))
    response = await model.GetServingStats(_CONTEXT, _CONTEXT)
    assert (response.accepted, response.answered, response.refused_late) == (3, 3, 1)
    assert (response.waiting, response.prepared, response.on_device) == (0, 0, 0)
    assert response.batched_users == 3
    assert response.compilations_after_ready == 0
    assert 0 < response.device_s < response.uptime_s
    assert response.slowness > 0
    assert response.forecast_deviation > 0
    fields = {field.name for field in response.DESCRIPTOR.fields}
    assert fields == {field.name for field in dataclasses.fields(QueueStats)}


async def test_a_ranking_whose_caller_leaves_keeps_its_turn_until_it_ends(
    servicer: RetrievalServicer, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    running, go = asyncio.Semaphore(0), threading.Event()
    begun = 0

    def rank() -> None:
        nonlocal begun
        begun += 1
        loop.call_soon_threadsafe(running.release)
        assert go.wait(_PATIENCE_S)
        raise NotReadyError("the corpus is gone")

    async def call(*_: object, **__: object) -> Any:
        return rank

    monkeypatch.setattr(batcher, "call", call)
    request = pb.ScorePostsRequest(user=user_message(random_user(3)), post_ids=[1])
    tasks = [asyncio.create_task(servicer.ScorePosts(request, _CONTEXT)) for _ in range(6)]
    for _ in range(2):
        await asyncio.wait_for(running.acquire(), _PATIENCE_S)
    for _ in range(2):  # gRPC may say so twice
        tasks[0].cancel()
        tasks[1].cancel()
        await asyncio.sleep(0)
    await asyncio.to_thread(lambda: None)  # whatever else would run has begun
    assert begun == 2
    go.set()
    await asyncio.wait(tasks)
    assert [task.cancelled() for task in tasks] == [True, True, *[False] * 4]
    assert begun == 6


async def test_a_bounded_number_of_rankings_wait(
    servicer: RetrievalServicer, batcher: Batcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    go = asyncio.Event()

    async def call(*_: object, **__: object) -> Any:
        nonlocal asked
        asked += 1
        await go.wait()
        raise NotReadyError("the device is gone")

    monkeypatch.setattr(batcher, "call", call)
    request = pb.ScorePostsRequest(user=user_message(random_user(3)), post_ids=[1])
    tasks = [asyncio.create_task(servicer.ScorePosts(request, _CONTEXT)) for _ in range(34)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert asked == 2
    with pytest.raises(OverloadedError, match="34 calls of ScorePosts run or wait"):
        await servicer.ScorePosts(request, _CONTEXT)
    go.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, NotReadyError) for outcome in outcomes)
    assert asked == 34
