"""Send a server random requests and damaged HTTP/2: `make fuzz CASES=200000 SEED=1`.

No request may end the server, hang, or fail with INTERNAL or UNKNOWN, and a good call must be
answered throughout. What failed is printed with its number and seed, which repeat it.
"""

import argparse
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from commands import run_module
from http2 import exchange
from phoenix_retrieval.v1 import (
    corpus_service_pb2,
    model_service_pb2,
    retrieval_service_pb2,
)
from servers import ServerProcess, spawn_server

_SIZES = ("--posts", "2000", "--vocab", "5000", "--layers", "2")
_TIMEOUT_S = 60.0
_WAIT_S = 1.0  # the deadline of a call that may wait for a change that does not come
_GOOD_EACH = 500  # cases between two good calls
_CALLERS = 16
_EXCHANGES = 0.1  # share of cases that are HTTP/2 exchanges
_DAMAGED = 0.3  # share of requests whose bytes are changed
_ALLOWED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.PERMISSION_DENIED,
}
_NOT_CALLED = {"CreateSnapshot"}  # it writes to the disk as often as it is called
_FILES = (retrieval_service_pb2, model_service_pb2, corpus_service_pb2)
METHODS: list[MethodDescriptor] = [
    method
    for file in _FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.name not in _NOT_CALLED
]
_NUMBERS = (0, 1, 2, 3, 7, 127, 128, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
_TEXTS = (
    "",
    "a",
    "NBA",
    "\x00",
    "\n",
    "é",
    "👩‍🚀",
    "%",
    "../..",
    "/dev/zero",
    "x" * 300,
    "y" * 9000,
)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 3.4e38, float("inf"), float("-inf"), float("nan"))
_LENGTHS = (0, 0, 1, 1, 1, 2, 3, 17, 128, 300)


class Requests:
    """Draws requests of any shape: fields that are absent, extreme, or do not fit together."""

    def __init__(self, rng: random.Random, known_ids: list[int]) -> None:
        self._random = rng
        self._ids = known_ids

    def draw(self, method: MethodDescriptor) -> bytes:
        """Return a request, or bytes that are nearly one."""
        content = self._message(method.input_type, depth=0).SerializeToString()
        if self._random.random() < _DAMAGED:
            content = damage(self._random, content)
        return content

    def _message(self, kind: Descriptor, depth: int) -> Message:
        message = GetMessageClass(kind)()
        length = self._random.choice(_LENGTHS)  # the same for most columns, so that some fit
        for field in kind.fields:
            if self._random.random() < 0.2:
                continue
            if field.is_repeated:
                odd = self._random.random() < 0.1
                count = self._random.choice(_LENGTHS) if odd else length
                values = getattr(message, field.name)
                if field.message_type is not None:
                    count = min(count, 5 if depth == 0 else 2)
                    values.extend(
                        self._message(field.message_type, depth + 1) for _ in range(count)
                    )
                else:
                    values.extend(self._value(field) for _ in range(count))
            elif field.message_type is not None:
                if depth < 3:
                    value = self._message(field.message_type, depth + 1)
                    getattr(message, field.name).CopyFrom(value)
            else:
                setattr(message, field.name, self._value(field))
        return message

    def _value(self, field: FieldDescriptor) -> Any:
        draw = self._random
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING:
                return draw.choice(_TEXTS)
            case FieldDescriptor.CPPTYPE_BOOL:
                return draw.random() < 0.5
            case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
                return draw.choice(_FLOATS)
            case FieldDescriptor.CPPTYPE_UINT64:
                known = self._ids and draw.random() < 0.5
                return draw.choice(self._ids) if known else draw.choice(_NUMBERS)
            case FieldDescriptor.CPPTYPE_INT64:
                return draw.choice(_NUMBERS) - 2**63
            case FieldDescriptor.CPPTYPE_INT32:
                return draw.choice(_NUMBERS) % 2**32 - 2**31
            case _:
                return draw.choice(_NUMBERS) % 2**32


