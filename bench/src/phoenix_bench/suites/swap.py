"""Measure a swap to another bundle and back: latency, errors, named generations.

The server, the generator and the load of the bundle share the machine's cores.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import numpy as np

from phoenix_bench.artifacts import Artifacts, Sizes, copy_corpus, prepare
from phoenix_bench.load.calls import OK
from phoenix_bench.load.ghz import find_ghz
from phoenix_bench.load.open_loop import OpenRun
from phoenix_bench.load.samples import Samples
from phoenix_bench.load.target import start_target
from phoenix_bench.machine import report
from phoenix_bench.plots import draw_timeline
from phoenix_bench.results import Points, Report, Span, Timeline
from phoenix_bench.suites import Options
from phoenix_retrieval.v1 import model_service_pb2 as pb
from phoenix_retrieval.v1.model_service_pb2_grpc import ModelServiceStub

SUITE = "swap"

SIZES = Sizes(posts=100_000, vocab=200_000, layers=4)

_MS = 1e3
_BEFORE_S, _AFTER_S = 0.5, 1.5  # window around an activation
_LOAD, _ACTIVATE, _ROLL_BACK = "LoadGeneration", "ActivateGeneration", "RollbackGeneration"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Amount of measurement.

    Attributes:
        rounds: Number of rounds, each with a new server.
        closed_s: Duration of the measurement of the capacity, in seconds.
        share: Offered load throughout, as a share of the capacity.
        timeout_s: Time limit of the calls, in seconds.
        open_s: Time in which calls arrive, in seconds; all steps must fit into it.
        steady_s: Time before the other bundle is loaded, in seconds. The time after the rollback
            counts as steady, too.
        pause_s: Pause between loading, activating and rolling back, in seconds.
    """

    rounds: int = 3
    closed_s: float = 6.0
    share: float = 0.7
    timeout_s: float = 5.0
    open_s: float = 100.0
    steady_s: float = 15.0
    pause_s: float = 6.0


FULL = Plan()
QUICK = Plan(rounds=1, closed_s=2.0, open_s=70.0, steady_s=3.0, pause_s=2.0)


class SwapError(Exception):
    """The swap did not proceed as planned."""


@dataclass(frozen=True, kw_only=True)
class Swap:
    """One run: its calls and the times of the steps.

    Attributes:
        run: The calls.
        steps: The steps in order, with their times from the start of the run.
        names: Names of the two generations: the first, and the other.
        compilations: Number of programs compiled while a caller waited.
    """

    run: OpenRun
    steps: Sequence[Span]
    names: tuple[str, str]
    compilations: int


def run(options: Options) -> Report:
    """Measure.

    Raises:
        GhzError: ghz is not there, or did not run.
        ChildError: The server ended.
        grpc.RpcError: It refused a step.
        SwapError: The steps took longer than `open_s`.
    """
    plan = QUICK if options.quick else FULL
    ghz = find_ghz(options.build.parent)
    made, other = prepare(options, SIZES), prepare(options, replace(SIZES, seed=1))
    samples = Samples(SUITE)
    swap = None
    for i in range(plan.rounds):
        swap = _swap(made, other, plan, ghz, options.build, seed=i)
        _add(swap, samples)
    assert swap is not None
    note = f"{made.sizes.posts:,} posts, tables of {made.sizes.vocab:,} rows, load at {plan.share}"
    return report(samples.rows(), notes=[note, *samples.notes()], timeline=_timeline(swap))


def plot(report: Report, path: Path) -> None:
    """Plot every call of the last round."""
    draw_timeline(report, path, title="Another bundle, and back")


