from __future__ import annotations

import json

from commands import Run
from fake_server.server import (
    GENERATION,
    FakeServer,
)
from phoenix_retrieval.v1 import model_service_pb2 as model_pb2


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
        model_pb2.GetServingStatsResponse(
            refused_late=7, device_s=1 / 3, uptime_s=2.0, user_cache_hits=5
        )
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
    assert ["user", "cache", "hits", "5"] in lines
