"""Measure the cost of gRPC and the queue, latency under load, and overload.

The server, the generator and the peers share the machine's cores; `generator_cpu` is the processor
time of the generator, as a share of one core.
"""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from phoenix_bench.artifacts import prepare
from phoenix_bench.load.calls import EXPIRED, OK, REFUSED, Calls
from phoenix_bench.load.ghz import find_ghz
from phoenix_bench.load.rig import DIRECT, ECHO, THREADS, Rig, start_rig
from phoenix_bench.load.samples import Samples
from phoenix_bench.machine import report
from phoenix_bench.plots import draw_lines
from phoenix_bench.results import OURS, Params, Report
from phoenix_bench.suites import Options

SUITE = "serve"
_CALLERS = 64
_STEADY = 0.7  # share of capacity at which p99 / p50 is reported
_MS = 1e3
_LATE_MS = 10.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Amount of measurement.

    Attributes:
        rounds: Repetitions of the whole measurement.
        closed_s: Duration of each closed-loop run, in seconds.
        alone_calls: Calls of each run with one caller.
        open_s: Duration of each open-loop run, in seconds.
        shares: Offered loads, as shares of the capacity.
        timeout_s: Time limit of their calls, in seconds.
        overload: Offered load of the overload, as a share of the capacity.
        overload_timeout_s: Time limit of its calls, in seconds.
    """

    rounds: int = 3
    closed_s: float = 6.0
    alone_calls: int = 150
    open_s: float = 10.0
    shares: tuple[float, ...] = (0.3, 0.5, 0.7, 0.9, 1.1)
    timeout_s: float = 2.0
    overload: float = 3.0
    overload_timeout_s: float = 0.5


FULL = Plan()
QUICK = Plan(rounds=1, closed_s=2.0, alone_calls=30, open_s=2.0, shares=(0.5, 0.7))


def run(options: Options) -> Report:
    """Measure.

    Raises:
        GhzError: ghz is not installed, or failed.
        ChildError: A server ended.
    """
    plan = QUICK if options.quick else FULL
    ghz = find_ghz(options.build.parent)
    made = prepare(options)
    samples = Samples(SUITE)
    with ExitStack() as stack:
        rig = stack.enter_context(start_rig(made.bundle, made.corpus, ghz))
        for i in range(plan.rounds):
            capacity = _measure_throughput(rig, plan, samples, turn=i)
            _measure_repeating(rig, plan, samples, capacity, turn=i)
            _measure_alone(rig, plan, samples)
            _measure_load(rig, plan, samples, capacity, seed=i)
            _measure_overload(rig, plan, samples, seed=i)
    about = (
        f"{made.sizes.posts:,} posts, {rig.described}; the generator shares the cores, and ghz's "
        "share holds its start"
    )
    return report(samples.rows(), notes=[about, *samples.notes()])


def plot(report: Report, path: Path) -> None:
    """Plot latency over offered load."""
    draw_lines(report, path, metric="latency", x="offered", title="Latency under open-loop load")


def _measure_throughput(rig: Rig, plan: Plan, samples: Samples, turn: int) -> float:
    """Measure all systems with many callers; return the calls per second of ours."""
    rates: dict[str, float] = {}
    for name in _in_turn((DIRECT, OURS, THREADS, ECHO), turn):
        if name == DIRECT:
            rates[name] = rig.run_batches(plan.closed_s)
            continue
        measured = rig.run_closed(name, callers=_CALLERS, duration_s=plan.closed_s)
        rates[name] = measured.rate
        samples.add("generator_cpu", "cores", measured.cpu_share, {"callers": _CALLERS}, name)
    for name, rate in rates.items():
        samples.add("throughput", "calls/s", rate, {"callers": _CALLERS}, name)
        if name in (OURS, THREADS):
            samples.add("throughput_share", "1", rate / rates[DIRECT], {"callers": _CALLERS}, name)
    return rates[OURS]


def _measure_repeating(rig: Rig, plan: Plan, samples: Samples, capacity: float, turn: int) -> None:
    """Measure ours with a user cache, where half of the users come again."""
    run = rig.run_repeating(callers=_CALLERS, duration_s=plan.closed_s, turn=turn)
    params: Params = {"callers": _CALLERS, "users": "half repeat"}
    samples.add("throughput", "calls/s", run.rate, params)
    samples.add("hit_share", "1", run.hit_share, params)
    samples.add("over_new_users", "1", run.rate / capacity, params)


def _measure_alone(rig: Rig, plan: Plan, samples: Samples) -> None:
    """Measure all systems with one caller on the same requests."""
    seconds = rig.run_alone(plan.alone_calls)
    medians_ms = {name: float(np.median(taken)) * _MS for name, taken in seconds.items()}
    for name, median_ms in medians_ms.items():
        samples.add("latency_alone", "ms", median_ms, {"callers": 1}, name)
        if name in (OURS, THREADS):
            added_ms = median_ms - medians_ms[DIRECT]
            samples.add("added_latency", "ms", added_ms, {"callers": 1}, name)


def _measure_load(rig: Rig, plan: Plan, samples: Samples, capacity: float, seed: int) -> None:
    """Send shares of the capacity in an open loop."""
    for share in plan.shares:
        params: Params = {"offered": share}
        for name in (OURS, THREADS) if share == _STEADY else (OURS,):
            offered = rig.offer(
                name,
                rate=share * capacity,
                duration_s=plan.open_s,
                timeout_s=plan.timeout_s,
                seed=seed,
            )
            calls = offered.calls
            answered = calls.count(OK) / len(calls.codes)
            samples.add("answered_share", "1", answered, params, name)
            samples.add("generator_cpu", "cores", offered.cpu_share, params, name)
            _add_lateness(calls, samples, params, name)
            if not answered:
                samples.note(f"{name} answered nothing in time at {share} of capacity")
                continue
            p50, p99 = np.quantile(calls.latencies_s() * _MS, (0.5, 0.99)).tolist()
            samples.add("latency", "ms", p50, {**params, "quantile": "p50"}, name)
            samples.add("latency", "ms", p99, {**params, "quantile": "p99"}, name)
            samples.add("p99_over_p50", "1", p99 / p50, params, name)


def _measure_overload(rig: Rig, plan: Plan, samples: Samples, seed: int) -> None:
    """Send a multiple of the capacity, which is measured before and after."""
    params: Params = {
        "offered": plan.overload,
        "timeout_ms": plan.overload_timeout_s * _MS,
    }
    before = rig.run_closed(OURS, callers=_CALLERS, duration_s=plan.closed_s).rate
    run = rig.offer(
        OURS,
        rate=plan.overload * before,
        duration_s=plan.open_s,
        timeout_s=plan.overload_timeout_s,
        seed=seed,
    )
    rig.settle()
    after = rig.run_closed(OURS, callers=_CALLERS, duration_s=plan.closed_s).rate
    calls = run.calls
    goodput = int((calls.latencies_s() <= plan.overload_timeout_s).sum()) / plan.open_s
    samples.add("goodput_share", "1", 2 * goodput / (before + after), params)
    samples.add("expired", "calls", calls.count(EXPIRED), params)
    samples.add("refused_share", "1", calls.count(REFUSED) / len(calls.codes), params)
    samples.add("generator_cpu", "cores", run.cpu_share, params)
    _add_lateness(calls, samples, params, OURS)
    if calls.count(REFUSED):
        # Counted from the sent time: lateness of the generator does not make a refusal slow.
        p99, most = np.quantile(calls.waits_s(REFUSED) * _MS, (0.99, 1.0)).tolist()
        samples.add("refusal", "ms", p99, {**params, "quantile": "p99"})
        samples.add("refusal", "ms", most, {**params, "quantile": "max"})
    else:
        samples.note(f"nothing was refused at {plan.overload} of capacity")


def _add_lateness(calls: Calls, samples: Samples, params: Params, system: str) -> None:
    """Add the lateness of the generator; if it is large, the times do not describe a server."""
    late_ms = float(np.quantile(calls.lags_s(), 0.99)) * _MS
    samples.add("sent_late_p99", "ms", late_ms, params, system)
    if late_ms > _LATE_MS:
        samples.note(
            f"the generator sent calls more than {_LATE_MS:g} ms late: the cores were busy, and "
            "latencies hold that; see sent_late_p99"
        )


def _in_turn(names: tuple[str, ...], turn: int) -> tuple[str, ...]:
    """Rotate the order in each round, so that none always follows the same one."""
    first = turn % len(names)
    return names[first:] + names[:first]
