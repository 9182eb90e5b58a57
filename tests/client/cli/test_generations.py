from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from commands import Run
from fake_server.server import FakeServer
from phoenix_client import (
    Generation,
    GenerationState,
)
from phoenix_retrieval.v1 import model_service_pb2 as model_pb2

FIRST = Generation(
    number=1,
    state=GenerationState.ACTIVE,
    generation="towers-1+posts-7",
    bundle="bundles/1",
    corpus="corpus",
    tower_fingerprint="f001",
    corpus_rows=2**40,
    sequence=2**64 - 1,
    previous=False,
    reason="",
)


SECOND = Generation(
    number=2,
    state=GenerationState.READY,
    generation="towers-2+posts-7",
    bundle="allowed/2",
    corpus="corpus",
    tower_fingerprint="f002",
    corpus_rows=2**40 + 2,
    sequence=2**64 - 3,
    previous=False,
    reason="",
)


ACTIVE_SECOND = replace(SECOND, state=GenerationState.ACTIVE)


PREVIOUS_FIRST = replace(FIRST, state=GenerationState.READY, previous=True)


FAILED = model_pb2.Generation(
    number=3,
    state=model_pb2.GENERATION_STATE_FAILED,
    bundle="allowed/\x1b[2J",
    corpus="corpus",
    reason="allowed/3: weights.safetensors:\nhas another sum",
)


LOADING = model_pb2.Generation(
    number=4, state=model_pb2.GENERATION_STATE_LOADING, bundle="allowed/4", corpus="corpus"
)


def test_load_generation_prints_what_was_loaded(server: FakeServer, run: Run) -> None:
    arguments = ("--bundle", "allowed//2", "--corpus", "./no", "--activate")
    assert run("load-generation", *arguments) == (
        1,
        "",
        "phoenix-client: PERMISSION_DENIED: corpus: ./no is not allowed\n",
    )
    assert server.requests == [
        model_pb2.LoadGenerationRequest(bundle="allowed//2", corpus="./no", activate=True)
    ]
    status, out, err = run("load-generation", "--bundle", "allowed/2", "--activate")
    assert (status, err) == (0, "")
    assert [line.split() for line in out.splitlines()] == [
        ["number", "2"],
        ["state", "active"],
        ["generation", "towers-2+posts-7"],
        ["bundle", "allowed/2"],
        ["corpus", "corpus"],
        ["tower", "fingerprint", "f002"],
        ["corpus", "rows", str(2**40 + 2)],
        ["sequence", str(2**64 - 3)],
        ["previous", "no"],
        ["reason", "-"],
    ]


def test_the_commands_print_json(run: Run) -> None:
    def printed(*arguments: str) -> Any:
        status, out, err = run(*arguments, "--json")
        assert (status, err, out.count("\n")) == (0, "", 1)
        return json.loads(out)

    assert printed("load-generation", "--bundle", "allowed/2") == asdict(SECOND)
    assert printed("activate-generation", "2") == asdict(ACTIVE_SECOND)
    listed = {"generations": [asdict(PREVIOUS_FIRST), asdict(ACTIVE_SECOND)]}
    assert printed("generations") == listed
    assert printed("rollback-generation") == asdict(FIRST)


def test_activate_and_rollback_print_what_answers(run: Run) -> None:
    run("load-generation", "--bundle", "allowed/2")
    assert ["number", "2"] in map(str.split, run("activate-generation", "2").out.splitlines())
    assert ["number", "1"] in map(str.split, run("rollback-generation").out.splitlines())


def test_generations_prints_a_table(server: FakeServer, run: Run) -> None:
    run("load-generation", "--bundle", "allowed/2", "--activate")
    server.generations |= {3: FAILED, 4: LOADING}
    status, out, err = run("generations")
    assert (status, err) == (0, "")
    heading, *lines, reason = out.splitlines()
    assert heading.split() == [
        *("number", "state", "previous", "generation", "rows", "sequence"),
        *("bundle", "corpus"),
    ]
    rows = [line.split() for line in lines if line.strip()[:1].isdigit()]
    assert rows == [
        [
            *("1", "ready", "yes", "towers-1+posts-7", f"{2**40:,}", str(2**64 - 1)),
            *("bundles/1", "corpus"),
        ],
        [
            *("2", "active", "no", "towers-2+posts-7", f"{2**40 + 2:,}", str(2**64 - 3)),
            *("allowed/2", "corpus"),
        ],
        ["3", "failed", "no", "-", "-", "-", "allowed/\ufffd[2J", "corpus"],
        ["4", "loading", "no", "-", "-", "-", "allowed/4", "corpus"],
    ]
    assert reason == "generation 3 failed: allowed/3: weights.safetensors:\ufffdhas another sum"


def test_the_commands_that_load_have_a_time_limit_of_their_own(
    server: FakeServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHOENIX_TIMEOUT_S", "0")  # refused by whoever reads it
    assert run("generations").status == 2
    assert run("load-generation", "--bundle", "allowed/2").status == 0
    assert run("activate-generation", "2").status == 0
    assert run("rollback-generation").status == 0
    server.hangs = True
    monkeypatch.setenv("PHOENIX_LOAD_TIMEOUT_S", "0.05")
    status, out, err = run("load-generation", "--bundle", "allowed/2")
    assert (status, out) == (1, "")
    assert err.startswith("phoenix-client: DEADLINE_EXCEEDED: ")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["load-generation"], "bundle: is needed, or corpus"),
        (["load-generation", "--bundle", ""], "bundle: is empty"),
        (
            ["load-generation", "--corpus", "x", "--bundle", "\udc80"],
            "bundle: '\\udc80' is not valid text",
        ),
        (["load-generation", "--bundle", "x", "--timeout-s", "0"], "--timeout-s"),
        (["activate-generation"], "NUMBER"),
        (["activate-generation", "0"], "NUMBER"),
        (["activate-generation", str(2**32)], "NUMBER"),
        (["activate-generation", "x"], "NUMBER"),
        (["rollback-generation", "1"], "1"),
    ],
)
def test_wrong_usage_is_status_2(
    server: FakeServer, run: Run, arguments: list[str], named: str
) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert named in " ".join(err.split())
    assert not server.requests
