"""An open-loop generator: `python -m phoenix_bench.load.open_loop`, a process of its own.

Calls begin when they are due, whether or not the ones before have ended, as users do who know
nothing of each other. Latency counts from when a call was due, so that a server that stalls pays
for every call that had to wait meanwhile.
"""

import asyncio
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import grpc
import numpy as np
import numpy.typing as npt
import typer

from phoenix_bench.load.arrivals import poisson_arrivals
from phoenix_bench.load.calls import Calls, Seconds, code
from phoenix_bench.load.requests import METHOD, read_requests
from phoenix_retrieval.v1.retrieval_service_pb2 import RetrieveResponse

app = typer.Typer(pretty_exceptions_enable=False)

_CONNECT_S = 10.0
_LEAST_S = 1e-3  # gRPC takes no time limit of 0 or less


class OpenRun(NamedTuple):
    """One run of the generator.

    Attributes:
        calls: What became of its calls.
        cpu_share: Processor time that the generator took, of one core.
        began_s: When it began, by `time.monotonic`, which all processes of a machine share.
        generations: [n] of str, the generation that each answer names; empty where none came.
    """

    calls: Calls
    cpu_share: float
    began_s: float
    generations: npt.NDArray[np.str_]


def offer(
    target: str, requests: Path, *, rate: float, duration_s: float, timeout_s: float, seed: int
) -> OpenRun:
    """Offer calls to a server from a process of their own.

    Args:
        target: The server, as host:port.
        requests: As `write_requests` wrote them; they are sent in turn.
        rate: Calls a second, on average.
        duration_s: How long calls begin, in seconds; the last may end `timeout_s` later.
        timeout_s: Each call's time limit from when it is due, in seconds.
        seed: Of the times at which calls are due.

    Raises:
        subprocess.CalledProcessError: The generator failed; it has said why on the terminal.
    """
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "calls.npz"
        options = {"rate": rate, "duration-s": duration_s, "timeout-s": timeout_s, "seed": seed}
        arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        command = [sys.executable, "-m", __name__, target, str(requests), str(out), *arguments]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        with np.load(out, allow_pickle=False) as columns:
            generations = columns["generations"]
            calls = Calls(**{name: columns[name] for name in Calls._fields})
    return OpenRun(calls, **json.loads(done.stdout), generations=generations)


async def send_all(
    target: str, requests: Sequence[bytes], due_s: Seconds, timeout_s: float
) -> OpenRun:
    """Send a request at each of the given times and wait for all of them to end.

    Args:
        target: The server, as host:port.
        requests: Serialised; they are sent in turn.
        due_s: [n] f64, ascending, from when the server is connected.
        timeout_s: Each call's time limit from when it is due, in seconds.

    Raises:
        TimeoutError: No server answers.
    """
    sent, ended = np.zeros_like(due_s), np.zeros_like(due_s)
    codes = np.zeros(len(due_s), np.int64)
    replies = [b""] * len(due_s)
    async with grpc.aio.insecure_channel(target) as channel:
        await asyncio.wait_for(channel.channel_ready(), _CONNECT_S)
        retrieve = channel.unary_unary(METHOD)  # bytes in, bytes out: the cheapest client

        async def call(i: int) -> None:
            sent[i] = time.monotonic() - start
            left_s = max(_LEAST_S, due_s[i] + timeout_s - sent[i])
            try:
                replies[i] = await retrieve(requests[i % len(requests)], timeout=left_s)
            except grpc.aio.AioRpcError as error:
                codes[i] = code(error.code())
            ended[i] = time.monotonic() - start

        start, cpu_before = time.monotonic(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for i, due in enumerate(due_s.tolist()):
                if (early_s := start + due - time.monotonic()) > 0:
                    await asyncio.sleep(early_s)
                group.create_task(call(i))
        cpu_s, wall_s = time.process_time() - cpu_before, time.monotonic() - start
    names = [RetrieveResponse.FromString(reply).generation for reply in replies]
    calls = Calls(due_s, sent, ended, codes)
    return OpenRun(calls, cpu_s / wall_s, start, np.array(names, np.str_))


@app.command()
def main(
    target: str,
    requests: Path,
    out: Path,
    rate: Annotated[float, typer.Option()],
    duration_s: Annotated[float, typer.Option()],
    timeout_s: Annotated[float, typer.Option()],
    seed: Annotated[int, typer.Option()],
) -> None:
    """Offer calls at Poisson times; write what became of them to OUT as .npz."""
    serialised = [request.SerializeToString() for request in read_requests(requests)]
    due_s = poisson_arrivals(rate, duration_s, seed)
    gc.freeze()
    gc.disable()  # a pause here would look like one of the server's
    run = asyncio.run(send_all(target, serialised, due_s, timeout_s))
    np.savez(out, allow_pickle=False, generations=run.generations, **run.calls._asdict())
    typer.echo(json.dumps({"cpu_share": run.cpu_share, "began_s": run.began_s}))


if __name__ == "__main__":
    app()
