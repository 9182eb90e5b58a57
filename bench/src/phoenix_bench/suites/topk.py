"""Measure the exact top k against peers and the limits of the machine.

Shapes:
    N  rows of the corpus        B  queries        K  results        D  width
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
import numpy.typing as npt

from phoenix_bench.limits import best_of, measure_limits
from phoenix_bench.machine import report
from phoenix_bench.plots import draw_lines
from phoenix_bench.results import OURS, Limit, Params, Report, Row, summarise
from phoenix_bench.search.dataset import Dataset, Floats, Kind, draw_dataset
from phoenix_bench.search.oracle import (
    SearchResult,
    Truth,
    count_missing,
    find_mistakes,
    find_truth,
)
from phoenix_bench.search.systems import HOST_PEERS, Search, System, ours, xla
from phoenix_bench.suites import Options
from phoenix_bench.timing import Pace, time_in_turns
from phoenix_server.search.native.library import variants

SUITE = "topk"

_COPIES = 4  # of each vector; no k-th place divides a group of copies
_LEAST_PROBES = 8
_ITEM_BYTES = {"float32": 4, "bfloat16": 2}

Seconds = Mapping[str, npt.NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes to measure.

    Attributes:
        kinds: How vectors are distributed.
        rows: Values of N.
        batches: Values of B, ascending.
        results: Values of K, ascending.
        width: D.
        dtype: Element type of the corpus on the device.
        pace: Duration of the measurement for one set of N, B and K.
    """

    kinds: tuple[Kind, ...] = ("random", "clustered")
    rows: tuple[int, ...]
    batches: tuple[int, ...]
    results: tuple[int, ...]
    width: int = 128
    dtype: str = "float32"
    pace: Pace


CPU = Sizes(
    rows=(100_000, 1_000_000),
    batches=(1, 8, 32, 128),
    results=(100, 1000),
    pace=Pace(budget_s=15, warm_ups=1),
)
ACCELERATOR = Sizes(
    rows=(1_000_000, 10_000_000),
    batches=(1, 8, 32, 128),
    results=(100, 1000),
    dtype="bfloat16",
    pace=Pace(budget_s=5, fewest=7, warm_ups=1),
)
QUICK = Sizes(
    rows=(5_000,),
    batches=(1, 8),
    results=(10, 100),
    pace=Pace(budget_s=0.2, fewest=3, most=7, pause_s=0.01),
)


class WrongAnswerError(Exception):
    """Our search returned a wrong answer, so its times mean nothing."""


def run(options: Options) -> Report:
    """Measure.

    Raises:
        WrongAnswerError: Our search does not return the exact top k.
    """
    host = jax.default_backend() == "cpu"
    sizes = QUICK if options.quick else CPU if host else ACCELERATOR
    find_limits = partial(measure_limits, dtype=sizes.dtype, quick=options.quick)
    before = find_limits()
    notes: list[str] = []
    measured = [
        each
        for kind, count in itertools.product(sizes.kinds, sizes.rows)
        for each in _measure(kind, count, sizes, notes, host=host)
    ]
    limits = tuple(map(best_of, before, find_limits()))
    rows = [row for params, seconds in measured for row in _rows(params, seconds, sizes, limits)]
    return report(rows, limits=limits, notes=notes)


def plot(report: Report, path: Path) -> None:
    """Plot times over B, one panel for each N and K."""
    draw_lines(report, path, metric="time", x="batch", title="Exact top k")


def _measure(
    kind: Kind, rows: int, sizes: Sizes, notes: list[str], *, host: bool
) -> Iterator[tuple[Params, Seconds]]:
    """Yield the times of each system, for each B and K over N rows of a kind."""
    dataset = draw_dataset(
        rows=rows,
        width=sizes.width,
        queries=max(*sizes.batches, _LEAST_PROBES),
        group_sizes=[k + k // 2 for k in sizes.results] + [_COPIES] * _COPIES,
        dtype=sizes.dtype,
        kind=kind,
    )
    truth = find_truth(dataset.corpus, dataset.probes, sizes.results[-1])
    systems = [ours(dataset.corpus, sizes.dtype), xla(dataset.corpus, sizes.dtype)]
    if host:
        systems += _other_searches(dataset.corpus, sizes.dtype)
        systems += _host_peers(dataset, notes)
    for batch, k in itertools.product(sizes.batches, sizes.results):
        searches = {system.name: system.prepare(batch, k) for system in systems}
        _check(searches, truth.cut(k), dataset, batch, notes)
        queries = dataset.queries[:batch]
        calls = {name: partial(search, queries) for name, search in searches.items()}
        params = {"corpus": kind, "rows": rows, "batch": batch, "k": k}
        yield params, time_in_turns(calls, sizes.pace)


def _other_searches(corpus: Floats, dtype: str) -> Iterator[System]:
    """Yield the searches of CPUs that have less, and of servers without the native library."""
    for variant in ("avx2",):
        if variant in variants(corpus.shape[1]):
            yield ours(corpus, dtype, scan="native", variant=variant)
    yield ours(corpus, dtype, scan="tiles")


def _host_peers(dataset: Dataset, notes: list[str]) -> Iterator[System]:
    for distribution, make in HOST_PEERS.items():
        try:
            yield make(dataset.corpus)
        except ImportError as exc:
            notes.append(f"{distribution} is not installed: {exc}")


def _check(
    searches: Mapping[str, Search], truth: Truth, dataset: Dataset, batch: int, notes: list[str]
) -> None:
    """Check answers to the probes, `batch` at a time."""
    probes = dataset.probes[: max(batch, _LEAST_PROBES)]
    truth = truth.first(len(probes))
    for name, search in searches.items():
        parts = [search(probes[start : start + batch]) for start in range(0, len(probes), batch)]
        found = SearchResult(*map(np.concatenate, zip(*parts, strict=True)))
        if name == OURS:
            mistakes = list(find_mistakes(found, truth, dataset, probes))
            if mistakes:
                raise WrongAnswerError(f"{found.rows.shape} of {len(dataset.corpus)}: {mistakes}")
        elif missing := count_missing(found, truth):
            notes.append(
                f"{name} is not exact: of {found.rows.size} results, B {batch}, N "
                f"{len(dataset.corpus)}, {missing} are missing"
            )


def _rows(
    params: Params, seconds: Seconds, sizes: Sizes, limits: tuple[Limit, ...]
) -> Iterator[Row]:
    """Yield times, shares of the limits, and ratios of peers to ours."""
    bandwidth, products = limits
    values = int(params["rows"]) * sizes.width
    # Times at the limits: every vector is read once and multiplied with every query.
    read_s = values * _ITEM_BYTES[sizes.dtype] / (bandwidth.value * 1e9)
    multiply_s = 2 * values * int(params["batch"]) / (products.value * 1e9)
    for name, times in seconds.items():
        row = partial(summarise, suite=SUITE, system=name, params=params)
        yield row(times * 1e3, metric="time", unit="ms")
        if name != OURS:
            yield row(times / seconds[OURS], metric="time_over_ours", unit="1")
        yield row(read_s / times, metric=f"share_of_{bandwidth.name}", unit="1")
        yield row(multiply_s / times, metric=f"share_of_{products.name}", unit="1")
