"""Runs ghz and reads what it found."""

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
    """ghz is not there, or did not run."""


class GhzRun(NamedTuple):
    """One run of ghz.

    Attributes:
        calls: What became of its calls. They were due when they were sent: ghz does not say when
            its schedule wanted them.
        cpu_share: Processor time that ghz itself took, of one core.
    """

    calls: Calls
    cpu_share: float


def find_ghz(build: Path) -> Path:
    """Return where ghz is: on the path, or below `build`/bin.

    Raises:
        GhzError: It is in neither.
    """
    places = os.pathsep.join((os.environ.get("PATH", os.defpath), str(build / "bin")))
    found = shutil.which("ghz", path=places)
    if found is None:
        raise GhzError("there is no ghz; `make ghz` installs it, and needs Go")
    return Path(found).absolute()


def run_ghz(ghz: Path, config: Mapping[str, Any], target: str, out: Path) -> GhzRun:
    """Run ghz and return what it found.

    Args:
        ghz: The program.
        config: What it reads with --config.
        target: The server, as host:port.
        out: Where its whole report goes, as JSON; the config goes beside it.

    Raises:
        GhzError: It did not end well, or made no call.
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
    """Read the calls of a report that ghz wrote as JSON.

    Raises:
        GhzError: It holds none.
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
    """Return the number of a status as Go names it: ResourceExhausted."""
    upper = name.upper()
    by_name = {status.name.replace("_", ""): status for status in grpc.StatusCode}
    return code(_SPELLED_OTHERWISE.get(upper) or by_name[upper])


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
