"""Write posts as fast as the server acknowledges them, or at a given rate.

A batch of posts is one change. It is serialised beforehand, so that callers cost little time.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import grpc
import numpy as np

from phoenix_retrieval.v1 import corpus_service_pb2 as pb

_SERVICE = "/phoenix_retrieval.v1.CorpusService/"
_FIRST_ID = 1 << 40  # below all ids that carry times


class Batches(NamedTuple):
    """Changes to send in turn.

    Attributes:
        posts: Number of posts of each change.
        changes: Serialised `UpsertPostsRequest`s.
        messages: The same as `StreamUpsertPostsRequest`s.
    """

    posts: int
    changes: Sequence[bytes]
    messages: Sequence[bytes]


def draw_batches(*, count: int, posts: int, width: int, vectors: bool, seed: int = 0) -> Batches:
    """Draw upserts of posts that the corpus does not hold; repeating one replaces its posts.

    Args:
        count: Number of changes.
        posts: Number of posts of each change.
        width: Width of a vector.
        vectors: Send vectors; otherwise the server's candidate tower computes them.
        seed: Random seed.
    """
    rng = np.random.default_rng(seed)
    requests: list[pb.UpsertPostsRequest] = []
    for i in range(count):
        drawn = rng.standard_normal((posts, width), np.float32)
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        first = _FIRST_ID + i * posts
        requests.append(
            pb.UpsertPostsRequest(
                post_ids=range(first, first + posts),
                author_ids=rng.integers(1, 1 << 60, posts).tolist(),
                vectors=drawn.ravel().tolist() if vectors else (),
            )
        )
    return Batches(
        posts,
        [request.SerializeToString() for request in requests],
        [pb.StreamUpsertPostsRequest(change=request).SerializeToString() for request in requests],
    )


@dataclass
class _Turns:
    """Changes handed out in turn to several callers, until a time or a count."""

    changes: Sequence[bytes]
    until_s: float = float("inf")
    most: int | None = None
    given: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __iter__(self) -> Iterator[bytes]:
        while time.monotonic() < self.until_s:
            with self.lock:
                if self.given == self.most:
                    return
                change = self.changes[self.given % len(self.changes)]
                self.given += 1
            yield change


def write_calls(address: str, batches: Batches, *, callers: int, duration_s: float) -> float:
    """Write batches with `UpsertPosts`; each caller sends its next one after the answer.

    Returns:
        Posts per second, all of them acknowledged.
    """
    began = time.monotonic()
    turns = _Turns(batches.changes, until_s=began + duration_s)
    _call_all(address, turns, callers)
    return turns.given * batches.posts / (time.monotonic() - began)


def write_once(address: str, batches: Batches, *, callers: int) -> None:
    """Write every batch once with `UpsertPosts`."""
    _call_all(address, _Turns(batches.changes, most=len(batches.changes)), callers)


def write_streams(address: str, batches: Batches, *, callers: int, duration_s: float) -> float:
    """Write batches with `StreamUpsertPosts`, one stream for each caller.

    Returns:
        Posts per second, until all streams are answered.
    """
    began = time.monotonic()
    turns = _Turns(batches.messages, until_s=began + duration_s)

    def call(_: int) -> None:
        with grpc.insecure_channel(address) as channel:
            channel.stream_unary(f"{_SERVICE}StreamUpsertPosts")(iter(turns))

    _run_all(call, callers)
    return turns.given * batches.posts / (time.monotonic() - began)


class PacedStream:
    """One stream that writes posts at a rate, or as fast as the server accepts, until `end`.

    Attributes:
        rate: Posts written per second, once the stream has ended.
    """

    def __init__(self, address: str, batches: Batches, *, rate: float) -> None:
        """Start the stream.

        Args:
            address: Address of the server.
            batches: Batches to write in turn.
            rate: Posts per second.
        """
        self.rate = 0.0
        self._every_s = batches.posts / rate
        self._batches = batches
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._done = self._pool.submit(self._run, address)

    def end(self) -> None:
        """End the stream and wait until everything it wrote is acknowledged.

        Raises:
            grpc.RpcError: The server refused a change.
        """
        self._stop.set()
        self._done.result()
        self._pool.shutdown()

    def _run(self, address: str) -> None:
        sent = 0
        began = time.monotonic()

        def messages() -> Iterator[bytes]:
            nonlocal sent
            while not self._stop.wait(max(0.0, began + sent * self._every_s - time.monotonic())):
                yield self._batches.messages[sent % len(self._batches.messages)]
                sent += 1

        with grpc.insecure_channel(address) as channel:
            channel.stream_unary(f"{_SERVICE}StreamUpsertPosts")(messages())
        self.rate = sent * self._batches.posts / (time.monotonic() - began)


def _call_all(address: str, turns: _Turns, callers: int) -> None:
    def call(_: int) -> None:
        with grpc.insecure_channel(address) as channel:
            upsert = channel.unary_unary(f"{_SERVICE}UpsertPosts")
            for change in turns:
                upsert(change)

    _run_all(call, callers)


def _run_all(call: Callable[[int], None], callers: int) -> None:
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(call, range(callers)))
