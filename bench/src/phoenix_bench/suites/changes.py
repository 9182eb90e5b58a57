"""Measure a changing corpus: writing posts, searching meanwhile, filters, restarts.

Writers, generator and server share the machine's cores.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import numpy as np

from phoenix_bench.artifacts import (
    LARGE,
    Artifacts,
    copy_corpus,
    forget_compiled,
    prepare,
    run_module,
)
from phoenix_bench.load.calls import OK
from phoenix_bench.load.ghz import find_ghz
from phoenix_bench.load.samples import Samples
from phoenix_bench.load.target import Target, start_target
from phoenix_bench.load.writers import (
    PacedStream,
    draw_batches,
    write_calls,
    write_once,
    write_streams,
)
from phoenix_bench.machine import report
from phoenix_bench.plots import draw_bars
from phoenix_bench.results import Params, Report, Row, summarise
from phoenix_bench.search import filtered
from phoenix_bench.server_process import start_server
from phoenix_bench.suites import Options
from phoenix_bench.timing import Pace
from phoenix_retrieval.v1 import corpus_service_pb2 as pb
from phoenix_retrieval.v1.corpus_service_pb2_grpc import CorpusServiceStub

SUITE = "changes"

_WIDTH = 128
_MS = 1e3
_NEVER = ("--snapshot-after", str(10**9))
_PACE = Pace(budget_s=30, fewest=9, most=25, warm_ups=1)
_KINDS = {"ready": True, "encoded": False}  # whether the posts come with vectors


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Amount of measurement.

    Attributes:
        rounds: Rounds of writing, and of searching with and without writing.
        callers: Numbers of writing callers.
        write_s: Duration of each run of writing, in seconds.
        batch_posts: Posts of a change.
        new_posts: Number of different posts written; after that they replace themselves.
        closed_s: Duration of the measurement of the capacity, in seconds.
        open_s: Duration of each run of searching, in seconds.
        share: Offered load of searching, as a share of the capacity.
        timeout_s: Time limit of the calls, in seconds.
        stream_rate: Posts per second that are written meanwhile.
        batch_users: Queries of a batch with filters.
        excluded: Number of posts that each of them excludes.
        pace: Duration of the measurement of filters.
        journal_posts: Posts in the journal at a restart.
        journal_callers: Number of callers that write them.
        restarts: Restarts with each kind of journal.
    """

    rounds: int = 6
    callers: tuple[int, ...] = (1, 4)
    write_s: float = 3.0
    batch_posts: int = 500
    new_posts: int = 100_000
    closed_s: float = 6.0
    open_s: float = 20.0
    share: float = 0.5
    timeout_s: float = 5.0
    stream_rate: float = 2_000
    batch_users: int = 32
    excluded: int = 10_000
    pace: Pace = _PACE
    journal_posts: int = 100_000
    journal_callers: int = 32
    restarts: int = 3


FULL = Plan()
QUICK = Plan(
    rounds=1,
    write_s=1.0,
    batch_posts=100,
    new_posts=500,
    closed_s=2.0,
    open_s=2.0,
    excluded=500,
    pace=Pace(budget_s=0.5, fewest=3, most=5, pause_s=0.01),
    journal_posts=500,
    restarts=1,
)


def run(options: Options) -> Report:
    """Measure.

    Raises:
        GhzError: ghz is not installed, or failed.
        ChildError, ServerError: A server ended.
        grpc.RpcError: A change was refused.
    """
    plan = QUICK if options.quick else FULL
    ghz = find_ghz(options.build.parent)
    made = prepare(options, LARGE)
    rows = list(_measure_filters(made, plan))
    samples = Samples(SUITE)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=options.build)))
        stack.callback(forget_compiled, made)
        corpus = copy_corpus(made, folder / "corpus")
        run_module("phoenix_server", "compile", "--bundle", made.bundle, "--corpus", corpus)
        paths = ("--bundle", made.bundle, "--corpus", corpus, *_NEVER)
        _measure_restarts(paths, plan, samples)
        shutil.rmtree(corpus)
        copy_corpus(made, corpus)
        with start_target(paths, ghz) as target:
            for i in range(plan.rounds):
                _measure_writing(target, plan, samples, turn=i)
            for i in range(plan.rounds):
                _measure_searching(target, plan, samples, turn=i)
    note = (
        f"{made.sizes.posts:,} posts; {plan.batch_posts} posts a change, of {plan.new_posts:,} "
        "different ones; no snapshots meanwhile"
    )
    return report([*rows, *samples.rows()], notes=[note, *samples.notes()])


def plot(report: Report, path: Path) -> None:
    """Plot rates of writing, latencies meanwhile, and restarts."""
    metrics = ("written", "latency", "filtered_time", "until_serving")
    draw_bars(report, path, metrics=metrics, title="A corpus that changes")


