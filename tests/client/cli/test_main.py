from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as details_pb2

from client.servicer import (
    GENERATION,
    POSTS,
    REPRESENTATION,
    Failure,
    FakeServer,
    run_fake_server,
)
from commands import Run
from phoenix_retrieval.v1 import model_service_pb2 as model_pb2
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb2

SEQUENCE = {
    "user_id": 2**64 - 1,
    "history": [{"post_id": 2**63, "author_id": 5, "actions": {"4": 1.0, "1": 0.0}}],
}


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    file = tmp_path / "sequence.json"
    file.write_text(json.dumps(SEQUENCE))
    return file


def _float32(value: float) -> bytes:
    return struct.pack("<f", value)


def test_retrieve_prints_exact_json(server: FakeServer, run: Run, sequence: Path) -> None:
    status, out, err = run("retrieve", "--sequence", sequence, "--top-k", 2, "--json")
    assert (status, err, out.count("\n")) == (0, "", 1)
    printed = json.loads(out)
    scores = [candidate.pop("score") for candidate in printed["candidates"]]
    assert printed == {
        "generation": GENERATION,
        "rows_scanned": 1234,
        "rows_eligible": 3,
        "sequence": 0,
        "candidates": [
            {"post_id": 2**64 - 1, "author_id": 2**53 + 1, "labels": ["football", "news"]},
            {"post_id": 2**63 + 1, "author_id": 2**64 - 3, "labels": []},
        ],
    }
    assert list(map(_float32, scores)) == [_float32(post.score) for post in POSTS[:2]]
    (request,) = server.requests
    assert isinstance(request, retrieval_pb2.RetrieveRequest)
    assert request.user.user_id == 2**64 - 1
    assert request.user.action_masks == [1 << 4]


def test_retrieve_prints_the_representation_when_asked(run: Run, sequence: Path) -> None:
    arguments = ("retrieve", "--sequence", sequence, "--with-representation")
    printed = json.loads(run(*arguments, "--json").out)["user_representation"]
    assert list(map(_float32, printed)) == list(map(_float32, REPRESENTATION))
    assert "user representation: 0.6 0.0 -0.8\n" in run(*arguments).out


def test_retrieve_prints_a_whole_table(
    run: Run, sequence: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    status, out, err = run("retrieve", "--sequence", sequence)
    assert (status, err) == (0, "")
    heading, *lines = out.splitlines()
    assert heading == f"generation {GENERATION}: 1,234 rows scanned, 3 eligible"
    rows = [line.split() for line in lines if line.strip()[:1].isdigit()]
    assert [row[:3] for row in rows] == [
        [str(rank), str(post.post_id), str(post.author_id)]
        for rank, post in enumerate(POSTS, start=1)
    ]
    assert rows[1][3:] == ["-", "0.33333334"]


def test_retrieve_waits_for_a_change_and_says_which_it_saw(
    server: FakeServer, run: Run, sequence: Path
) -> None:
    server.sequence = 2**64 - 1
    arguments = ("retrieve", "--sequence", sequence, "--min-sequence", 2**64 - 1)
    assert json.loads(run(*arguments, "--json").out)["sequence"] == 2**64 - 1
    assert run(*arguments).out.splitlines()[0].endswith(f", sequence {2**64 - 1}")
    for request in server.requests:
        assert isinstance(request, retrieval_pb2.RetrieveRequest)
        assert request.min_sequence == 2**64 - 1


def test_request_prints_what_retrieve_sends(server: FakeServer, run: Run, sequence: Path) -> None:
    printed = run("request", "--sequence", sequence, "--top-k", "3").out
    assert str(2**64 - 1) in printed
    request = json_format.Parse(printed, retrieval_pb2.RetrieveRequest())
    run("retrieve", "--sequence", sequence, "--top-k", "3")
    assert server.requests == [request]


def test_model_prints_json_and_a_table(run: Run) -> None:
    status, out, err = run("model", "--json")
    assert (status, err) == (0, "")
    printed = json.loads(out)
    assert printed["generation"] == GENERATION
    assert printed["devices"] == ["cpu:0", "cpu:1"]
    assert printed["max_excluded"] == 11
    status, out, err = run("model")
    assert (status, err) == (0, "")
    assert ["corpus", "rows", str(2**40)] in [line.split() for line in out.splitlines()]


def test_stats_prints_json_and_a_table(server: FakeServer, run: Run) -> None:
    server.replies = [
        model_pb2.GetServingStatsResponse(refused_late=7, device_s=1 / 3, uptime_s=2.0)
        for _ in range(2)
    ]
    status, out, err = run("stats", "--json")
    assert (status, err, out.count("\n")) == (0, "", 1)
    printed = json.loads(out)
    assert (printed["refused_late"], printed["waiting"], printed["device_s"]) == (7, 0, 1 / 3)
    status, out, err = run("stats")
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["refused", "late", "7"] in lines
    assert ["device", "s", "0.333333"] in lines


def test_a_pipe_gets_whole_lines_and_standard_input_is_read(server: FakeServer) -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "phoenix_client", "retrieve", "--sequence", "-"],
        input=json.dumps(SEQUENCE).encode(),
        env=os.environ | {"PHOENIX_TARGET": server.target, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert (completed.returncode, completed.stderr) == (0, b"")
    for post in POSTS:
        assert f" {post.post_id} ".encode() in completed.stdout


def test_a_process_prints_nothing_but_its_one_line() -> None:
    with run_fake_server() as gone:
        pass
    completed = subprocess.run(
        [sys.executable, "-m", "phoenix_client", "model"],
        env=os.environ | {"PHOENIX_TARGET": gone.target},
        capture_output=True,
    )
    assert (completed.returncode, completed.stdout) == (1, b"")
    assert completed.stderr.startswith(b"phoenix-client: UNAVAILABLE: ")
    assert completed.stderr.count(b"\n") == 1


VIOLATION = details_pb2.BadRequest.FieldViolation(field="top_k", description="is\nabove 100")


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (
            Failure(
                grpc.StatusCode.INVALID_ARGUMENT,
                "the request is invalid",
                [details_pb2.BadRequest(field_violations=[VIOLATION])],
            ),
            "INVALID_ARGUMENT: the request is invalid: top_k: is above 100",
        ),
        (
            Failure(
                grpc.StatusCode.INVALID_ARGUMENT,
                "top_k: is\nabove 100",
                [details_pb2.BadRequest(field_violations=[VIOLATION])],
            ),
            "INVALID_ARGUMENT: top_k: is above 100",
        ),
        (
            Failure(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                "the queue is full",
                [details_pb2.RetryInfo(retry_delay=Duration(nanos=500_000_000))],
            ),
            "RESOURCE_EXHAUSTED: the queue is full: retry after 0.5 s",
        ),
        (Failure(grpc.StatusCode.INTERNAL, ""), "INTERNAL"),
    ],
)
def test_a_failed_call_is_one_line(
    server: FakeServer, run: Run, sequence: Path, failure: Failure, expected: str
) -> None:
    server.failures = [failure]
    outcome = run("retrieve", "--sequence", sequence)
    assert outcome == (1, "", f"phoenix-client: {expected}\n")


