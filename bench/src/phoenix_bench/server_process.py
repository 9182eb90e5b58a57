"""Run a server as a process and time its start from exec."""

import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

ALL_COMPILED = "of them compiled ahead"
"""The server's words once nothing is left to compile, which is after it is SERVING."""

_MESSAGE = re.compile(r"^\S+ \S+ INFO phoenix_server[.\w]*: (?P<message>.*)$")
_LIMIT_S = 300
_POLL_S = 0.02
# The server listens before it is healthy. gRPC by default waits 1 s between connection attempts.
_RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 20),
]


class LogLine(NamedTuple):
    """A log message of the server and its time, in seconds from the server's start."""

    at_s: float
    message: str


class Stage(NamedTuple):
    """A stage of a start, named by the first words of the message that began it."""

    name: str
    spent_s: float


class ServerError(Exception):
    """The server ended or took too long."""


class ServerLog:
    """The output of a server, read as it arrives."""

    def __init__(self, stream: IO[str], began: float) -> None:
        """Read a stream in a thread until it ends.

        Args:
            stream: Stream that the server writes to.
            began: Start time of the server, by `time.monotonic`.
        """
        self._stream = stream
        self._began = began
        self._lines: list[tuple[float, str]] = []
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def text(self) -> str:
        """Return the whole output so far."""
        with self._changed:
            return "".join(line for _, line in self._lines)

    def until(self, words: str, *, timeout_s: float = _LIMIT_S) -> Sequence[LogLine]:
        """Wait for a message that contains some words; return it and those before it.

        Raises:
            ServerError: The message did not arrive in time.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._find(words), timeout_s)
            if found := self._find(words):
                return found
        raise ServerError(f"the server has not logged {words!r}, only:\n{self.text()}")

    def join(self) -> None:
        """Wait for the end of the stream."""
        self._reader.join()

    def _find(self, words: str) -> Sequence[LogLine]:
        messages = list(parse_log(self._lines))
        for i, line in enumerate(messages):
            if words in line.message:
                return messages[: i + 1]
        return ()

    def _read(self) -> None:
        for line in self._stream:
            with self._changed:
                self._lines.append((time.monotonic() - self._began, line))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """A server whose health is SERVING.

    Attributes:
        pid: Process id.
        address: Its address, host:port.
        serving_s: Seconds from its start until its health was SERVING.
        log: Its output.
    """

    pid: int
    address: str
    serving_s: float
    log: ServerLog


@contextmanager
def start_server(arguments: Sequence[str | Path]) -> Generator[RunningServer, None, None]:
    """Run `phoenix-server serve` on a new unix socket; yield when its health is SERVING.

    Raises:
        ServerError: It does not become SERVING.
    """
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix:{folder}/server"
        command = [sys.executable, "-m", "phoenix_server", "serve", "--listen", address]
        began = time.monotonic()
        with subprocess.Popen(
            [*command, *map(str, arguments)], stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            log = ServerLog(process.stderr, began)
            try:
                _await_serving(address, process, log)
                serving_s = time.monotonic() - began
                yield RunningServer(pid=process.pid, address=address, serving_s=serving_s, log=log)
                process.terminate()
                process.wait()
            finally:
                process.kill()
                log.join()


def parse_log(lines: Iterable[tuple[float, str]]) -> Iterator[LogLine]:
    """Yield the server's own log messages of level INFO."""
    for at_s, line in lines:
        if found := _MESSAGE.match(line.rstrip("\n")):
            yield LogLine(at_s, found["message"])


def find_stages(log: Sequence[LogLine]) -> Iterator[Stage]:
    """Yield the stages between messages; the stage before the first message has a fixed name."""
    if log:
        yield Stage("before the first message", log[0].at_s)
    for line, following in pairwise(log):
        yield Stage(_first_words(line.message), following.at_s - line.at_s)


def _first_words(message: str) -> str:
    """Return the words of a message before its first path, number or name."""
    found = re.match(r"[A-Za-z]+(?: [A-Za-z]+)*(?![^\s:,])", message)
    return found[0] if found else message


def _await_serving(address: str, process: subprocess.Popen[str], log: ServerLog) -> None:
    deadline = time.monotonic() + _LIMIT_S
    with grpc.insecure_channel(address, _RECONNECT) as channel:
        health: Any = HealthStub(channel)  # the type stub declares no methods
        while (left_s := deadline - time.monotonic()) > 0 and process.poll() is None:
            with suppress(grpc.RpcError):  # the server does not listen yet
                reply = health.Check(HealthCheckRequest(), timeout=left_s)
                if reply.status == HealthCheckResponse.SERVING:
                    return
            time.sleep(_POLL_S)
    raise ServerError(f"the server is not SERVING (exit status {process.poll()}):\n{log.text()}")
