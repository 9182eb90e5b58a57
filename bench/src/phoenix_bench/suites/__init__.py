"""The suites by name.

A suite is a module with two functions: `run(options)` measures and returns a `Report`, and
`plot(report, path)` draws it as a PNG.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from phoenix_bench.results import Report

SUITES = ("topk", "tower", "startup", "memory", "ingest", "serve", "changes", "swap")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of a run of suites.

    Attributes:
        quick: Use small sizes and few runs, for a trial run; its numbers mean nothing.
        build: Directory in which checkpoints, bundles and corpora are built and kept.
    """

    quick: bool = False
    build: Path = Path("build/bench")


class Suite(Protocol):
    """Interface of a suite's module."""

    def run(self, options: Options) -> Report:
        """Measure."""
        ...

    def plot(self, report: Report, path: Path) -> None:
        """Draw a report as a PNG."""
        ...


def load_suite(name: str) -> Suite:
    """Import a suite of `SUITES`."""
    return cast(Suite, importlib.import_module(f"phoenix_bench.suites.{name}"))
