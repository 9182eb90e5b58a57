from __future__ import annotations

from datetime import timedelta

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from client.conftest import Ask
from fake_server.corpus import BUILT_AT
from fake_server.server import Failure, FakeServer
from phoenix_client import (
    FailedPreconditionError,
    MalformedReplyError,
    Post,
    Snapshot,
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
