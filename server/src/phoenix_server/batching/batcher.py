"""The queue as the services see it: coroutines that wait for the device."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import TypeVar

from phoenix_server.batching.executor import Executor, Retriever
from phoenix_server.batching.request import Entry, Outcomes
from phoenix_server.batching.request_queue import RequestQueue
from phoenix_server.batching.scheduler import Scheduler
from phoenix_server.batching.stats import QueueStats
from phoenix_server.config import QueueConfig
from phoenix_server.engine.query import Answer, Query

T = TypeVar("T")

_RECENT = 8


class Batcher:
    """Runs queries in batches, and other calls one by one, by their deadlines.

    Attributes:
        recent: The queries that came last.

    Its coroutines raise

    * `OverloadedError` if the queue is full, or if they or others would be answered too late;
    * `DeadlineExceededError` if the deadline passes before the device is free;
    * `NotReadyError` once the batcher is closed;
    * what the retriever or the call raises.
    """

    def __init__(
        self,
        retriever: Retriever,
        config: QueueConfig,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the threads.

        Args:
            retriever: Answers the queries.
            config: The queue's limits.
            clock: Seconds, from any beginning.
        """
        self._retriever = retriever
        self._config = config
        self._clock = clock
        self._numbers = count()
        self.recent: deque[Query] = deque(maxlen=_RECENT)
        self._made_s = clock()
        self._compilations = retriever.unforeseen_compilations
        backlog = RequestQueue(retriever.max_batch, retriever.batch_seconds)
        self._schedule = Scheduler(backlog, config, clock, self._settle)
        self._pipeline = Executor(retriever, self._schedule, self._settle)

    async def retrieve(self, query: Query, *, timeout_s: float | None = None) -> Answer:
        """Answer a query along with others.

        Args:
            query: The query.
            timeout_s: The time until its deadline, in seconds. None: it has none.
        """
        self.recent.append(query)
        cost_s = self._retriever.user_seconds(query)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        return await self._wait(query, future, cost_s, timeout_s)

    async def call(
        self, function: Callable[[], T], *, kind: str, timeout_s: float | None = None
    ) -> T:
        """Run a function on the device's thread.

        Args:
            function: What to run.
            kind: What it does; calls of one kind are taken to last equally long.
            timeout_s: As for `retrieve`.
        """
        cost_s = self._schedule.forecast.call_cost_s(kind)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        return await self._wait(function, future, cost_s, timeout_s, kind)

    def run_between(self, function: Callable[[], None]) -> None:
        """Run a function between two batches, when nothing is on the device; from a thread.

        Raises:
            NotReadyError: The batcher is closed.
            Exception: What the function raises.
        """
        result: Future[None] = Future()

        def run() -> None:
            try:
                function()
            except BaseException as exc:
                result.set_exception(exc)
            else:
                result.set_result(None)

        self._schedule.add_between(run)
        result.result()

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for an answer; from any thread."""
        return self._schedule.is_idle

    def stats(self) -> QueueStats:
        """Return the queue's state and counts."""
        return replace(
            self._schedule.stats(),
            uptime_s=self._clock() - self._made_s,
            compilations_after_ready=self._retriever.unforeseen_compilations - self._compilations,
        )

    def close(self, timeout_s: float | None = None) -> bool:
        """Refuse new work, finish what waits, and end the threads.

        Args:
            timeout_s: How long to wait for each thread, in seconds. Default: as long as it takes.

        Returns:
            Whether the threads have ended.
        """
        self._schedule.close()
        return self._pipeline.join(timeout_s)

    async def _wait(
        self,
        work: Query | Callable[[], object],
        future: asyncio.Future[T],
        cost_s: float,
        timeout_s: float | None,
        kind: str = "",
    ) -> T:
        came_s = self._clock()
        left_s = self._config.default_timeout_s if timeout_s is None else timeout_s
        entry = Entry(
            work,
            future,
            came_s=came_s,
            cost_s=cost_s,
            due_s=came_s + left_s,
            has_deadline=timeout_s is not None,
            number=next(self._numbers),
            kind=kind,
        )
        self._schedule.admit(entry)
        try:
            return await future
        except asyncio.CancelledError:
            self._schedule.abandon(entry)
            raise

    def _settle(self, outcomes: Outcomes, ended_s: float | None = None) -> None:
        """Wake who waits, all at once; from any thread."""
        loop = outcomes[0][0].future.get_loop()
        with suppress(RuntimeError):  # the loop is closed, and nobody waits
            loop.call_soon_threadsafe(self._resolve, outcomes, ended_s)

    def _resolve(self, outcomes: Outcomes, ended_s: float | None) -> None:
        answered = failed = 0
        for entry, result in outcomes:
            if entry.future.done():
                continue
            if isinstance(result, Exception):
                entry.future.set_exception(result)
                failed += not entry.settled
            else:
                entry.future.set_result(result)
                answered += 1
            entry.settled = True
        self._schedule.note_results(answered=answered, failed=failed)
        if ended_s is not None:
            # Runs after those who wait have made their replies.
            asyncio.get_running_loop().call_soon(self._schedule.note_replies, ended_s)
