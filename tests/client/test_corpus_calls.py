from __future__ import annotations

import asyncio
import itertools
import math
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from client.conftest import Ask
from fake_server.corpus import BUILT_AT, CAPACITY, MAX_LABELS, Held
from fake_server.server import Failure, FakeServer
from phoenix_client import (
    AsyncPhoenixClient,
    CallCancelledError,
    CorpusState,
    DeadlineExceededError,
    DeleteResult,
    FailedPreconditionError,
    InvalidArgumentError,
    MalformedReplyError,
    PhoenixClient,
    Post,
    ResourceExhaustedError,
    Snapshot,
    UpsertResult,
)
from phoenix_retrieval.v1 import corpus_service_pb2 as corpus_pb2

AS_BUILT = Snapshot(sequence=0, rows=2**33, size_bytes=2**40, created_at=BUILT_AT, directory="")


AFTER_ONE = Snapshot(
    sequence=1,
    rows=2,
    size_bytes=2**40 + 1,
    created_at=BUILT_AT + timedelta(hours=1),
    directory="snapshots/1",
)


NEVER = corpus_pb2.CorpusSnapshot(sequence=1)


FAR = corpus_pb2.CorpusSnapshot(sequence=1, created_at=Timestamp(seconds=2**40))


RIGHT = corpus_pb2.CorpusSnapshot(created_at=BUILT_AT)


MOMENT = datetime(2026, 5, 1, 12, 30, 0, 123_000, UTC)


MOMENT_MS = 1_777_638_600_123


BIG, BIGGER = 2**63 + 1, 2**64 - 1  # no double and no signed integer holds them


def _post(post_id: int) -> Post:
    return Post(post_id, author_id=7)


def _sizes(server: FakeServer) -> list[int]:
    """Return how many posts the requests had."""
    return [
        len(request.change.post_ids)
        for request in server.requests
        if isinstance(request, corpus_pb2.StreamUpsertPostsRequest)
    ]


def test_upsert_posts_sends_columns_and_says_what_it_did(server: FakeServer, ask: Ask) -> None:
    server.held = {BIG: Held(9, 0, ())}
    server.sequence = 41
    posts = (
        Post(BIGGER, 2**53 + 1, MOMENT, ["news", "football"], (0.6, 0.8)),
        Post(BIG, 17, None, [], (0.0, -1.0)),
        Post(3, 18, MOMENT.astimezone(timezone(timedelta(hours=9))), ("football",), (1.0, 0.0)),
    )
    assert ask("upsert_posts", iter(posts)) == UpsertResult(sequence=42, inserted=2, replaced=1)
    assert server.requests == [
        corpus_pb2.UpsertPostsRequest(
            post_ids=[BIGGER, BIG, 3],
            author_ids=[2**53 + 1, 17, 18],
            created_at_unix_ms=[MOMENT_MS, 0, MOMENT_MS],
            label_names=["news", "football"],
            label_counts=[2, 0, 1],
            label_indices=[0, 1, 1],
            vectors=[0.6, 0.8, 0.0, -1.0, 1.0, 0.0],
        )
    ]


def test_what_was_written_can_be_looked_up(ask: Ask) -> None:
    posts = [
        Post(BIGGER, 2**53 + 1, MOMENT, ("news", "a")),
        Post(BIG, 5),
        Post(3, 4, labels=("a",)),
    ]
    ask("upsert_posts", posts)
    found = ask("get_posts", [3, 8, BIGGER, 2**53])
    assert list(found.posts) == [posts[2], posts[0]]
    assert found.posts[1].created_at == MOMENT
    assert list(found.posts[1:]) == [posts[0]]
    assert (found.sequence, found.missing_post_ids) == (1, (8, 2**53))
    ask("upsert_posts", found.posts)
    assert ask("get_posts", [3, BIGGER]).posts == found.posts


def test_delete_posts_counts_those_that_were_there(server: FakeServer, ask: Ask) -> None:
    ask("upsert_posts", [_post(BIGGER), _post(2)])
    assert ask("delete_posts", iter([BIGGER, 9])) == DeleteResult(sequence=2, deleted=1)
    assert server.requests[-1] == corpus_pb2.DeletePostsRequest(post_ids=[BIGGER, 9])
    assert list(server.held) == [2]


def test_get_corpus_describes_it(server: FakeServer, ask: Ask) -> None:
    state = CorpusState(
        rows=0,
        capacity=CAPACITY,
        label_names=(),
        max_labels=MAX_LABELS,
        sequence=0,
        snapshot_sequence=0,
        journal_posts=0,
        newest_created_at=None,
        read_only=False,
        evict_oldest=False,
    )
    assert ask("get_corpus") == state
    ask("upsert_posts", [Post(1, 2, MOMENT, ["b", "a"])])
    server.read_only = True
    changed = ask("get_corpus")
    assert (changed.rows, changed.sequence, changed.journal_posts) == (1, 1, 1)
    assert (changed.label_names, changed.newest_created_at) == (("a", "b"), MOMENT)
    assert (changed.read_only, changed.evict_oldest) == (True, False)
    server.evicted = 1
    assert ask("get_corpus").evict_oldest is True


