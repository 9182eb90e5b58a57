from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import grpc
import pytest

from commands import Outcome, Run, run_module
from fake_server.corpus import BUILT_AT, CAPACITY, Held
from fake_server.server import Failure, FakeServer
from phoenix_retrieval.v1 import corpus_service_pb2 as corpus_pb2

BIG, BIGGER = 2**63 + 1, 2**64 - 1


def _lines(*posts: Mapping[str, object]) -> str:
    return "".join(f"{json.dumps({'author_id': 7, **post})}\n" for post in posts)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "posts.jsonl"
    file.write_text(_lines(*({"post_id": post_id} for post_id in range(1, 8))))
    return file


def _batches(server: FakeServer) -> list[list[int]]:
    return [
        list(request.change.post_ids)
        for request in server.requests
        if isinstance(request, corpus_pb2.StreamUpsertPostsRequest)
    ]


def test_upsert_writes_in_batches_and_prints_counts(
    server: FakeServer, run: Run, file: Path
) -> None:
    server.held = {3: Held(1, 0, ())}
    assert run("upsert", file, "--batch", 3) == (0, "sequence 3: 6 inserted, 1 replaced\n", "")
    assert _batches(server) == [[1, 2, 3], [4, 5, 6], [7]]


def test_upsert_prints_json(server: FakeServer, run: Run, file: Path) -> None:
    server.sequence = BIGGER - 1
    status, out, err = run("upsert", file, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out) == {"sequence": BIGGER, "inserted": 7, "replaced": 0, "evicted": 0}


def test_upsert_prints_how_many_were_evicted(server: FakeServer, run: Run, file: Path) -> None:
    server.evicted = 1000
    out = run("upsert", file, "--batch", 3).out
    assert out == "sequence 3: 7 inserted, 0 replaced, 3,000 evicted\n"


def test_upsert_sends_all_that_a_line_says(server: FakeServer, run: Run, file: Path) -> None:
    file.write_text(
        _lines(
            {
                "post_id": BIGGER,
                "author_id": 2**53 + 1,
                "created_at": "2026-05-01T12:30:00.123+00:00",
                "labels": ["news", "a"],
                "vector": [0.6, 0.8],
            },
            {"post_id": BIG, "labels": ["a"], "vector": [1, 0]},
        )
    )
    assert run("upsert", file).status == 0
    change = corpus_pb2.UpsertPostsRequest(
        post_ids=[BIGGER, BIG],
        author_ids=[2**53 + 1, 7],
        created_at_unix_ms=[1_777_638_600_123, 0],
        label_names=["news", "a"],
        label_counts=[2, 1],
        label_indices=[0, 1, 1],
        vectors=[0.6, 0.8, 1.0, 0.0],
    )
    assert server.requests == [corpus_pb2.StreamUpsertPostsRequest(change=change)]


def test_upsert_writes_a_post_that_comes_again_in_a_batch_of_its_own(
    server: FakeServer, run: Run, file: Path
) -> None:
    rows = [(1, "a"), (2, "a"), (1, "b"), (3, "b"), (1, "c")]
    file.write_text(_lines(*({"post_id": post_id, "labels": [name]} for post_id, name in rows)))
    assert run("upsert", file).out == "sequence 3: 3 inserted, 2 replaced\n"
    assert _batches(server) == [[1, 2], [1, 3], [1]]
    assert server.held[1].labels == ("c",)


def test_upsert_of_an_empty_file_changes_nothing(server: FakeServer, run: Run, file: Path) -> None:
    file.write_text("")
    assert run("upsert", file) == (0, "sequence 0: 0 inserted, 0 replaced\n", "")
    assert server.sequence == 0


def test_upsert_names_the_line_and_the_field_of_a_mistake(run: Run, file: Path) -> None:
    with file.open("a") as lines:
        lines.write(_lines({"post_id": 9, "created_at": "2026-05-01T12:30:00"}))
    status, out, err = run("upsert", file)
    assert (status, out) == (1, "")
    problem = "line 8: created_at: must have a time zone, is 2026-05-01T12:30:00"
    assert err == f"phoenix-client: {file}: {problem}\n"


def test_upsert_of_a_file_that_is_not_there_is_one_line(run: Run) -> None:
    outcome = run("upsert", "none.jsonl")
    assert outcome == (1, "", "phoenix-client: none.jsonl: No such file or directory\n")


@pytest.mark.parametrize("arguments", [["upsert", "-"], ["delete", "1"]])
def test_a_read_only_server_is_one_line(server: FakeServer, arguments: list[str]) -> None:
    server.failures = [Failure(grpc.StatusCode.FAILED_PRECONDITION, "the corpus is read-only")]
    problem = "FAILED_PRECONDITION: the corpus is read-only"
    outcome = _run(server, *arguments, text=_lines({"post_id": 1}))
    assert outcome == (1, "", f"phoenix-client: {problem}\n")


def test_upsert_reads_standard_input(server: FakeServer) -> None:
    outcome = _run(server, "upsert", "-", text=_lines({"post_id": BIGGER}, {"post_id": 2}))
    assert outcome == (0, "sequence 1: 2 inserted, 0 replaced\n", "")
    assert sorted(server.held) == [2, BIGGER]


