"""Describe the machine of a measurement and the versions of the software."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import jax
import psutil

from phoenix_bench.results import Limit, Report, Row, Timeline

_LIBRARIES = (
    *("jax", "jaxlib", "dm-haiku", "numpy", "pyarrow", "grpcio"),
    *("faiss-cpu", "usearch", "scann", "scalable-vs"),
)


def report(
    rows: Sequence[Row],
    *,
    limits: Sequence[Limit] = (),
    notes: Sequence[str] = (),
    timeline: Timeline | None = None,
) -> Report:
    """Return a report of rows that were measured on this machine in this run."""
    return Report(
        machine=describe_machine(),
        versions=find_versions(),
        limits=limits,
        rows=rows,
        notes=notes,
        timeline=timeline,
    )


def describe_machine() -> dict[str, str]:
    """Return a description of this machine, by topic."""
    one, five, _ = os.getloadavg()
    return {
        "cpu": _cpu_model(),
        "cores": str(cores()),
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": platform.platform(terse=True),
        "devices": ", ".join(
            f"{device.device_kind} ({device.platform})" for device in jax.devices()
        ),
        "load": f"{one:.1f} over one minute, {five:.1f} over five, as the run ended",
    }


def find_versions() -> dict[str, str]:
    """Return the versions of Python, of this source and of the installed libraries."""
    versions = {"python": platform.python_version(), "phoenix": _commit()}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = "not installed"
    return versions


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    described = Path("/proc/cpuinfo")
    if described.exists():
        for line in described.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """Return the commit of this source, with a + if there are uncommitted changes."""
    command = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+")
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not in git"
