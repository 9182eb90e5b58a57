"""Generate open-loop load in a process: `python -m phoenix_bench.load.open_loop`.

Calls begin when they are due, whether or not earlier ones have ended, as calls of independent users
do. Latency counts from the due time, so that a stall of the server counts for every call that had
to wait meanwhile.
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
_LEAST_S = 1e-3  # gRPC accepts only positive time limits


class OpenRun(NamedTuple):
    """One run of the generator.

    Attributes:
        calls: Results of the calls.
        cpu_share: Processor time of the generator, as a share of one core.
        began_s: Start time by `time.monotonic`, which all processes of a machine share.
        generations: [n] str, generation named by each answer; empty if there was no answer.
    """

    calls: Calls
    cpu_share: float
    began_s: float
    generations: npt.NDArray[np.str_]


def offer(
    target: str, requests: Path, *, rate: float, duration_s: float, timeout_s: float, seed: int
) -> OpenRun:
    """Send calls to a server from a new process.

    Args:
        target: The server, as host:port.
        requests: File of `write_requests`; its requests are sent in turn.
        rate: Mean number of calls per second.
        duration_s: Time in which calls begin, in seconds; the last may end `timeout_s` later.
        timeout_s: Time limit of each call from its due time, in seconds.
        seed: Random seed of the due times.

    Raises:
        subprocess.CalledProcessError: The generator failed; the reason is on the terminal.
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
    """Send a request at each of the given times, and wait for all calls to end.

    Args:
        target: The server, as host:port.
        requests: Serialised requests; they are sent in turn.
        due_s: [n] f64, due times from the moment of connection, ascending.
        timeout_s: Time limit of each call from its due time, in seconds.

    Raises:
        TimeoutError: No server answers.
    """
    sent, ended = np.zeros_like(due_s), np.zeros_like(due_s)
    codes = np.zeros(len(due_s), np.int64)
    replies = [b""] * len(due_s)
    async with grpc.aio.insecure_channel(target) as channel:
        await asyncio.wait_for(channel.channel_ready(), _CONNECT_S)
        retrieve = channel.unary_unary(METHOD)  # bytes in and out, the cheapest client

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
    """Send calls at Poisson times; write their results to OUT as .npz."""
    serialised = [request.SerializeToString() for request in read_requests(requests)]
    due_s = poisson_arrivals(rate, duration_s, seed)
    gc.freeze()
    gc.disable()  # a pause here would count as the server's
    run = asyncio.run(send_all(target, serialised, due_s, timeout_s))
    np.savez(out, allow_pickle=False, generations=run.generations, **run.calls._asdict())
    typer.echo(json.dumps({"cpu_share": run.cpu_share, "began_s": run.began_s}))


if __name__ == "__main__":
    app()