def _measure_filters(made: Artifacts, plan: Plan) -> Iterator[Row]:
    """Measure masks in process, before a server starts."""
    seconds = filtered.time_filters(
        made.corpus,
        batch=plan.batch_users,
        top_k=200,
        excluded=plan.excluded,
        pace=plan.pace,
    )
    base, look_up = seconds[filtered.UNFILTERED], seconds[filtered.LOOK_UP]
    for name, times in seconds.items():
        row = partial(summarise, suite=SUITE, params={"users": plan.batch_users, "filters": name})
        yield row(times * _MS, metric="filtered_time", unit="ms")
        if name in (filtered.ALL_KINDS, filtered.EXCLUSIONS):
            yield row(times / base, metric="over_unfiltered", unit="1")
        if name == filtered.EXCLUSIONS:
            apart = (times - look_up) / base
            yield row(apart, metric="over_unfiltered_without_look_up", unit="1")


def _measure_writing(target: Target, plan: Plan, samples: Samples, turn: int) -> None:
    """Measure posts written per second on an otherwise idle server."""
    ways = [
        (name, write, callers, vectors)
        for name, write in (("UpsertPosts", write_calls), ("StreamUpsertPosts", write_streams))
        for callers in plan.callers
        for vectors in _KINDS
    ]
    for name, write, callers, vectors in ways[turn:] + ways[:turn]:
        batches = draw_batches(
            count=plan.new_posts // plan.batch_posts,
            posts=plan.batch_posts,
            width=_WIDTH,
            vectors=_KINDS[vectors],
        )
        rate = write(target.address, batches, callers=callers, duration_s=plan.write_s)
        samples.add(
            "written", "posts/s", rate, {"by": name, "callers": callers, "vectors": vectors}
        )


def _measure_searching(target: Target, plan: Plan, samples: Samples, turn: int) -> None:
    """Measure latencies alone and during writing, at one rate, in rotating order."""
    capacity = target.capacity(plan.closed_s)
    samples.add("capacity", "calls/s", capacity, {})
    quantiles: dict[str, list[float]] = {}
    ways = ["nothing", *_KINDS]
    first = turn % len(ways)
    for writing in ways[first:] + ways[:first]:
        params: Params = {"offered": plan.share, "writing": writing}
        stream = None
        if writing in _KINDS:
            batches = draw_batches(
                count=plan.new_posts // plan.batch_posts,
                posts=plan.batch_posts,
                width=_WIDTH,
                vectors=_KINDS[writing],
            )
            stream = PacedStream(target.address, batches, rate=plan.stream_rate)
        calls = target.offer(
            rate=plan.share * capacity,
            duration_s=plan.open_s,
            timeout_s=plan.timeout_s,
            seed=turn,
        ).calls
        if stream is not None:
            stream.end()
            samples.add("written_meanwhile", "posts/s", stream.rate, params)
        samples.add("failed", "calls", len(calls.codes) - calls.count(OK), params)
        quantiles[writing] = np.quantile(calls.latencies_s() * _MS, (0.5, 0.99)).tolist()
    for writing in ways:
        params = {"offered": plan.share, "writing": writing}
        for name, value, alone in zip(
            ("p50", "p99"), quantiles[writing], quantiles["nothing"], strict=True
        ):
            samples.add("latency", "ms", value, {**params, "quantile": name})
            if writing in _KINDS:
                samples.add("over_alone", "1", value / alone, {**params, "quantile": name})


def _measure_restarts(paths: tuple[str | Path, ...], plan: Plan, samples: Samples) -> None:
    """Measure starts without a journal, with few large changes and with many small ones."""
    for _ in range(plan.restarts):
        with start_server(paths) as server:
            samples.add("until_serving", "s", server.serving_s, {"journal": "empty"})
    for posts in (plan.batch_posts, 1):
        params: Params = {"journal": f"{plan.journal_posts // posts:,} changes of {posts}"}
        with start_server(paths) as server:
            batches = draw_batches(
                count=plan.journal_posts // posts, posts=posts, width=_WIDTH, vectors=True
            )
            began = time.monotonic()
            write_once(server.address, batches, callers=plan.journal_callers)
            rate = plan.journal_posts / (time.monotonic() - began)
            samples.add("journal_written", "posts/s", rate, params)
        for i in range(plan.restarts):
            with start_server(paths) as server:
                samples.add("until_serving", "s", server.serving_s, params)
                if i == plan.restarts - 1:
                    samples.add("snapshot", "s", _time_snapshot(server.address), params)


def _time_snapshot(address: str) -> float:
    """Write a snapshot; return its time in seconds."""
    with grpc.insecure_channel(address) as channel:
        began = time.monotonic()
        CorpusServiceStub(channel).CreateSnapshot(pb.CreateSnapshotRequest())
        return time.monotonic() - began
