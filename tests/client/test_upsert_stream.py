from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from client.conftest import Ask
from fake_server.corpus import Held
from fake_server.server import Failure, FakeServer
from phoenix_client import (
    AsyncPhoenixClient,
    CallCancelledError,
    DeadlineExceededError,
    FailedPreconditionError,
    InvalidArgumentError,
    PhoenixClient,
    Post,
    ResourceExhaustedError,
    UpsertResult,
)
from phoenix_retrieval.v1 import corpus_service_pb2 as corpus_pb2


def _post(post_id: int) -> Post:
    return Post(post_id, author_id=7)


def _sizes(server: FakeServer) -> list[int]:
    """Return how many posts the requests had."""
    return [
        len(request.change.post_ids)
        for request in server.requests
        if isinstance(request, corpus_pb2.StreamUpsertPostsRequest)
    ]


def test_every_batch_of_a_stream_is_a_message(server: FakeServer, ask: Ask) -> None:
    server.held = {2: Held(1, 0, ()), 5: Held(1, 0, ())}
    batches = ([_post(1), _post(2)], iter([_post(3)]), [_post(4), _post(5), _post(6)])
    assert ask("stream_upsert_posts", iter(batches)) == UpsertResult(3, inserted=4, replaced=2)
    assert _sizes(server) == [2, 1, 3]
    assert sorted(server.held) == [1, 2, 3, 4, 5, 6]


def test_a_stream_without_batches_changes_nothing(server: FakeServer, ask: Ask) -> None:
    assert ask("stream_upsert_posts", []) == UpsertResult(0, 0, 0)
    assert server.requests == []


def test_a_long_stream_arrives_whole(server: FakeServer, ask: Ask) -> None:
    batches = ([_post(10 * number + i) for i in range(1, 10)] for number in range(500))
    assert ask("stream_upsert_posts", batches, timeout_s=50) == UpsertResult(500, 4500, 0)


@pytest.mark.parametrize("before", [0, 1, 20])
def test_the_first_batch_that_fails_ends_a_stream(
    server: FakeServer, ask: Ask, before: int
) -> None:
    server.failures = [None] * before + [Failure(grpc.StatusCode.INVALID_ARGUMENT, "odd")]
    endless = ([_post(number)] for number in itertools.count(1))
    with pytest.raises(InvalidArgumentError, match="odd"):
        ask("stream_upsert_posts", endless, timeout_s=50)
    assert sorted(server.held) == list(range(1, before + 1))
    assert len(server.requests) == before + 1
    assert next(endless)  # not taken to its end, and not closed


def test_an_exception_of_the_batches_comes_out_of_the_call(server: FakeServer, ask: Ask) -> None:
    class TestError(Exception):
        pass

    def batches() -> Iterator[list[Post]]:
        yield [_post(1)]
        server.called.wait()
        raise TestError

    with pytest.raises(TestError):
        ask("stream_upsert_posts", batches())


def test_a_stream_waits_for_the_server_until_its_time_limit(server: FakeServer, ask: Ask) -> None:
    server.hangs = True
    taken = itertools.count(1)
    large = [Post(post_id, 7, vector=[0.5] * 256) for post_id in range(1, 101)]
    with pytest.raises(DeadlineExceededError):
        ask("stream_upsert_posts", (large for _ in taken), timeout_s=0.5)
    assert next(taken) < 200  # 20 MB: what buffers hold, and not more


def test_a_batch_too_large_ends_a_stream(ask: Ask) -> None:
    ask.client_options = {"max_request_bytes": 100}
    with pytest.raises(ResourceExhaustedError) as caught:
        ask("stream_upsert_posts", [[_post(1)], [_post(i) for i in range(1, 100)], [_post(2)]])
    assert not caught.value.retryable


def test_a_time_limit_of_a_stream_that_is_none_is_refused(ask: Ask) -> None:
    with pytest.raises(ValueError, match="timeout_s: must be above 0 and finite"):
        ask("stream_upsert_posts", [], timeout_s=math.inf)


def test_the_batches_are_iterated_in_the_thread_of_the_call(server: FakeServer) -> None:
    threads: set[int] = set()

    def batches() -> Iterator[list[Post]]:
        for number in range(1, 10):
            threads.add(threading.get_ident())
            yield [_post(number)]

    with PhoenixClient(server.target) as client:
        client.stream_upsert_posts(batches())
    assert threads == {threading.get_ident()}


async def test_the_batches_may_be_an_async_iterable(server: FakeServer) -> None:
    async def batches() -> AsyncIterator[list[Post]]:
        for number in range(1, 4):
            await asyncio.sleep(0)
            yield [_post(number)]

    async with AsyncPhoenixClient(server.target) as client:
        assert await client.stream_upsert_posts(batches()) == UpsertResult(3, 3, 0)


async def test_async_batches_are_cancelled_when_the_call_ends(server: FakeServer) -> None:
    cancelled = asyncio.Event()

    async def batches() -> AsyncIterator[list[Post]]:
        yield [_post(1)]
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with AsyncPhoenixClient(server.target) as client:
        with pytest.raises(DeadlineExceededError):
            await client.stream_upsert_posts(batches(), timeout_s=0.3)
        assert cancelled.is_set()
        server.failures = [Failure(grpc.StatusCode.FAILED_PRECONDITION)]
        with pytest.raises(FailedPreconditionError):
            await client.stream_upsert_posts(batches(), timeout_s=60)


async def test_cancelling_a_task_cancels_its_stream(server: FakeServer) -> None:
    server.hangs = True
    async with AsyncPhoenixClient(server.target) as client:
        task = asyncio.create_task(client.stream_upsert_posts([[_post(1)]], timeout_s=60))
        assert await asyncio.to_thread(server.called.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(server.given_up.wait, 10)


def test_closing_the_client_cancels_its_stream(server: FakeServer) -> None:
    server.hangs = True
    with ThreadPoolExecutor(1) as pool, PhoenixClient(server.target) as client:
        call = pool.submit(client.stream_upsert_posts, [[_post(1)]], timeout_s=60)
        server.called.wait()
        client.close()
        with pytest.raises(CallCancelledError):
            call.result()
