from __future__ import annotations

import json
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as details_pb2

from commands import Run, run_module
from fake_server.server import (
    POSTS,
    Failure,
    FakeServer,
    run_fake_server,
)

SEQUENCE = {
    "user_id": 2**64 - 1,
    "history": [{"post_id": 2**63, "author_id": 5, "actions": {"4": 1.0, "1": 0.0}}],
}


@pytest.fixture
def sequence(tmp_path: Path) -> Path:
    file = tmp_path / "sequence.json"
    file.write_text(json.dumps(SEQUENCE))
    return file


def test_a_pipe_gets_whole_lines_and_standard_input_is_read(server: FakeServer) -> None:
    status, out, err = run_module(
        *("phoenix_client", "retrieve", "--sequence", "-"),
        input=json.dumps(SEQUENCE),
        env={"PHOENIX_TARGET": server.target, "PYTHONIOENCODING": "ascii"},
    )
    assert (status, err) == (0, "")
    for post in POSTS:
        assert f" {post.post_id} " in out


def test_a_process_prints_nothing_but_its_one_line() -> None:
    with run_fake_server() as gone:
        pass
    status, out, err = run_module("phoenix_client", "model", env={"PHOENIX_TARGET": gone.target})
    assert (status, out) == (1, "")
    assert err.startswith("phoenix-client: UNAVAILABLE: ")
    assert err.count("\n") == 1


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