def damage(rng: random.Random, content: bytes) -> bytes:
    """Return bytes with some of them changed, removed, repeated or added."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(4):
            case 0 if changed:
                changed[at % len(changed)] ^= 1 << rng.randrange(8)
            case 1:
                del changed[at : at + rng.choice((1, 4, 100))]
            case 2:
                changed[at:at] = rng.randbytes(rng.choice((1, 3, 9)))
            case _:
                changed[at:at] = changed[at : at + 30]
    return bytes(changed)


def waits_for_change(method: MethodDescriptor, content: bytes) -> bool:
    """Return whether a request names a change that must come before its answer."""
    try:
        request: Any = GetMessageClass(method.input_type).FromString(content)
    except DecodeError:
        return False
    each = getattr(request, "requests", [request])  # of a BatchRetrieve
    return any(getattr(one, "min_sequence", 0) for one in each)


class FuzzError(Exception):
    """The server did what it must not."""


class Fuzz:
    """Cases against one server."""

    def __init__(self, server: ServerProcess, address: str, seed: int) -> None:
        self._server = server
        self._address = address
        self._seed = seed
        self._channel = grpc.insecure_channel(
            address, [("grpc.max_receive_message_length", -1), ("grpc.max_metadata_size", 16384)]
        )
        self._good = self._channel.unary_unary("/phoenix_retrieval.v1.RetrievalService/Retrieve")
        asked = retrieval_service_pb2.RetrieveRequest(top_k=5)
        asked.user.user_id = 7
        self._asked = asked.SerializeToString()
        answer = retrieval_service_pb2.RetrieveResponse.FromString(self._ask())
        self._ids = list(answer.post_ids)
        self.statuses: Counter[str] = Counter()

    def run(self, cases: int, first: int = 0) -> Iterator[int]:
        """Run cases from number `first` on; yield the number of the next one now and then.

        Raises:
            FuzzError: One of them failed.
        """
        with ThreadPoolExecutor(_CALLERS) as pool:
            for start in range(first, first + cases, _GOOD_EACH):
                end = min(start + _GOOD_EACH, first + cases)
                self.statuses.update(pool.map(self._case, range(start, end)))
                self._ask()
                yield end
        self._check_log()

    def _case(self, number: int) -> str:
        """Run one case and return how it ended.

        Raises:
            FuzzError: It failed.
        """
        rng = random.Random(f"{self._seed} {number}")
        run = self._exchange if rng.random() < _EXCHANGES else self._request
        try:
            return run(rng)
        except (FuzzError, grpc.RpcError, OSError) as exc:
            raise FuzzError(f"case {number} of seed {self._seed}: {exc}") from exc

    def _ask(self) -> bytes:
        """Send a good request; it must be answered."""
        try:
            return self._good(self._asked, timeout=_TIMEOUT_S, wait_for_ready=True)
        except grpc.RpcError as exc:
            raise FuzzError(f"a good call was not answered: {exc}") from exc

    def _request(self, rng: random.Random) -> str:
        method = rng.choice(METHODS)
        path = f"/{method.containing_service.full_name}/{method.name}"
        requests = Requests(rng, self._ids)
        may_wait = False
        try:
            if method.client_streaming:
                sent = [requests.draw(method) for _ in range(rng.choice((0, 1, 3)))]
                self._channel.stream_unary(path)(iter(sent), timeout=_TIMEOUT_S)
            else:
                request = requests.draw(method)
                may_wait = waits_for_change(method, request)
                timeout_s = _WAIT_S if may_wait else _TIMEOUT_S
                self._channel.unary_unary(path)(request, timeout=timeout_s)
            code = grpc.StatusCode.OK
        except grpc.RpcError as exc:
            code = exc.code()  # type: ignore[attr-defined]
            in_vain = may_wait and code is grpc.StatusCode.DEADLINE_EXCEEDED
            if code not in _ALLOWED and not in_vain:
                raise FuzzError(f"{method.name}: {code.name}: {exc.details()}") from exc  # type: ignore[attr-defined]
        return code.name

    def _exchange(self, rng: random.Random) -> str:
        method = rng.choice(METHODS)
        path = f"/{method.containing_service.full_name}/{method.name}".encode()
        if rng.random() < 0.3:
            path = damage(rng, path)
        sent = exchange(path, Requests(rng, self._ids).draw(method)[:20_000])
        if rng.random() < 0.8:
            sent = damage(rng, sent)
        host, _, port = self._address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=_TIMEOUT_S) as connection:
            try:
                connection.sendall(sent)
                connection.settimeout(0.02)
                while connection.recv(65536):
                    pass
            except (TimeoutError, ConnectionError):
                pass
        return "HTTP/2"

    def _check_log(self) -> None:
        if "Traceback" in (log := self._server.log()):
            raise FuzzError(f"the log has a traceback:\n{log[-4000:]}")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, bundle, corpus = (Path(folder) / name for name in ("demo", "1", "corpus"))
        run_module("phoenix_export", "demo", checkpoint, *_SIZES).checked()
        run_module(
            "phoenix_export", "bundle", checkpoint, "--out", bundle, "--no-saved-model"
        ).checked()
        posts = checkpoint / "sports_corpus.npz"
        run_module(
            "phoenix_server", "import-corpus", posts, "--bundle", bundle, "--out", corpus
        ).checked()
        with spawn_server("--bundle", bundle, "--corpus", corpus, "--evict-oldest") as server:
            fuzz = Fuzz(server, server.await_ready(), chosen.seed)
            began_s = time.monotonic()
            try:
                for number in fuzz.run(chosen.cases, chosen.first):
                    if number % 5_000 == 0:
                        took_s = time.monotonic() - began_s
                        sys.stdout.write(f"to case {number}, {took_s:.0f} s: {fuzz.statuses}\n")
                        sys.stdout.flush()
            except FuzzError as exc:
                sys.exit(f"{exc}\n{server.log()[-3000:]}")
            took_s = time.monotonic() - began_s
            sys.stdout.write(f"{chosen.cases} cases in {took_s:.0f} s: {fuzz.statuses}\n")


if __name__ == "__main__":
    main()
