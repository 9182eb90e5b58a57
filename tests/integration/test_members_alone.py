"""Each member installs alone, with its own dependencies only, and works."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from commands import run_command
from integration.conftest import COMPILED_FOR
from servers import spawn_server

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "published_layout"


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """Return the `bin` folder of an empty virtual environment."""
    run(uv(), "venv", "--quiet", "--python", sys.executable, str(tmp_path / "venv"))
    return tmp_path / "venv" / "bin"


def test_the_contract_alone(environment: Path) -> None:
    install(environment, "proto", absent=["numpy", "jax"])
    module = "phoenix_retrieval.v1.retrieval_service_pb2_grpc"
    run(str(environment / "python"), "-c", f"import {module}")


def test_the_model_alone(environment: Path) -> None:
    install(environment, "phoenix", absent=["grpcio", "tensorflow", "tensorflow-cpu"])
    run(str(environment / "python"), "-c", "import phoenix_model")


def test_the_export_alone_writes_a_bundle(environment: Path, tmp_path: Path) -> None:
    absent = ["grpcio-health-checking", "pyarrow", "tensorflow", "tensorflow-cpu"]
    install(environment, "export", "phoenix", "proto", absent=absent)
    command = [str(environment / "phoenix-export"), "bundle", str(GOLDEN), "--out", "bundle"]
    run(*command, "--no-saved-model", folder=tmp_path)
    assert (tmp_path / "bundle" / "manifest.json").exists()


def test_the_server_alone_serves(
    environment: Path, compiled_bundle: Path, golden_corpus: Path, tmp_path: Path
) -> None:
    absent = ["dm-haiku", "phoenix-model", "tensorflow", "tensorflow-cpu"]
    install(environment, "server", "proto", absent=absent)
    with spawn_server(
        *("--bundle", compiled_bundle, "--corpus", golden_corpus, *COMPILED_FOR),
        program=[environment / "phoenix-server"],
        env=clean_environment(),
        folder=tmp_path,
    ) as server:
        server.await_ready()
        assert server.end() == 0, server.log()


def test_the_client_alone_writes_requests(environment: Path) -> None:
    install(environment, "client", "proto", absent=["jax", "jaxlib", "numpy", "pyarrow"])
    sequence = str(GOLDEN / "example_sequence.json")
    printed = run(str(environment / "phoenix-client"), "request", "--sequence", sequence)
    assert "2023071280809351541" in printed


def test_the_judge_alone_says_what_it_does(environment: Path) -> None:
    absent = ["dm-haiku", "phoenix-model", "tensorflow", "tensorflow-cpu", "faiss-cpu"]
    install(environment, "judge", "client", "server", "proto", absent=absent)
    printed = run(str(environment / "phoenix-judge"), "--help")
    assert "export" in printed and "grade" in printed


def install(environment: Path, *members: str, absent: Iterable[str]) -> None:
    """Install members, and check that some packages are absent."""
    python = ["--python", str(environment / "python")]
    constraints = ["-c", str(ROOT / "constraints.txt")]
    folders = [str(ROOT / member) for member in members]
    run(uv(), "pip", "install", "--quiet", *python, *constraints, *folders)
    listed = run(uv(), "pip", "freeze", *python)
    installed = {line.split("==")[0].split(" @ ")[0] for line in listed.splitlines()}
    assert len(installed) > len(members)
    assert not installed & set(absent)


def run(*command: str, folder: Path = ROOT.parent) -> str:
    return run_command(*command, env=clean_environment(), folder=folder).checked().out


def clean_environment() -> dict[str, str]:
    """Return this process's environment without the variables that lead to its packages."""
    leads = ("PYTHONPATH", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in leads}


def uv() -> str:
    return str(Path(sys.executable).with_name("uv"))
