"""Run a peer that does no work: `python -m phoenix_bench.load.echo_process`.

A grpc.aio server that takes `Retrieve` as bytes and returns the same reply to all calls, as long as
a real one. It measures the cost of gRPC in Python. It prints its address as JSON, and exits when
its standard input ends.
"""

import asyncio
import json
import sys
from typing import Any

import grpc
import typer

from phoenix_bench.load.requests import METHOD_NAME, SERVICE

app = typer.Typer(pretty_exceptions_enable=False)


async def serve(reply: bytes) -> None:
    """Answer every `Retrieve` with `reply` until standard input ends."""

    async def retrieve(request: bytes, context: Any) -> bytes:
        return reply

    server = grpc.aio.server()
    handlers = {METHOD_NAME: grpc.unary_unary_rpc_method_handler(retrieve)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    typer.echo(json.dumps(f"127.0.0.1:{port}"))
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


@app.command()
def main() -> None:
    """Read the reply from the first line of standard input, in hexadecimal, and serve it."""
    asyncio.run(serve(bytes.fromhex(sys.stdin.readline())))


if __name__ == "__main__":
    app()
