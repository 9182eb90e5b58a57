"""Print the summary of a run of a profile."""

from collections.abc import Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from phoenix_bench.load.calls import EXPIRED, OK, REFUSED, Calls
from phoenix_bench.load.profiles import Config, Stage, cut_by_stage

_QUANTILES = (0.5, 0.9, 0.99, 1.0)
_BUCKETS = 10
_BAR = 40  # characters of the longest bar


def print_summary(name: str, calls: Calls, config: Config, console: Console) -> None:
    """Print the stages of a profile, a histogram of its latencies and its statuses."""
    console.print(stage_table(name, cut_by_stage(calls, config)))
    if calls.count(OK):
        console.print("Latency of answers, calls up to each bound:")
        for line in histogram(calls.latencies_s() * 1e3):
            console.print(f"  {line}")
    counted = ", ".join(f"{status} {count:,}" for status, count in calls.statuses().items())
    console.print(f"Statuses: {counted}\n")


def stage_table(name: str, stages: Sequence[tuple[Stage, Calls]]) -> Table:
    """Return a table of stages: offered and answered rates, failures, and latencies."""
    table = Table(
        title=f"{name}: calls per second, calls, milliseconds",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
        show_edge=False,
    )
    headings = ("from", "offered", "answered", "refused", "expired", "failed")
    for heading in (*headings, "p50", "p90", "p99", "max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage, calls in stages:
        spent_s = stage.end_s - stage.begin_s
        answered, refused, expired = map(calls.count, (OK, REFUSED, EXPIRED))
        failed = len(calls.codes) - answered - refused - expired
        times = [""] * len(_QUANTILES)
        if answered:
            times = [f"{t:.0f}" for t in np.quantile(calls.latencies_s() * 1e3, _QUANTILES)]
        table.add_row(
            f"{stage.begin_s:g} s",
            f"{stage.rate:,.0f}/s" if stage.rate else "",
            f"{answered / spent_s:,.0f}/s",
            *(f"{count:,}" for count in (refused, expired, failed)),
            *times,
        )
    return table


def histogram(values: np.typing.ArrayLike) -> list[str]:
    """Return the lines of a histogram of ten equal buckets: upper bound, count and bar."""
    counts, bounds = np.histogram(values, _BUCKETS)
    scale = _BAR / counts.max()
    return [
        f"{bound:>10,.1f} ms {count:>8,} {'■' * round(count * scale)}".rstrip()
        for bound, count in zip(bounds[1:], counts, strict=True)
    ]
