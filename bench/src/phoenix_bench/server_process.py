"""A server in a process of its own, watched from its first instruction on."""

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
# It listens before it is healthy; gRPC's own pause between attempts to connect is a second.
_RECONNECT = [
    ("grpc.initial_reconnect_backoff_ms", 20),
    ("grpc.min_reconnect_backoff_ms", 20),
    ("grpc.max_reconnect_backoff_ms", 20),
]


class LogLine(NamedTuple):
    """What the server said, and when, in seconds from its start."""

    at_s: float
    message: str


class Stage(NamedTuple):
    """A stretch of a start, named by the first words of the message that began it."""

    name: str
    spent_s: float


class ServerError(Exception):
    """The server ended, or took too long."""


class ServerLog:
    """What a server says, read as it comes."""

    def __init__(self, stream: IO[str], began: float) -> None:
        """Read a stream in a thread, until it ends.

        Args:
            stream: What the server writes to.
            began: When the server started, by `time.monotonic`.
        """
        self._stream = stream
        self._began = began
        self._lines: list[tuple[float, str]] = []
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def text(self) -> str:
        """Return all that was said."""
        with self._changed:
            return "".join(line for _, line in self._lines)

    def until(self, words: str, *, timeout_s: float = _LIMIT_S) -> Sequence[LogLine]:
        """Wait for a message that holds some words; return it and those before it.

        Raises:
            ServerError: It did not come.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._find(words), timeout_s)
            if found := self._find(words):
                return found
        raise ServerError(f"the server has not said {words!r}, only:\n{self.text()}")

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
    """A server that is SERVING.

    Attributes:
        pid: Its process.
        address: Where it listens, as gRPC names it.
        serving_s: Seconds from its start until its health was SERVING.
        log: What it says.
    """

    pid: int
    address: str
    serving_s: float
    log: ServerLog


@contextmanager
def start_server(arguments: Sequence[str | Path]) -> Generator[RunningServer, None, None]:
    """Run `phoenix-server serve` on a socket of its own; yield when its health is SERVING.

    Raises:
        ServerError: It never is.
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
    """Yield the server's own messages of level INFO."""
    for at_s, line in lines:
        if found := _MESSAGE.match(line.rstrip("\n")):
            yield LogLine(at_s, found["message"])


def find_stages(log: Sequence[LogLine]) -> Iterator[Stage]:
    """Yield what lies between the messages; what comes before the first is named for that."""
    if log:
        yield Stage("before the first message", log[0].at_s)
    for line, following in pairwise(log):
        yield Stage(_first_words(line.message), following.at_s - line.at_s)


def _first_words(message: str) -> str:
    """Return a message up to its first path, number or name."""
    found = re.match(r"[A-Za-z]+(?: [A-Za-z]+)*(?![^\s:,])", message)
    return found[0] if found else message


def _await_serving(address: str, process: subprocess.Popen[str], log: ServerLog) -> None:
    deadline = time.monotonic() + _LIMIT_S
    with grpc.insecure_channel(address, _RECONNECT) as channel:
        health: Any = HealthStub(channel)  # its type stub has no methods
        while (left_s := deadline - time.monotonic()) > 0 and process.poll() is None:
            with suppress(grpc.RpcError):  # it does not listen yet
                reply = health.Check(HealthCheckRequest(), timeout=left_s)
                if reply.status == HealthCheckResponse.SERVING:
                    return
            time.sleep(_POLL_S)
    raise ServerError(f"the server is not SERVING (exit status {process.poll()}):\n{log.text()}")
