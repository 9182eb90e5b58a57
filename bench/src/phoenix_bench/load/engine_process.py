"""Run an engine in a process: `python -m phoenix_bench.load.engine_process`.

The process runs queries without gRPC on command, and serves the same engine with `ThreadServer`. It
reads one command per line as JSON and answers each with one line. Its first line is its address.
"""

import itertools
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import typer

from phoenix_bench.load.requests import read_requests
from phoenix_bench.load.thread_server import ThreadServer
from phoenix_server.config import ServeConfig
from phoenix_server.engine.engine import Engine
from phoenix_server.engine.query import Query
from phoenix_server.generations.loader import load_engine
from phoenix_server.runtime.huge_pages import restart_with_huge_pages
from phoenix_server.service.requests import read_user

app = typer.Typer(pretty_exceptions_enable=False)


def run_batches(engine: Engine, queries: Sequence[Query], duration_s: float) -> float:
    """Run the queries in turn in full batches; return the answered queries per second."""
    size = engine.max_batch
    batches = itertools.cycle(
        [queries[start : start + size] for start in range(0, len(queries) - size + 1, size)]
    )
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < duration_s:
        done += len(engine.retrieve(next(batches)))
    return done / (time.perf_counter() - began)


def run_single(engine: Engine, query: Query) -> float:
    """Run one query alone; return its time in seconds."""
    began = time.perf_counter()
    engine.retrieve([query])
    return time.perf_counter() - began


@app.command()
def main(bundle: Path, corpus: Path, requests: Path) -> None:
    """Load, print the address of the threaded server, and run commands from standard input."""
    config = ServeConfig(bundle=bundle, corpus=corpus, read_only=True)
    engine = load_engine(config, compile_all=True)
    sizes = engine.bundle.manifest.model
    queries = [
        Query(read_user(request.user, sizes, config.limits.max_history), request.top_k)
        for request in read_requests(requests)
    ]
    server = ThreadServer(engine)
    typer.echo(json.dumps(server.address))
    for line in sys.stdin:
        match json.loads(line):
            case {"batches_s": float(duration_s)}:
                reply = run_batches(engine, queries, duration_s)
            case {"single": int(i)}:
                reply = run_single(engine, queries[i % len(queries)])
            case other:
                raise ValueError(f"unknown order: {other}")
        typer.echo(json.dumps(reply))
    server.close()


if __name__ == "__main__":
    restart_with_huge_pages()  # as our server does
    app()
