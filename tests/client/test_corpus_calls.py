from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import grpc
import pytest

from client.conftest import Ask
from fake_server.corpus import CAPACITY, MAX_LABELS, Held
from fake_server.server import Failure, FakeServer
from phoenix_client import (
    CorpusState,
    DeleteResult,
    FailedPreconditionError,
    MalformedReplyError,
    Post,
    UpsertResult,
)
from phoenix_retrieval.v1 import corpus_service_pb2 as corpus_pb2

MOMENT = datetime(2026, 5, 1, 12, 30, 0, 123_000, UTC)
MOMENT_MS = 1_777_638_600_123
BIG, BIGGER = 2**63 + 1, 2**64 - 1  # no double and no signed integer holds them


def _post(post_id: int) -> Post:
    return Post(post_id, author_id=7)


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


def test_what_was_evicted_is_counted(server: FakeServer, ask: Ask) -> None:
    server.evicted = 3
    assert ask("upsert_posts", [_post(1)]) == UpsertResult(1, inserted=1, replaced=0, evicted=3)
    batches = [[_post(2)], [_post(1), _post(3)]]
    assert ask("stream_upsert_posts", batches) == UpsertResult(3, inserted=2, replaced=1, evicted=6)
