"""Run the systems of the suite `serve` side by side; one works at a time."""

import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np

from phoenix_bench.load.calls import Seconds
from phoenix_bench.load.open_loop import OpenRun, offer
from phoenix_bench.load.processes import Child, spawn_child, spawn_server
from phoenix_bench.load.requests import (
    METHOD,
    RequestMix,
    draw_requests,
    history_lengths,
    let_users_repeat,
    read_requests,
    write_requests,
)
from phoenix_bench.load.target import ClosedRun, run_closed
from phoenix_bench.results import OURS
from phoenix_client import Model, PhoenixClient

DIRECT = "engine in process"
THREADS = "threaded gRPC server"
ECHO = "grpc.aio echo"

_WARM_UP_S = 2.0
_WARM_UP_CALLERS = 64
_SETTLE_S = 2.0
_REGULARS = 300  # users who come again


class MixedRun(NamedTuple):
    """A run in which half of the requests are of users who come again.

    Attributes:
        rate: Answers per second.
        hit_share: Share of the users whose representation was in the server's cache.
    """

    rate: float
    hit_share: float


class Rig:
    """The running systems, and methods to load them.

    Attributes:
        described: Description of the requests.
    """

    def __init__(
        self,
        *,
        ghz: Path,
        model: Model,
        requests: Path,
        addresses: Mapping[str, str],
        engine: Child,
        caching: str,
    ) -> None:
        self._ghz = ghz
        self._model = model
        self._requests = requests
        self._addresses = addresses
        self._engine = engine
        self._caching = caching
        drawn = read_requests(requests)
        self.described = (
            f"top {drawn[0].top_k}, histories of {history_lengths(drawn).mean():.0f} engagements "
            "on average"
        )

    def run_batches(self, duration_s: float) -> float:
        """Run full batches in process, without gRPC; return users per second."""
        return self._engine.ask(batches_s=float(duration_s))

    def run_closed(self, system: str, *, callers: int, duration_s: float) -> ClosedRun:
        """Keep a number of calls in flight, with ghz."""
        return run_closed(
            self._ghz,
            self._addresses[system],
            self._requests,
            callers=callers,
            duration_s=duration_s,
        )

    def run_repeating(self, *, callers: int, duration_s: float, turn: int) -> MixedRun:
        """Keep calls in flight to the server with a user cache, half of them of regular users.

        The others come once; another `turn` has others.
        """
        regulars = read_requests(self._requests)[:_REGULARS]
        new = draw_requests(self._model, RequestMix(top_k=regulars[0].top_k, seed=turn + 1))
        mixed = self._requests.with_name("mixed.bin")
        known = self._requests.with_name("regulars.bin")
        write_requests(regulars, known)
        write_requests(let_users_repeat(new, regulars, seed=turn), mixed)
        load = partial(run_closed, self._ghz, self._caching, callers=callers)
        load(known, duration_s=_WARM_UP_S)
        with PhoenixClient(self._caching) as client:
            before = client.get_serving_stats()
            run = load(mixed, duration_s=duration_s)
            after = client.get_serving_stats()
        hits = after.user_cache_hits - before.user_cache_hits
        misses = after.user_cache_misses - before.user_cache_misses
        return MixedRun(run.rate, hits / (hits + misses))

    def run_alone(self, calls: int) -> Mapping[str, Seconds]:
        """Send the first requests one by one to each system; return the time of each call.

        A request goes to all systems before the next one, so that noise affects all of them alike.
        The caller is gRPC's Python client, in bytes; the echo measures its own cost.
        """
        sent = [request.SerializeToString() for request in read_requests(self._requests)[:calls]]
        seconds = {system: np.zeros(len(sent)) for system in (DIRECT, *self._addresses)}
        with ExitStack() as stack:
            methods = {
                system: stack.enter_context(grpc.insecure_channel(address)).unary_unary(METHOD)
                for system, address in self._addresses.items()
            }
            for retrieve in methods.values():
                retrieve(sent[0])  # connects
            for i, request in enumerate(sent):
                seconds[DIRECT][i] = self._engine.ask(single=i)
                for system, retrieve in methods.items():
                    began = time.perf_counter()
                    retrieve(request)
                    seconds[system][i] = time.perf_counter() - began
        return seconds

    def offer(
        self, system: str, *, rate: float, duration_s: float, timeout_s: float, seed: int
    ) -> OpenRun:
        """Send open-loop calls; see `open_loop.offer`."""
        return offer(
            self._addresses[system],
            self._requests,
            rate=rate,
            duration_s=duration_s,
            timeout_s=timeout_s,
            seed=seed,
        )

    def settle(self) -> None:
        """Wait until the server has worked off an overload."""
        time.sleep(_SETTLE_S)


@contextmanager
def start_rig(bundle: Path, corpus: Path, ghz: Path) -> Generator[Rig, None, None]:
    """Start the systems over one bundle and corpus, warm them up, yield, and end them.

    Raises:
        ChildError: One of them ended early.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = stack.enter_context(
            spawn_server(["--bundle", bundle, "--corpus", corpus, "--log-level", "INFO"])
        )
        caching = stack.enter_context(
            spawn_server(["--bundle", bundle, "--corpus", corpus, "--read-only"], caches_users=True)
        )
        requests = directory / "requests.bin"
        with PhoenixClient(ours) as client:
            model = client.get_model()
        drawn = draw_requests(model, RequestMix(top_k=min(200, model.max_top_k)))
        write_requests(drawn, requests)
        engine = stack.enter_context(
            spawn_child("phoenix_bench.load.engine_process", bundle, corpus, requests)
        )
        reply = _fetch_reply(ours, drawn[0].SerializeToString())
        echo = stack.enter_context(
            spawn_child("phoenix_bench.load.echo_process", first_line=reply.hex())
        )
        rig = Rig(
            ghz=ghz,
            model=model,
            requests=requests,
            addresses={OURS: ours, THREADS: engine.address, ECHO: echo.address},
            engine=engine,
            caching=caching,
        )
        for system in (OURS, THREADS, ECHO):
            rig.run_closed(system, callers=_WARM_UP_CALLERS, duration_s=_WARM_UP_S)
        yield rig


def _fetch_reply(target: str, request: bytes) -> bytes:
    """Return a real reply as bytes."""
    with grpc.insecure_channel(target) as channel:
        reply: bytes = channel.unary_unary(METHOD)(request)
    return reply