def test_get_corpus_has_every_field_of_the_reply(server: FakeServer, ask: Ask) -> None:
    fields = corpus_pb2.GetCorpusResponse.DESCRIPTOR.fields
    reply = corpus_pb2.GetCorpusResponse(label_names=["a"], read_only=True, evict_oldest=True)
    for number, field in enumerate(fields, start=1):
        if field.name not in ("label_names", "read_only", "evict_oldest"):
            setattr(reply, field.name, number * 1000)
    server.replies = [reply]
    state = ask("get_corpus")
    for field in fields:
        if field.name == "newest_created_at_unix_ms":
            seconds = reply.newest_created_at_unix_ms / 1000
            assert state.newest_created_at == datetime.fromtimestamp(seconds, UTC)
        elif field.name == "label_names":
            assert state.label_names == ("a",)
        else:
            assert getattr(state, field.name) == getattr(reply, field.name)


def test_a_reply_about_other_posts_is_refused(server: FakeServer, ask: Ask) -> None:
    server.replies = [corpus_pb2.GetPostsResponse(missing_post_ids=[1])]
    with pytest.raises(MalformedReplyError, match="0 entries and missing_post_ids 1, not 2"):
        ask("get_posts", [1, 2])


def test_a_read_only_server_refuses_changes(server: FakeServer, ask: Ask) -> None:
    calls = (("upsert_posts", [_post(1)]), ("stream_upsert_posts", [[_post(1)]]))
    for method, argument in (*calls, ("delete_posts", [1])):
        server.failures = [Failure(grpc.StatusCode.FAILED_PRECONDITION, "read-only")]
        with pytest.raises(FailedPreconditionError, match="read-only") as caught:
            ask(method, argument)
        assert not caught.value.retryable


def test_posts_that_cannot_be_sent_are_refused_before_the_call(
    server: FakeServer, ask: Ask
) -> None:
    mixed = [Post(1, 2, vector=[1.0]), Post(3, 4)]
    for method, argument in (("upsert_posts", mixed), ("stream_upsert_posts", [mixed])):
        with pytest.raises(ValueError, match=r"posts\[1\]\.vector: all posts have vectors or none"):
            ask(method, argument)
    for method in ("delete_posts", "get_posts"):
        with pytest.raises(ValueError, match="post_ids: must be integers"):
            ask(method, [2**64])
    assert server.requests == []


def test_every_batch_of_a_stream_is_a_message(server: FakeServer, ask: Ask) -> None:
    server.held = {2: Held(1, 0, ()), 5: Held(1, 0, ())}
    batches = ([_post(1), _post(2)], iter([_post(3)]), [_post(4), _post(5), _post(6)])
    assert ask("stream_upsert_posts", iter(batches)) == UpsertResult(3, inserted=4, replaced=2)
    assert _sizes(server) == [2, 1, 3]
    assert sorted(server.held) == [1, 2, 3, 4, 5, 6]


def test_what_was_evicted_is_counted(server: FakeServer, ask: Ask) -> None:
    server.evicted = 3
    assert ask("upsert_posts", [_post(1)]) == UpsertResult(1, inserted=1, replaced=0, evicted=3)
    batches = [[_post(2)], [_post(1), _post(3)]]
    assert ask("stream_upsert_posts", batches) == UpsertResult(3, inserted=2, replaced=1, evicted=6)


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


def test_create_snapshot_describes_what_was_written(server: FakeServer, ask: Ask) -> None:
    ask("upsert_posts", [Post(1, 2), Post(3, 4)])
    assert ask("create_snapshot") == AFTER_ONE
    assert server.requests[-1] == corpus_pb2.CreateSnapshotRequest()


def test_create_snapshot_returns_the_last_one_if_nothing_has_changed(ask: Ask) -> None:
    assert ask("create_snapshot") == AS_BUILT
    assert ask("list_snapshots") == (AS_BUILT,)


def test_list_snapshots_begins_with_the_oldest(server: FakeServer, ask: Ask) -> None:
    ask("upsert_posts", [Post(1, 2), Post(3, 4)])
    ask("create_snapshot")
    assert ask("list_snapshots") == (AS_BUILT, AFTER_ONE)
    assert server.requests[-1] == corpus_pb2.ListSnapshotsRequest()


def test_the_time_of_a_snapshot_has_a_zone(ask: Ask) -> None:
    assert ask("create_snapshot").created_at.utcoffset() == timedelta()


def test_a_read_only_server_writes_no_snapshot(server: FakeServer, ask: Ask) -> None:
    server.failures = [Failure(grpc.StatusCode.FAILED_PRECONDITION, "read-only")]
    with pytest.raises(FailedPreconditionError, match="read-only"):
        ask("create_snapshot")


@pytest.mark.parametrize(
    ("method", "reply", "message"),
    [
        (
            "create_snapshot",
            corpus_pb2.CreateSnapshotResponse(),
            r"^snapshot\.created_at: is missing",
        ),
        (
            "create_snapshot",
            corpus_pb2.CreateSnapshotResponse(snapshot=FAR),
            r"^snapshot\.created_at: ",
        ),
        (
            "list_snapshots",
            corpus_pb2.ListSnapshotsResponse(snapshots=[RIGHT, NEVER]),
            r"^snapshots\[1\]\.created_at: is missing",
        ),
        (
            "list_snapshots",
            corpus_pb2.ListSnapshotsResponse(snapshots=[FAR]),
            r"^snapshots\[0\]\.created_at: ",
        ),
    ],
)
def test_a_snapshot_of_no_time_is_refused(
    server: FakeServer, ask: Ask, method: str, reply: Message, message: str
) -> None:
    server.replies = [reply]
    with pytest.raises(MalformedReplyError, match=message):
        ask(method)
