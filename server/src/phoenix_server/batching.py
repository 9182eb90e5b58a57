"""Collects queries that wait while the device is busy, and runs them together.

One thread owns the device. It takes what waits, up to a batch, and answers it; then again.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol, TypeVar

from phoenix_server.engine import Answer, Query
from phoenix_server.errors import NotReadyError, OverloadedError

_log = logging.getLogger(__name__)

T = TypeVar("T")

_SMOOTHING = 0.1  # of the moving average of the time a user takes


class Retriever(Protocol):
    """What answers queries; an `Engine`."""

    @property
    def max_batch(self) -> int:
        """Most queries of one call."""
        ...

    def retrieve(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer queries together, in order."""
        ...


class _Waiting:
    """A query or a call in the queue, and who waits for it."""

    def __init__(self, work: Query | Callable[[], object]) -> None:
        self.work = work
        self.future: Future[object] = Future()


class Batcher:
    """Runs queries in batches, and other calls one by one, on one thread."""

    def __init__(self, retriever: Retriever, *, max_waiting: int) -> None:
        """Start the thread.

        Args:
            retriever: Answers the queries.
            max_waiting: Most entries of the queue; further ones are refused.
        """
        self._retriever = retriever
        self._max_waiting = max_waiting
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._seconds_per_entry = 0.01
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    async def retrieve(self, query: Query) -> Answer:
        """Answer a query along with others.

        Raises:
            OverloadedError: The queue is full.
            NotReadyError: The batcher was closed.
        """
        answer = await self._wait(_Waiting(query))
        assert isinstance(answer, Answer)
        return answer

    async def call(self, function: Callable[[], T]) -> T:
        """Run a function on the device's thread; errors as for `retrieve`."""
        results: list[T] = []
        await self._wait(_Waiting(lambda: results.append(function())))
        return results[0]

    def close(self, timeout_s: float | None = None) -> bool:
        """Refuse new work, finish what waits, and end the thread.

        Args:
            timeout_s: How long to wait for that, in seconds. Default: as long as it takes.

        Returns:
            Whether the thread has ended.
        """
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    async def _wait(self, waiting: _Waiting) -> object:
        with self._changed:
            if self._closed:
                raise NotReadyError("the server drains")
            if len(self._queue) >= self._max_waiting:
                waiting_s = len(self._queue) * self._seconds_per_entry
                raise OverloadedError(len(self._queue), retry_after_s=waiting_s)
            self._queue.append(waiting)
            self._changed.notify()
        # A call that is cancelled, or whose deadline passes, cancels its future: see _take.
        return await asyncio.wrap_future(waiting.future)

    def _run(self) -> None:
        while batch := self._take():
            began = time.monotonic()
            self._answer(batch)
            spent = (time.monotonic() - began) / len(batch)
            self._seconds_per_entry += _SMOOTHING * (spent - self._seconds_per_entry)

    def _take(self) -> list[_Waiting]:
        """Wait for work; return one call or a batch of queries, nothing once closed and done."""
        with self._changed:
            while True:
                while not self._queue:
                    if self._closed:
                        return []
                    self._changed.wait()
                batch: list[_Waiting] = []
                while self._queue and len(batch) < self._retriever.max_batch:
                    is_call = not isinstance(self._queue[0].work, Query)
                    if is_call and batch:
                        break
                    waiting = self._queue.popleft()
                    if waiting.future.set_running_or_notify_cancel():
                        batch.append(waiting)
                    if is_call and batch:
                        break
                if batch:
                    return batch

    def _answer(self, batch: list[_Waiting]) -> None:
        try:
            queries = [waiting.work for waiting in batch if isinstance(waiting.work, Query)]
            if queries:
                for waiting, answer in zip(batch, self._retriever.retrieve(queries), strict=True):
                    waiting.future.set_result(answer)
            else:
                (call,) = batch
                assert not isinstance(call.work, Query)
                call.future.set_result(call.work())
        except Exception as exc:
            for waiting in batch:
                if not waiting.future.done():
                    waiting.future.set_exception(exc)
