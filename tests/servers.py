"""Real servers on loopback: in a thread of this process, or in a process of their own."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from phoenix_server.config import ServeConfig
from phoenix_server.runtime.program_cache import ProgramCache
from phoenix_server.server import Server

_SERVING = re.compile(r"SERVING on (\S+)")
_LOOPBACK = "127.0.0.1:0"  # a free port
_RECEIVE_TIMEOUT = "PHOENIX_RECEIVE_TIMEOUT_S"
_RECEIVE_TIMEOUT_S = 1500.0  # on a busy machine a request may take long to arrive
# Programs of all servers of this process: tracing and loading them takes seconds each time. They
# are kept when a server ends: the cache refers to them weakly.
_PROGRAMS = ProgramCache()
_PROGRAMS._shared._programs = {}  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]


class ThreadServer(NamedTuple):
    """A server in a thread of this process.

    Attributes:
        address: Where it listens.
        stop: Begins its shutdown, and returns at once.
    """

    address: str
    stop: Callable[[], object]


@contextmanager
def run_server(
    config: ServeConfig, programs: ProgramCache = _PROGRAMS
) -> Generator[ThreadServer, None, None]:
    """Run a server in a thread, on a free port, until the block ends; yield when it is ready.

    Args:
        config: What to serve; `listen` is ignored.
        programs: Compiled programs to share. Default: those of all servers of this process.
    """
    ready: Future[ThreadServer] = Future()

    async def run() -> None:
        calls = replace(config.calls, receive_timeout_s=_RECEIVE_TIMEOUT_S)
        server = Server(replace(config, listen=_LOOPBACK, calls=calls), programs=programs)
        loop = asyncio.get_running_loop()
        stop = partial(loop.call_soon_threadsafe, server.stop)
        await server.run(on_ready=lambda: ready.set_result(ThreadServer(server.address, stop)))

    def main() -> None:
        try:
            asyncio.run(run())
        except BaseException as exc:
            if ready.done():
                raise
            ready.set_exception(exc)

    thread = threading.Thread(target=main, name="server")
    thread.start()
    running = ready.result()
    try:
        yield running
    finally:
        with suppress(RuntimeError):  # its event loop is closed: it has stopped
            running.stop()
        thread.join()
        for other in threading.enumerate():
            if other.name == "compile":  # Python aborts if it ends while a thread is inside XLA
                other.join()


class ServerEndedError(Exception):
    """The process of a server ended before what was waited for."""


class ServerProcess:
    """`phoenix-server serve` in a process of its own, with its log.

    Attributes:
        pid: The process.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        program: Sequence[str | Path],
        env: Mapping[str, str] | None,
        folder: Path | None,
    ) -> None:
        command = [*program, "serve", "--listen", _LOOPBACK, *arguments]
        env = {_RECEIVE_TIMEOUT: str(_RECEIVE_TIMEOUT_S), **(os.environ if env is None else env)}
        self._process = subprocess.Popen(
            list(map(str, command)), stderr=subprocess.PIPE, text=True, env=env, cwd=folder
        )
        self.pid = self._process.pid
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="log", daemon=True)
        self._reader.start()

    def await_ready(self) -> str:
        """Wait until the server answers; return its address.

        Raises:
            ServerEndedError: It ended before.
        """
        return self.await_line(_SERVING)[1]

    def await_line(self, pattern: str | re.Pattern[str]) -> re.Match[str]:
        """Wait for a line of the log in which a pattern is found, and return the match.

        Raises:
            ServerEndedError: The log ended without one.
        """
        seen = 0
        with self._changed:
            while True:
                for line in self._lines[seen:]:
                    if found := re.search(pattern, line):
                        return found
                seen = len(self._lines)
                if self._ended:
                    raise ServerEndedError(f"not logged: {pattern}; but\n{self._text()}")
                self._changed.wait()

    def log(self) -> str:
        """Return what the server has logged so far."""
        with self._changed:
            return self._text()

    def wait(self) -> int:
        """Wait until the process ends by itself; return its status."""
        return self._process.wait()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait for the end of the process and of its log; return the status."""
        self._process.send_signal(number)
        status = self._process.wait()
        self._reader.join()
        return status

    def _text(self) -> str:
        return "".join(self._lines)

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as stream:
            for line in stream:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


@contextmanager
def spawn_server(
    *arguments: str | Path,
    program: Sequence[str | Path] = (sys.executable, "-m", "phoenix_server"),
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Generator[ServerProcess, None, None]:
    """Run `phoenix-server serve` on a free port until the block ends; yield it at once.

    Args:
        arguments: Options of `serve` other than `--listen`.
        program: The command that is `phoenix-server`.
        env: The environment. Default: that of this process.
        folder: The working directory. Default: that of this process.
    """
    server = ServerProcess(arguments, program=program, env=env, folder=folder)
    try:
        yield server
    finally:
        server.end(signal.SIGKILL)  # nothing happens if it has ended