def test_a_time_limit_is_one_line(server: FakeServer, run: Run) -> None:
    server.hangs = True
    status, out, err = run("model", "--timeout-s", 0.05)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("phoenix-client: DEADLINE_EXCEEDED: ")


def test_a_server_that_is_not_there_is_one_line(run: Run) -> None:
    with run_fake_server() as gone:
        pass
    status, out, err = run("model", "--target", gone.target)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("phoenix-client: UNAVAILABLE: ")


def test_a_mistake_in_the_sequence_is_one_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "sequence.json"
    file.write_text('{"user_id": 1, "history": [7]}')
    outcome = run("retrieve", "--sequence", file)
    assert outcome == (1, "", f"phoenix-client: {file}: history[0]: must be an object, is 7\n")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["retrieve"], "--sequence"),
        (["retrieve", "--sequence", "x", "--top-k", "0"], "--top-k"),
        (["retrieve", "--sequence", "x", "--top-k", str(2**32)], "--top-k"),
        (["retrieve", "--sequence", "x", "--min-sequence", "-1"], "--min-sequence"),
        (["retrieve", "--sequence", "x", "--min-sequence", str(2**64)], "--min-sequence"),
        (["model", "--timeout-s", "0"], "--timeout-s"),
        (["model", "--timeout-s", "nan"], "--timeout-s"),
        (["model", "--ca-file", "none.pem"], "--ca-file"),
        (["train"], "train"),
    ],
)
def test_wrong_usage_is_status_2(run: Run, arguments: list[str], named: str) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert named in err


def test_a_file_without_certificates_is_status_2(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text("-----BEGIN PRIVATE KEY-----\n")
    status, out, err = run("model", "--ca-file", file)
    assert (status, out) == (2, "")
    assert "--ca-file" in err and "holds no certificate in PEM" in " ".join(err.split())


def test_a_certificate_file_encrypts(run: Run, tls_files: tuple[Path, Path]) -> None:
    key, certificate = tls_files
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    with run_fake_server(credentials) as server:
        arguments = ("model", "--json", "--target", server.target)
        assert run(*arguments, "--ca-file", certificate).status == 0
        status, out, err = run(*arguments, "--tls")
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("phoenix-client: UNAVAILABLE: ")
