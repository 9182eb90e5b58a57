"""Each member installs alone, with its own dependencies and no more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

ALONE = {
    "proto": ("phoenix_retrieval.v1.retrieval_service_pb2_grpc", {"numpy", "jax"}),
    "phoenix": ("phoenix_model", {"grpcio", "tensorflow-cpu", "tensorflow"}),
    "export": ("phoenix_export.__main__", {"grpcio-health-checking", "tensorflow-cpu", "pyarrow"}),
    "server": ("phoenix_server.__main__", {"dm-haiku", "tensorflow-cpu", "tensorflow"}),
    "client": ("phoenix_client.__main__", {"numpy", "jax", "jaxlib", "pyarrow"}),
}
NEEDS = {
    "proto": [],
    "phoenix": [],
    "export": ["proto", "phoenix"],
    "server": ["proto"],
    "client": ["proto"],
}


@pytest.mark.parametrize("member", ALONE)
def test_a_member_installs_alone_and_imports(member: str, tmp_path: Path) -> None:
    module, absent = ALONE[member]
    environment = tmp_path / "venv"
    python = environment / "bin" / "python"
    uv = str(Path(sys.executable).with_name("uv"))
    run(uv, "venv", "--quiet", "--python", sys.executable, str(environment))
    folders = [str(ROOT / name) for name in (member, *NEEDS[member])]
    constraints = str(ROOT / "constraints.txt")
    run(uv, "pip", "install", "--quiet", "--python", str(python), "-c", constraints, *folders)
    listed = run(uv, "pip", "freeze", "--python", str(python))
    installed = {line.split("==")[0].split(" @ ")[0] for line in listed.splitlines()}
    assert f"phoenix-{ {'phoenix': 'model'}.get(member, member) }" in installed
    assert not installed & absent
    run(str(python), "-c", f"import {module}")


def run(*command: str) -> str:
    # Without this process's paths, or the workspace's own packages would be found.
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=clean, cwd=ROOT.parent
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
