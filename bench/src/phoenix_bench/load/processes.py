"""Run the processes that the suite `serve` measures: our server, the peers, the echo."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

_SERVING = re.compile(r"SERVING on (\S+)")
_IDLE_PERCENT = 5  # of one core
_IDLE_LIMIT_S = 300


class ChildError(Exception):
    """A process ended too early, or the server did not become idle."""


class Child:
    """A child process with a protocol of JSON lines.

    Attributes:
        address: Address on which it listens.
        pid: Process id.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid
        self.address: str = self._read()

    def ask(self, **order: float) -> Any:
        """Send a command and return its result.

        Raises:
            ChildError: The process ended instead.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return json.loads(line)
        raise ChildError(f"{self._process.args!r} ended with {self._process.wait()}")


@contextmanager
def spawn_child(
    module: str, *arguments: str | Path, first_line: str = ""
) -> Generator[Child, None, None]:
    """Run a module that prints its address first; yield the process, and end it after the block."""
    with subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdin is not None
            if first_line:
                process.stdin.write(first_line + "\n")
                process.stdin.flush()
            yield Child(process)
            process.stdin.close()
            process.wait()
        finally:
            process.kill()


@contextmanager
def spawn_server(
    arguments: Sequence[str | Path], *, caches_users: bool = False
) -> Generator[str, None, None]:
    """Run `phoenix-server serve` on a free port; yield its address when it is idle.

    Unless it `caches_users`, as a server does by default, it has no user cache: most suites send
    the same requests again and again, and each is to run the user tower.

    The server continues to compile after it is SERVING. To keep that out of measurements, this
    waits until it is idle.

    Raises:
        ChildError: It ended before, or did not become idle.
    """
    command = [sys.executable, "-m", "phoenix_server", "serve", "--listen", "127.0.0.1:0"]
    if not caches_users:
        command += ["--user-cache", "0"]
    with subprocess.Popen(
        [*command, *map(str, arguments)], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        try:
            address = _await_serving(process)
            _await_idle(process.pid)
            yield address
            process.terminate()
            process.wait()
        finally:
            process.kill()


def _await_serving(process: subprocess.Popen[str]) -> str:
    """Read the log of the server until it is SERVING; return its address."""
    assert process.stderr is not None
    lines: list[str] = []
    for line in process.stderr:
        lines.append(line)
        if found := _SERVING.search(line):
            reader = threading.Thread(target=process.stderr.read, daemon=True)
            reader.start()  # otherwise the pipe fills and blocks the server
            return found[1]
    raise ChildError(f"the server ended before it was ready:\n{''.join(lines)}")


def _await_idle(pid: int) -> None:
    """Wait until a process is idle: everything is compiled."""
    process = psutil.Process(pid)
    process.cpu_percent()  # the first value is meaningless
    for _ in range(_IDLE_LIMIT_S):
        if process.cpu_percent(interval=1.0) < _IDLE_PERCENT:
            return
    raise ChildError(f"the server was not idle after {_IDLE_LIMIT_S} s")
