from __future__ import annotations

import json
from datetime import datetime, timedelta

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from client.conftest import Ask
from commands import Run
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


NEVER = corpus_pb2.CorpusSnapshot(sequence=1)
FAR = corpus_pb2.CorpusSnapshot(sequence=1, created_at=Timestamp(seconds=2**40))
RIGHT = corpus_pb2.CorpusSnapshot(created_at=BUILT_AT)


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


def test_snapshot_writes_one_and_prints_it(server: FakeServer, run: Run) -> None:
    server.sequence = 2**64 - 2**40 - 1
    server.snapshots[-1].sequence = server.sequence
    server.snapshots[-1].directory = "snapshots/\x1b[2J"
    status, out, err = run("snapshot")
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["sequence", str(server.sequence)],
        ["rows", str(2**33)],
        ["size", "bytes", str(2**40)],
        ["created", "at", "2026-05-01T12:30:00.123+00:00"],
        ["directory", "snapshots/\ufffd[2J"],
    ]


def test_snapshot_prints_json(server: FakeServer, run: Run) -> None:
    server.sequence = 7
    status, out, err = run("snapshot", "--json")
    assert (status, err, out.count("\n")) == (0, "", 1)
    assert json.loads(out) == {
        "sequence": 7,
        "rows": 0,
        "size_bytes": 2**40 + 7,
        "created_at": "2026-05-01T19:30:00.123+00:00",
        "directory": "snapshots/7",
    }


def test_snapshots_prints_a_table(server: FakeServer, run: Run) -> None:
    server.sequence = 7
    run("snapshot")
    status, out, err = run("snapshots")
    assert (status, err) == (0, "")
    heading, *lines = out.splitlines()
    assert heading.split() == ["sequence", "rows", "bytes", "created", "at", "directory"]
    assert [line.split() for line in lines if line.strip()[:1].isdigit()] == [
        ["0", "8,589,934,592", "1,099,511,627,776", "2026-05-01T12:30:00.123+00:00", "-"],
        ["7", "0", "1,099,511,627,783", "2026-05-01T19:30:00.123+00:00", "snapshots/7"],
    ]


def test_snapshots_prints_json(run: Run) -> None:
    status, out, err = run("snapshots", "--json")
    assert (status, err, out.count("\n")) == (0, "", 1)
    (printed,) = json.loads(out)["snapshots"]
    assert (printed["sequence"], printed["rows"], printed["directory"]) == (0, 2**33, "")
    assert datetime.fromisoformat(printed["created_at"]) == BUILT_AT


def test_snapshot_has_a_time_limit_of_its_own(
    server: FakeServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.hangs = True
    monkeypatch.setenv("PHOENIX_SNAPSHOT_TIMEOUT_S", "0.05")
    status, out, err = run("snapshot")
    assert (status, out) == (1, "")
    assert err.startswith("phoenix-client: DEADLINE_EXCEEDED: ")


def test_the_time_limit_of_other_commands_does_not_end_snapshot(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHOENIX_TIMEOUT_S", "0")  # refused by whoever reads it
    assert run("snapshots").status == 2
    assert run("snapshot").status == 0
    assert run("snapshot", "--timeout-s", "0").status == 2
