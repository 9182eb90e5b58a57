"""Real servers on loopback, in this process or in one of their own."""

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import IO, NamedTuple

from phoenix_server.config import ServeConfig
from phoenix_server.server import Server

READY = re.compile(r"SERVING on (\S+)")


class Running(NamedTuple):
    """A server in this process: where it listens, and how to begin to drain it."""

    address: str
    stop: Callable[[], object]


@contextmanager
def run_server(config: ServeConfig) -> Generator[Running, None, None]:
    """Run a server in a thread, on a free port, until the block ends; yield when it is ready."""
    ready: Future[Running] = Future()

    async def run() -> None:
        server = Server(replace(config, listen="127.0.0.1:0"))
        loop = asyncio.get_running_loop()
        stop = partial(loop.call_soon_threadsafe, server.stop)
        await server.run(on_ready=lambda: ready.set_result(Running(server.address, stop)))

    def main() -> None:
        try:
            asyncio.run(run())
        except BaseException as exc:
            ready.set_exception(exc)

    thread = threading.Thread(target=main, name="server")
    thread.start()
    running = ready.result()
    try:
        yield running
    finally:
        with suppress(RuntimeError):  # it has stopped already
            running.stop()
        thread.join()
        for other in threading.enumerate():
            if other.name == "compile":  # Python must not end while it is inside XLA
                other.join()


@contextmanager
def spawn_server(*arguments: str) -> Generator[tuple[subprocess.Popen[str], str], None, None]:
    """Run `phoenix-server serve` on a free port; yield the process and its address when ready."""
    command = [sys.executable, "-m", "phoenix_server", "serve", "--listen", "127.0.0.1:0"]
    with subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            address = _await_ready(process.stderr)
            reader = threading.Thread(target=process.stderr.read, daemon=True)
            reader.start()  # or the pipe fills, and the server waits
            yield process, address
            process.terminate()
            process.wait()
            reader.join()
        finally:
            process.kill()


def _await_ready(stderr: IO[str]) -> str:
    lines: list[str] = []
    for line in stderr:
        lines.append(line)
        if found := READY.search(line):
            return found[1]
    raise AssertionError(f"the server ended before it was ready:\n{''.join(lines)}")
