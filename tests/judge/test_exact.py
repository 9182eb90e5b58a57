from __future__ import annotations

from pathlib import Path

from commands import Run
from fake_server.server import GENERATION, FakeServer
from judge.index_cases import (
    Make,
    assert_fails,
)
from phoenix_retrieval.v1 import model_service_pb2 as model_pb2


def test_a_server_that_changes_meanwhile_is_noticed(
    server: FakeServer, run: Run, make: Make, users: Path
) -> None:
    other = model_pb2.GetModelResponse(generation="another")
    other.bundle.tower_fingerprint = "f00d"
    server.replies = [other]
    outcome = run("grade", make(), users)
    assert_fails(outcome, f"generation: is {GENERATION}, was another before; grade again")
