"""Measure the resident memory of a server against the size of its tables and corpus."""

from functools import partial
from pathlib import Path

import numpy as np
import psutil

from phoenix_bench.artifacts import prepare
from phoenix_bench.machine import report
from phoenix_bench.plots import draw_bars
from phoenix_bench.results import Report, summarise
from phoenix_bench.server_process import ALL_COMPILED, start_server
from phoenix_bench.suites import Options
from phoenix_client import Action, History, PhoenixClient, User
from phoenix_client.types.users import action_mask

SUITE = "memory"

_MEGABYTE = 1e6
_HISTORY = 127
_TOP_K = 1000
_FAVORITE = action_mask({Action.FAVORITE})


def run(options: Options) -> Report:
    """Measure."""
    made = prepare(options)
    runs, requests = (1, 20) if options.quick else (3, 500)
    resident: dict[str, list[float]] = {}
    for _ in range(runs):
        with start_server(("--bundle", made.bundle, "--corpus", made.corpus)) as server:
            process = psutil.Process(server.pid)

            def measure(when: str, process: psutil.Process = process) -> None:
                resident.setdefault(when, []).append(process.memory_info().rss)

            measure("at SERVING")
            server.log.until(ALL_COMPILED)
            measure("all compiled")
            _send_requests(server.address, requests)
            measure(f"after {requests} requests")
    held = made.table_bytes + made.corpus_bytes
    row = partial(summarise, suite=SUITE)
    rows = [row([held / _MEGABYTE], metric="tables_and_corpus", unit="MB")]
    for when, samples in resident.items():
        scaled = np.array(samples)
        rows.append(row(scaled / _MEGABYTE, metric="resident", unit="MB", params={"when": when}))
        rows.append(
            row(scaled / held, metric="resident_over_data", unit="1", params={"when": when})
        )
    return report(rows)


def plot(report: Report, path: Path) -> None:
    """Plot the sizes."""
    draw_bars(report, path, metrics=("tables_and_corpus", "resident"), title="Memory")


def _send_requests(address: str, count: int) -> None:
    """Request the longest answers for histories of all lengths, one after the other."""
    rng = np.random.default_rng(0)
    with PhoenixClient(address, timeout_s=60) as client:
        for i in range(count):
            posts, authors = rng.integers(1, 2**62, (2, i % (_HISTORY + 1)))
            history = History(posts.tolist(), authors.tolist(), [_FAVORITE] * len(posts))
            client.retrieve(User(i + 1, history), top_k=_TOP_K)
