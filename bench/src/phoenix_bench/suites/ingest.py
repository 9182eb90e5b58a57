"""Measure building and importing corpora, and the hashing of ids."""

import itertools
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from phoenix_bench.artifacts import Artifacts, prepare
from phoenix_bench.machine import report
from phoenix_bench.plots import draw_bars
from phoenix_bench.results import Report, Row, summarise
from phoenix_bench.suites import Options
from phoenix_bench.timing import Pace, time_in_turns
from phoenix_server.build.build import build_corpus
from phoenix_server.build.import_npz import import_corpus
from phoenix_server.bundle.bundle import Bundle, open_bundle

SUITE = "ingest"

_IDS = 1_000_000


def run(options: Options) -> Report:
    """Measure."""
    made = prepare(options)
    bundle = open_bundle(made.bundle)
    rows = _measure_corpora(made, bundle, options)
    rows += _measure_hashing(bundle, options)
    note = "corpora are made in a process that runs already; compilation and self-test included"
    return report(rows, notes=[note])


def plot(report: Report, path: Path) -> None:
    """Plot the rates."""
    draw_bars(report, path, metrics=("posts_rate", "ids_rate"), title="Ingest")


def _measure_corpora(made: Artifacts, bundle: Bundle, options: Options) -> list[Row]:
    runs = 1 if options.quick else 3
    with tempfile.TemporaryDirectory(dir=options.build) as folder:
        fresh = (Path(folder) / str(i) for i in itertools.count())
        calls: Mapping[str, Callable[[], object]] = {
            "build-corpus": lambda: build_corpus([made.posts], bundle, next(fresh)),
            "import-corpus": lambda: import_corpus(
                made.checkpoint / "sports_corpus.npz", bundle, next(fresh)
            ),
        }
        seconds = time_in_turns(calls, Pace(budget_s=0, fewest=runs, most=runs))
    return [
        summarise(
            made.sizes.posts / times,
            suite=SUITE,
            metric="posts_rate",
            unit="posts/s",
            params={"command": command, "posts": made.sizes.posts},
        )
        for command, times in seconds.items()
    ]


def _measure_hashing(bundle: Bundle, options: Options) -> list[Row]:
    count = _IDS // 100 if options.quick else _IDS
    ids: npt.NDArray[np.uint64]
    ids = np.random.default_rng(0).integers(1, 2**63, count, np.uint64)
    functions = bundle.features.item_hash
    seconds = time_in_turns({"rows": partial(functions.rows, ids)}, Pace(budget_s=3, fewest=7))
    params = {"ids": count, "hashes": functions.scales.size}
    return [
        summarise(
            count / seconds["rows"], suite=SUITE, metric="ids_rate", unit="ids/s", params=params
        )
    ]
