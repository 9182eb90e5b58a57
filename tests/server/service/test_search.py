"""`RetrievalService.Search`: vectors and posts as queries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, cast

import numpy as np
import pytest
from google.rpc import code_pb2

from phoenix_retrieval.v1 import retrieval_service_pb2 as pb
from phoenix_server.batching.batcher import Batcher
from phoenix_server.config import QueueConfig
from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.corpus.disk.store import Store
from phoenix_server.engine.engine import Engine
from phoenix_server.engine.query import Answer, LikePost, Query
from phoenix_server.errors import InvalidRequestError, OverloadedError, PostNotFoundError
from phoenix_server.generations.generation import Generation
from phoenix_server.service.retrieval import RetrievalServicer
from phoenix_server.service.state import ServingState
from server.cases import random_user
from server.service.cases import FakeContext, user_message

_CONTEXT = cast(Any, FakeContext())
_COLUMNS = {"return_author_ids": True, "return_labels": True, "return_created_at": True}


async def _retrieve(servicer: RetrievalServicer, length: int, **options: Any) -> Any:
    user = user_message(random_user(length))
    request = pb.RetrieveRequest(user=user, return_user_representation=True, **options)
    return await servicer.Retrieve(request, _CONTEXT)


async def _search(servicer: RetrievalServicer, **fields: Any) -> list[pb.RetrieveResponse]:
    response = await servicer.Search(pb.SearchRequest(**fields), _CONTEXT)
    assert [result.status.code for result in response.results] == [0] * len(response.results)
    return [result.response for result in response.results]


async def test_a_representation_gives_the_answer_of_its_user(servicer: RetrievalServicer) -> None:
    one = await _retrieve(servicer, 3, top_k=9, **_COLUMNS)
    other = await _retrieve(servicer, 20, top_k=9, **_COLUMNS)
    vectors = [*one.user_representation, *other.user_representation]
    options = {"top_k": 9, "return_user_representation": True, **_COLUMNS}
    assert await _search(servicer, vectors=vectors, **options) == [one, other]
    assert await _search(servicer, vectors=one.user_representation, **options) == [one]


async def test_columns_are_returned_only_on_request(servicer: RetrievalServicer) -> None:
    retrieved = await _retrieve(servicer, 3, top_k=4)
    (found,) = await _search(servicer, vectors=retrieved.user_representation, top_k=4)
    retrieved.ClearField("user_representation")
    assert found == retrieved


async def test_a_filter_holds_for_each_query(
    servicer: RetrievalServicer, snapshot: Snapshot
) -> None:
    name = snapshot.manifest.label_names[0]
    conditions = pb.Filter(all_labels=[name])
    expected = [await _retrieve(servicer, n, top_k=5, filter=conditions) for n in (3, 4)]
    vectors = [x for each in expected for x in each.user_representation]
    found = await _search(
        servicer, vectors=vectors, top_k=5, filter=conditions, return_user_representation=True
    )
    assert found == expected
    assert 0 < found[0].rows_eligible < 3000


async def test_posts_like_a_post_are_those_of_its_vector_without_itself(
    servicer: RetrievalServicer, snapshot: Snapshot
) -> None:
    vectors = np.concatenate([chunk.copy() for chunk in snapshot.vectors()])
    ids = snapshot.columns().post_ids.tolist()
    places = [0, 2999]
    options: dict[str, Any] = {"top_k": 6, "return_user_representation": True}
    expected = await _search(servicer, vectors=vectors[places].ravel().tolist(), **options)
    posts = [ids[place] for place in places]
    options["post_ids"] = posts
    assert await _search(servicer, include_query_posts=True, **options) == expected
    for post, answer, like in zip(posts, await _search(servicer, **options), expected, strict=True):
        assert (like.post_ids[0], like.post_ids[1:]) == (post, answer.post_ids[:5])
        assert like.scores[1:] == answer.scores[:5]
        assert (answer.rows_scanned, answer.rows_eligible) == (3000, 2999)


async def test_an_unknown_post_fails_the_call_before_any_query_is_queued(
    servicer: RetrievalServicer, snapshot: Snapshot, batcher: Batcher
) -> None:
    known = int(snapshot.columns().post_ids[0])
    with pytest.raises(PostNotFoundError) as caught:
        await _search(servicer, post_ids=[5, known, 6], top_k=1)
    assert caught.value.post_ids == (5, 6)
    assert batcher.stats().accepted == 0


async def test_a_post_deleted_while_its_query_waits_fails_that_query(
    servicer: RetrievalServicer,
    snapshot: Snapshot,
    batcher: Batcher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    posts = snapshot.columns().post_ids[:2].tolist()
    retrieve = batcher.retrieve

    async def retrieve_late(query: Query, *, timeout_s: float | None) -> Answer:
        if query.user == LikePost(posts[0]):  # as if the corpus did not hold it any more
            query = query._replace(user=LikePost(5))
        answer = await retrieve(query, timeout_s=timeout_s)
        assert answer.missing == (query.user == LikePost(5))
        return answer

    monkeypatch.setattr(batcher, "retrieve", retrieve_late)
    response = await servicer.Search(pb.SearchRequest(post_ids=posts, top_k=3), _CONTEXT)
    gone, found = response.results
    assert gone.status.code == code_pb2.NOT_FOUND
    assert str(posts[0]) in gone.status.message
    assert not gone.HasField("response")
    assert (found.status.code, len(found.response.post_ids)) == (0, 3)


@pytest.mark.parametrize(
    ("fields", "violation"),
    [
        ({"top_k": 5}, "vectors: has 0 entries, must have 128 for each of 1 to 4 vectors"),
        ({"top_k": 5, "vectors": [1.0] * 127}, "vectors: has 127 entries"),
        ({"top_k": 5, "vectors": [0.5] * 128}, "vectors\\[0:128\\]: vector 0 has length"),
        ({"top_k": 5, "post_ids": [1] * 5}, "post_ids: has 5 entries, must have from 1 to 4"),
        ({"top_k": 0, "post_ids": [1]}, "top_k: is 0, must be from 1 to 250"),
        ({"top_k": 251, "post_ids": [1]}, "top_k: is 251, must be from 1 to 250"),
        (
            {"top_k": 5, "post_ids": [1], "filter": pb.Filter(any_labels=["no such label"])},
            "filter.any_labels: the corpus does not know",
        ),
    ],
)
async def test_an_invalid_field_fails_the_call(
    servicer: RetrievalServicer, fields: dict[str, Any], violation: str
) -> None:
    with pytest.raises(InvalidRequestError, match=violation):
        await _search(servicer, **fields)


async def test_queries_are_refused_one_by_one_and_have_retry_delays(
    servicer: RetrievalServicer,
    snapshot: Snapshot,
    batcher: Batcher,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    posts = snapshot.columns().post_ids[:2].tolist()
    retrieve, seen = batcher.retrieve, list[float | None]()

    def refuse_first(query: Query, *, timeout_s: float | None) -> Awaitable[Answer]:
        seen.append(timeout_s)
        if len(seen) == 1:
            raise OverloadedError("the queue is full", retry_after_s=2.0)
        return retrieve(query, timeout_s=timeout_s)

    monkeypatch.setattr(batcher, "retrieve", refuse_first)
    context = cast(Any, FakeContext(17.5))
    response = await servicer.Search(pb.SearchRequest(post_ids=posts, top_k=1), context)
    refused, found = response.results
    assert refused.status.code == code_pb2.RESOURCE_EXHAUSTED
    assert refused.status.retry_delay.seconds == 2
    assert found.status.code == code_pb2.OK
    assert seen == [17.5, 17.5]


async def test_each_query_counts_and_no_new_generation_is_asked_them(
    servicer: RetrievalServicer, batcher: Batcher, snapshot: Snapshot
) -> None:
    user = await _retrieve(servicer, 3, top_k=1)
    recent = list(batcher.recent)
    await _search(servicer, vectors=user.user_representation, top_k=1)
    await _search(servicer, post_ids=snapshot.columns().post_ids[:3].tolist(), top_k=1)
    stats = batcher.stats()
    assert (stats.accepted, stats.answered, stats.batched_users) == (5, 5, 5)
    assert stats.compilations_after_ready == 0
    assert list(batcher.recent) == recent
    assert len(recent) == 1


async def test_posts_are_looked_up_after_the_change_that_the_call_waits_for(
    servicer: RetrievalServicer, state: ServingState, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, visible = asyncio.Event(), asyncio.Event()

    async def wait_for(sequence: int, timeout_s: float | None) -> None:
        assert (sequence, timeout_s) == (3, None)
        began.set()
        await visible.wait()

    monkeypatch.setattr(state.updates, "wait_for", wait_for)
    search = asyncio.create_task(_search(servicer, post_ids=[5], top_k=1, min_sequence=3))
    await began.wait()
    assert not search.done()  # although the corpus does not hold the post yet
    visible.set()
    with pytest.raises(PostNotFoundError):
        await search


async def test_the_generation_that_is_active_after_the_change_answers(
    servicer: RetrievalServicer,
    state: ServingState,
    generation: Generation,
    engine: Engine,
    snapshot: Snapshot,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store(snapshot.path, read_only=True)
    other = Generation(2, engine.bundle.path, store.path)
    other.attach(engine, store, QueueConfig())

    async def wait_for(sequence: int, timeout_s: float | None) -> None:
        monkeypatch.setattr(state.manager, "active", other)

    monkeypatch.setattr(state.updates, "wait_for", wait_for)
    posts = snapshot.columns().post_ids[:3].tolist()
    try:
        await _search(servicer, post_ids=posts, top_k=1, min_sequence=1)
    finally:
        other.batcher.close()
    assert [each.batcher.stats().accepted for each in (generation, other)] == [0, 3]
