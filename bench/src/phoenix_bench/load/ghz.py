"""Run ghz and read its reports."""

import json
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np

from phoenix_bench.load.calls import Calls, code

_SPELLED_OTHERWISE = {"CANCELED": grpc.StatusCode.CANCELLED}


class GhzError(Exception):
    """ghz is not installed, or failed."""


class GhzRun(NamedTuple):
    """One run of ghz.

    Attributes:
        calls: Results of the calls. Due times equal sent times, because ghz does not report its
            schedule.
        cpu_share: Processor time of ghz itself, as a share of one core.
    """

    calls: Calls
    cpu_share: float


def find_ghz(build: Path) -> Path:
    """Return the path of ghz: on the PATH, or in `build`/bin.

    Raises:
        GhzError: It is in neither place.
    """
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), str(build / "bin")))
    found = shutil.which("ghz", path=places)
    if found is None:
        raise GhzError("ghz is not installed; `make ghz` installs it, which needs Go")
    return Path(found).absolute()


def run_ghz(ghz: Path, config: Mapping[str, Any], target: str, out: Path) -> GhzRun:
    """Run ghz and return its results.

    Args:
        ghz: Path of the program.
        config: Content of the file for --config.
        target: The server, as host:port.
        out: Path for the full report as JSON; the config is written beside it.

    Raises:
        GhzError: It failed, or made no call.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    given = out.with_suffix(".config.json")
    given.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    out.unlink(missing_ok=True)
    command = [str(ghz), "--config", str(given), "--format", "json", "--output", str(out), target]
    began, before = time.monotonic(), _children_cpu_s()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall_s, cpu_s = time.monotonic() - began, _children_cpu_s() - before
    if done.returncode or not out.exists():
        raise GhzError(f"ghz ended with {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return GhzRun(read_calls(out), cpu_s / wall_s)


def read_calls(report: Path) -> Calls:
    """Read the calls of a JSON report of ghz.

    Raises:
        GhzError: The report holds no calls.
    """
    contents = json.loads(report.read_text(encoding="utf-8"))
    details: list[dict[str, Any]] = contents["details"] or []
    if not details:
        raise GhzError(f"{report}: ghz made no call")
    ended = np.array([datetime.fromisoformat(call["timestamp"]).timestamp() for call in details])
    sent = ended - np.array([call["latency"] for call in details]) * 1e-9
    codes = np.array([_code(call["status"]) for call in details])
    order, start = np.argsort(sent, kind="stable"), sent.min()
    sent = (sent - start)[order]
    return Calls(due_s=sent, sent_s=sent, ended_s=(ended - start)[order], codes=codes[order])


def _code(name: str) -> int:
    """Return the number of a status by its Go name, such as ResourceExhausted."""
    upper = name.upper()
    by_name = {status.name.replace("_", ""): status for status in grpc.StatusCode}
    return code(_SPELLED_OTHERWISE.get(upper) or by_name[upper])


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