def _swap(made: Artifacts, other: Artifacts, plan: Plan, ghz: Path, build: Path, seed: int) -> Swap:
    """Serve one bundle, and swap it for another and back under load."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(dir=build)))
        corpus = copy_corpus(made, folder / "corpus")
        paths = ("--bundle", made.bundle, "--corpus", corpus)
        target = stack.enter_context(
            start_target((*paths, "--allow-load", other.bundle.parent), ghz)
        )
        channel = stack.enter_context(grpc.insecure_channel(target.address))
        stub = ModelServiceStub(channel)
        rate = plan.share * target.capacity(plan.closed_s)
        pool = stack.enter_context(ThreadPoolExecutor(1))
        offered = pool.submit(
            target.offer,
            rate=rate,
            duration_s=plan.open_s,
            timeout_s=plan.timeout_s,
            seed=seed,
        )
        begun: list[Span] = []
        names = _take_steps(stub, other.bundle.absolute(), plan, begun)
        done = offered.result()
        compilations = stub.GetServingStats(pb.GetServingStatsRequest()).compilations_after_ready
    steps = [
        Span(name=s.name, begin_s=s.begin_s - done.began_s, end_s=s.end_s - done.began_s)
        for s in begun
    ]
    if steps[0].begin_s < 0 or steps[-1].end_s + _AFTER_S > plan.open_s:
        raise SwapError(f"{steps} do not lie within the {plan.open_s:g} s in which calls come")
    return Swap(run=done, steps=steps, names=names, compilations=compilations)


def _take_steps(
    stub: ModelServiceStub, bundle: Path, plan: Plan, steps: list[Span]
) -> tuple[str, str]:
    """Load, activate and roll back; record times by `time.monotonic`; return the names."""
    before = stub.GetModel(pb.GetModelRequest()).generation

    def step(name: str, pause_s: float, call: Callable[[], pb.Generation]) -> pb.Generation:
        time.sleep(pause_s)
        began = time.monotonic()
        generation = call()
        steps.append(Span(name=name, begin_s=began, end_s=time.monotonic()))
        return generation

    load = pb.LoadGenerationRequest(bundle=str(bundle))
    loaded = step(_LOAD, plan.steady_s, lambda: stub.LoadGeneration(load).generation)
    activate = pb.ActivateGenerationRequest(number=loaded.number)
    step(_ACTIVATE, plan.pause_s, lambda: stub.ActivateGeneration(activate).generation)
    back = pb.RollbackGenerationRequest()
    step(_ROLL_BACK, plan.pause_s, lambda: stub.RollbackGeneration(back).generation)
    return before, loaded.generation


def _add(swap: Swap, samples: Samples) -> None:
    """Add the samples of a run: latencies of each phase, and counts that must be 0."""
    calls = swap.run.calls
    load, activate, back = swap.steps
    over_s = back.end_s + _AFTER_S
    stretches = {
        # Before and after, because bursts are rare and a short period may have none. The first
        # second is the start of the generator.
        "steady": ((1.0, load.begin_s), (over_s, np.inf)),
        "loading": ((load.begin_s, load.end_s),),
        "activating": ((activate.begin_s - _BEFORE_S, activate.end_s + _AFTER_S),),
        "going back": ((back.begin_s - _BEFORE_S, over_s),),
        "all of it": ((load.begin_s, over_s),),
    }
    steady = (1.0, 1.0)
    for name, parts in stretches.items():
        found_s = [calls.between(begin_s, end_s).latencies_s() for begin_s, end_s in parts]
        took_ms = np.concatenate(found_s) * _MS
        found = np.quantile(took_ms, (0.5, 0.99)).tolist()
        steady = found if name == "steady" else steady
        samples.add("calls", "1", len(took_ms), {"when": name})
        for quantile, value, usual in zip(("p50", "p99"), found, steady, strict=True):
            samples.add("latency", "ms", value, {"when": name, "quantile": quantile})
            if name != "steady":
                params = {"when": name, "quantile": quantile}
                samples.add("over_steady", "1", value / usual, params)
    for step in swap.steps:
        samples.add("step", "s", step.end_s - step.begin_s, {"step": step.name})
    samples.add("failed", "calls", len(calls.codes) - calls.count(OK), {})
    samples.add("misnamed", "calls", count_misnamed(swap), {})
    samples.add("compilations_after_ready", "programs", swap.compilations, {})


def count_misnamed(swap: Swap) -> int:
    """Return the number of answers that name a generation that was not active then.

    Only one generation can answer a call that ended before a step was requested, or was sent after
    the step was answered. Otherwise both the generation before and after the step can.
    """
    calls, (old, new) = swap.run.calls, swap.names
    _, activate, back = swap.steps
    by_new = (calls.ended_s > activate.begin_s) & (calls.sent_s < back.end_s)
    by_old = (calls.sent_s < activate.end_s) | (calls.ended_s > back.begin_s)
    names = swap.run.generations
    right = ((names == new) & by_new) | ((names == old) & by_old)
    return int((~right & (calls.codes == 0)).sum())


def _timeline(swap: Swap) -> Timeline:
    """Return the answered calls by generation, and the steps."""
    calls = swap.run.calls
    points: list[Points] = []
    for name, words in zip(swap.names, ("the bundle it began with", "the other"), strict=True):
        which = (swap.run.generations == name) & (calls.codes == 0)
        points.append(
            Points(
                name=f"answered by {words}",
                x_s=calls.due_s[which].round(4).tolist(),
                y_ms=((calls.ended_s - calls.due_s)[which] * _MS).round(3).tolist(),
            )
        )
    return Timeline(points=points, spans=swap.steps)