def test_a_mistake_in_standard_input_is_one_line(server: FakeServer) -> None:
    outcome = _run(server, "upsert", "-", text=_lines({"post_id": 1}, {}))
    problem = "standard input: line 2: post_id: is missing"
    assert outcome == (1, "", f"phoenix-client: {problem}\n")


def test_a_failure_ends_upsert_while_its_standard_input_stays_open(server: FakeServer) -> None:
    server.failures = [Failure(grpc.StatusCode.FAILED_PRECONDITION, "read-only")]
    process = subprocess.Popen(
        [sys.executable, "-m", "phoenix_client", "upsert", "-", "--batch", "1"],
        env=os.environ | {"PHOENIX_TARGET": server.target},
        bufsize=0,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin and process.stderr
    with process.stdin, process.stderr:
        try:
            for post_id in count(1):  # it blocks while the pipe is full
                process.stdin.write(_lines({"post_id": post_id}).encode())
        except BrokenPipeError:
            assert process.wait() == 1
        finally:
            process.kill()
            process.wait()
        assert process.stderr.read() == b"phoenix-client: FAILED_PRECONDITION: read-only\n"


def test_delete_prints_what_it_did(server: FakeServer, run: Run) -> None:
    server.held = {BIGGER: Held(1, 0, ()), 2: Held(1, 0, ())}
    assert run("delete", BIGGER, 9, 9) == (0, "sequence 1: 1 deleted\n", "")
    assert server.requests == [corpus_pb2.DeletePostsRequest(post_ids=[BIGGER, 9])]
    assert json.loads(run("delete", 2, "--json").out) == {"sequence": 2, "deleted": 1}


def test_get_posts_prints_a_table_and_what_is_missing(server: FakeServer, run: Run) -> None:
    yesterday_ms = int((datetime.now(UTC) - timedelta(hours=25)).timestamp() * 1000)
    server.held = {BIGGER: Held(2**53 + 1, yesterday_ms, ("a", "\x1b[2J")), BIG: Held(5, 0, ())}
    status, out, err = run("get-posts", BIG, 8, BIGGER, 9)
    assert (status, err) == (0, "")
    heading, *lines, missing = out.splitlines()
    assert (heading, missing) == ("sequence 0: 2 found", "missing: 8 9")
    rows = [line.split() for line in lines if line.strip()[:1].isdigit()]
    assert rows == [
        [str(BIG), "5", "-"],
        [str(BIGGER), str(2**53 + 1), "1d", "a,", "\ufffd[2J"],
    ]


def test_what_get_posts_prints_as_json_can_be_written_again(
    server: FakeServer, run: Run, file: Path
) -> None:
    server.held = {BIGGER: Held(2**53 + 1, 1_777_638_600_123, ("a", "b")), BIG: Held(5, 0, ())}
    before = dict(server.held)
    status, out, err = run("get-posts", BIG, 8, BIGGER, "--json")
    assert (status, err, out.count("\n")) == (0, "", 1)
    printed = json.loads(out)
    assert printed["posts"][1] == {
        "post_id": BIGGER,
        "author_id": 2**53 + 1,
        "created_at": "2026-05-01T12:30:00.123+00:00",
        "labels": ["a", "b"],
    }
    assert (printed["sequence"], printed["missing_post_ids"]) == (0, [8])
    file.write_text(_lines(*printed["posts"]))
    assert run("upsert", file).out == "sequence 1: 0 inserted, 2 replaced\n"
    assert server.held == before


def test_corpus_prints_json_and_a_table(server: FakeServer, run: Run) -> None:
    server.held = {1: Held(2, 1_777_638_600_123, ("b", "a"))}
    server.read_only = True
    status, out, err = run("corpus", "--json")
    assert (status, err, out.count("\n")) == (0, "", 1)
    printed = json.loads(out)
    assert (printed["rows"], printed["capacity"], printed["read_only"]) == (1, CAPACITY, True)
    assert printed["newest_created_at"] == "2026-05-01T12:30:00.123+00:00"
    status, out, err = run("corpus")
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["capacity", str(CAPACITY)] in lines
    assert ["label", "names", "a,", "b"] in lines
    assert ["newest", "created", "at", "2026-05-01T12:30:00.123+00:00"] in lines
    assert ["read", "only", "yes"] in lines


def test_a_corpus_without_times_prints_a_dash(run: Run) -> None:
    assert json.loads(run("corpus", "--json").out)["newest_created_at"] is None
    assert ["newest", "created", "at", "-"] in map(str.split, run("corpus").out.splitlines())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["upsert"], "FILE"),
        (["upsert", "x", "--batch", "0"], "--batch"),
        (["upsert", "x", "--timeout-s", "inf"], "--timeout-s"),
        (["delete"], "POST_ID"),
        (["delete", "0"], "POST_ID"),
        (["delete", str(2**64)], "POST_ID"),
        (["delete", "x"], "POST_ID"),
        (["get-posts"], "POST_ID"),
        (["get-posts", "1", "0"], "POST_ID"),
    ],
)
def test_wrong_usage_is_status_2(run: Run, arguments: list[str], named: str) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert named in err


def _run(server: FakeServer, *arguments: str, text: str) -> Outcome:
    env = {"PHOENIX_TARGET": server.target}
    return run_module("phoenix_client", *arguments, input=text, env=env)


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
