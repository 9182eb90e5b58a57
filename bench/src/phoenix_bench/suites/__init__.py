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
    """How to run suites.

    Attributes:
        quick: Small sizes and few runs: to try a suite out, not to quote it.
        build: Where checkpoints, bundles and corpora are made and kept for the next run.
    """

    quick: bool = False
    build: Path = Path("build/bench")


class Suite(Protocol):
    """What a suite's module offers."""

    def run(self, options: Options) -> Report:
        """Measure."""
        ...

    def plot(self, report: Report, path: Path) -> None:
        """Draw a report as a PNG."""
        ...


def load_suite(name: str) -> Suite:
    """Import one of `SUITES`."""
    return cast(Suite, importlib.import_module(f"phoenix_bench.suites.{name}"))
