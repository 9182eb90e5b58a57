"""Measure the time from exec of a server until it is SERVING, by stage."""

import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from phoenix_bench.artifacts import LARGE, forget_compiled, prepare, run_module
from phoenix_bench.machine import report
from phoenix_bench.plots import draw_bars
from phoenix_bench.results import Report, Row, summarise
from phoenix_bench.server_process import ALL_COMPILED, find_stages, start_server
from phoenix_bench.suites import Options
from phoenix_bench.timing import Pace, time_in_turns

SUITE = "startup"

_RUNS = 3
_IMPORTS = {
    "python alone": "pass",
    "jax": "import jax",
    "phoenix_server": "import phoenix_server.cli.main",
}


def run(options: Options) -> Report:
    """Measure."""
    made = prepare(options, LARGE)
    runs = 1 if options.quick else _RUNS
    paths = ("--bundle", made.bundle, "--corpus", made.corpus)
    rows = _measure_imports(1 if options.quick else 5)
    forget_compiled(made)
    try:
        rows += _measure_start("nothing compiled ahead", paths, runs)
        began = time.monotonic()
        run_module("phoenix_server", "compile", *paths)
        spent_s = time.monotonic() - began
        rows.append(summarise([spent_s], suite=SUITE, metric="compile", unit="s"))
        rows += _measure_start("compiled ahead", paths, runs)
    finally:
        forget_compiled(made)
    note = f"{made.sizes.posts:,} posts, tables of {made.sizes.vocab:,} rows; files are cached"
    return report(rows, notes=[note])


def plot(report: Report, path: Path) -> None:
    """Plot the stages."""
    metrics = ("until_serving", "until_all_compiled", "stage", "imports")
    draw_bars(report, path, metrics=metrics, title="Start")


def _measure_start(start: str, paths: Sequence[str | Path], runs: int) -> list[Row]:
    """Start a server several times; return times until SERVING, by stage, and until compiled."""
    serving: list[float] = []
    compiled: list[float] = []
    stages: dict[str, list[float]] = {}
    for _ in range(runs):
        with start_server(paths) as server:
            serving.append(server.serving_s)
            for stage in find_stages(server.log.until("SERVING on")):
                stages.setdefault(stage.name, []).append(stage.spent_s)
            compiled.append(server.log.until(ALL_COMPILED)[-1].at_s)
    row = partial(summarise, suite=SUITE, unit="s")
    rows = [
        row(serving, metric="until_serving", params={"start": start}),
        row(compiled, metric="until_all_compiled", params={"start": start}),
    ]
    rows += [
        row(spent, metric="stage", params={"start": start, "stage": name})
        for name, spent in stages.items()
    ]
    return rows


def _measure_imports(runs: int) -> list[Row]:
    seconds = time_in_turns(
        {
            name: partial(subprocess.run, [sys.executable, "-c", code], check=True)
            for name, code in _IMPORTS.items()
        },
        Pace(budget_s=0, fewest=runs, most=runs),
    )
    return [
        summarise(times, suite=SUITE, metric="imports", unit="s", params={"of": name})
        for name, times in seconds.items()
    ]
