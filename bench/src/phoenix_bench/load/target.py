"""Load one server: measure its capacity, and send a share of it."""

import tempfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from phoenix_bench.load.calls import OK, Calls, rate_of_answers
from phoenix_bench.load.ghz import GhzError, run_ghz
from phoenix_bench.load.open_loop import OpenRun, offer
from phoenix_bench.load.processes import spawn_server
from phoenix_bench.load.profiles import CAPACITY, fit_profile, read_profile
from phoenix_bench.load.requests import RequestMix, draw_requests, write_requests
from phoenix_client import PhoenixClient

_PROFILES = Path("bench/ghz")
_CALLERS = 64
_WARM_UP_S = 3.0
_FEWEST_ANSWERS = 4  # per caller, for a rate: the first and the last of each are left out
_LONGEST_S = 60.0


class ClosedRun(NamedTuple):
    """A run with a fixed number of callers.

    Attributes:
        rate: Answers per second.
        cpu_share: Processor time of the generator, as a share of one core.
    """

    rate: float
    cpu_share: float


@dataclass(frozen=True, kw_only=True)
class Target:
    """A server and the requests to send.

    Attributes:
        ghz: Path of ghz, which generates closed loops.
        address: Address of the server.
        requests: File of `write_requests`.
    """

    ghz: Path
    address: str
    requests: Path

    def capacity(self, duration_s: float) -> float:
        """Return the answered calls per second with many callers."""
        run = run_closed(
            self.ghz, self.address, self.requests, callers=_CALLERS, duration_s=duration_s
        )
        return run.rate

    def offer(self, *, rate: float, duration_s: float, timeout_s: float, seed: int) -> OpenRun:
        """Send open-loop calls; see `open_loop.offer`."""
        return offer(
            self.address,
            self.requests,
            rate=rate,
            duration_s=duration_s,
            timeout_s=timeout_s,
            seed=seed,
        )


@contextmanager
def start_target(arguments: Sequence[str | Path], ghz: Path) -> Generator[Target, None, None]:
    """Start a server, wait until it has compiled everything, warm it up, yield, and end it.

    Raises:
        ChildError: It ended early.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = stack.enter_context(spawn_server(arguments))
        requests = directory / "requests.bin"
        with PhoenixClient(address) as client:
            model = client.get_model()
        write_requests(draw_requests(model, RequestMix(top_k=min(200, model.max_top_k))), requests)
        target = Target(ghz=ghz, address=address, requests=requests)
        target.capacity(_WARM_UP_S)
        yield target


def run_closed(
    ghz: Path, address: str, requests: Path, *, callers: int, duration_s: float
) -> ClosedRun:
    """Keep a number of calls in flight, with ghz; for longer, if the server is slow.

    Raises:
        GhzError: ghz did not run, or a call failed: a rate with errors is meaningless.
        ValueError: Even in a minute there are too few answers to tell a rate.
    """
    changes = {"concurrency": callers, "duration": f"{round(duration_s * 1e3)}ms"}
    config = {**fit_profile(read_profile(_PROFILES, CAPACITY), 0, requests), **changes}
    run = run_ghz(ghz, config, address, requests.with_name("ghz.json"))
    _check_answered(address, run.calls)
    if len(run.calls.codes) < _FEWEST_ANSWERS * callers and duration_s < _LONGEST_S:
        longer_s = min(2 * duration_s, _LONGEST_S)
        return run_closed(ghz, address, requests, callers=callers, duration_s=longer_s)
    return ClosedRun(rate_of_answers(run.calls, callers), run.cpu_share)


def _check_answered(address: str, calls: Calls) -> None:
    if calls.count(OK) < len(calls.codes):
        raise GhzError(f"{address}: {calls.statuses()}, but every call should be answered")
