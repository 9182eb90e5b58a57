from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from google.protobuf import json_format

from commands import Run
from fake_server.server import (
    GENERATION,
    POSTS,
    REPRESENTATION,
    FakeServer,
)
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


def test_a_mistake_in_the_sequence_is_one_line(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "sequence.json"
    file.write_text('{"user_id": 1, "history": [7]}')
    outcome = run("retrieve", "--sequence", file)
    assert outcome == (1, "", f"phoenix-client: {file}: history[0]: must be an object, is 7\n")
