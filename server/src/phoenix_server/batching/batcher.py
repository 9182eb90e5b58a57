"""The event loop's side of the queue: coroutines that wait for the device."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, TypeVar

from phoenix_server.batching.executor import Executor, Retriever
from phoenix_server.batching.request import Outcomes, Request
from phoenix_server.batching.request_queue import RequestQueue
from phoenix_server.batching.scheduler import Scheduler
from phoenix_server.batching.stats import QueueStats
from phoenix_server.batching.user_cache import UserCache
from phoenix_server.bundle.features import UserColumns
from phoenix_server.config import QueueConfig
from phoenix_server.engine.query import Answer, EncodedUser, Query
from phoenix_server.runtime.threads import settle

T = TypeVar("T")

_RECENT = 8


class Batcher:
    """Runs queries in batches, and other calls one at a time, in order of their deadlines.

    `retrieve` and `call` raise

    * `OverloadedError` if the queue is full, or if the request or another would be late;
    * `DeadlineExceededError` if the deadline passes before the request reaches the device;
    * `NotReadyError` once the batcher is closed;
    * the errors of the retriever or the call.

    Attributes:
        recent: The last 8 queries with columns: the towers of any generation can answer these.
    """

    def __init__(
        self,
        retriever: Retriever,
        config: QueueConfig,
        users: UserCache | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the threads.

        Args:
            retriever: Answers the queries.
            config: The queue's limits.
            users: Users that were encoded before. Default: all are encoded.
            clock: Monotonic, in seconds.
        """
        self._retriever = retriever
        self._config = config
        self._users = users
        self._user_cache_hits = self._user_cache_misses = 0
        self._clock = clock
        self._numbers = count()
        self.recent: deque[Query] = deque(maxlen=_RECENT)
        self._created_s = clock()
        self._compilations = retriever.unforeseen_compilations
        queue = RequestQueue(retriever.max_batch, retriever.batch_seconds)
        self._scheduler = Scheduler(queue, config, clock, self._deliver)
        self._executor = Executor(retriever, self._scheduler, self._deliver)

    def check_room(self, timeout_s: float | None) -> None:
        """Check, before a query is received, that it is not late as the last one was.

        Args:
            timeout_s: As for `retrieve`.

        Raises:
            OverloadedError: It would be late.
        """
        self._scheduler.check_room(self._due_s(self._clock(), timeout_s))

    async def retrieve(self, query: Query, *, timeout_s: float | None = None) -> Answer:
        """Answer a query, in a batch with others.

        A user whom the cache holds is not encoded again. Any other is kept in it with the answer;
        of equal users that are encoded at the same time, the first to be answered.

        Args:
            query: The query.
            timeout_s: Time until its deadline, in seconds. None: it has no deadline.
        """
        if not isinstance(query.user, UserColumns):
            return await self._answer(query, timeout_s)
        self.recent.append(query)
        if self._users is None:
            return await self._answer(query, timeout_s)
        key = self._retriever.user_key(query.user)
        if (known := self._find(self._users, key)) is not None:
            return await self._answer(query._replace(user=known), timeout_s)
        answer = await self._answer(query, timeout_s)
        if answer.has_direction:
            self._users.add(key, EncodedUser(answer.representation, answer.norm))
        return answer

    def look_up(self, user: UserColumns) -> UserColumns | EncodedUser:
        """Return a user as they were encoded before, or the columns if they were not."""
        if self._users is None:
            return user
        known = self._find(self._users, self._retriever.user_key(user))
        return user if known is None else known

    async def call(
        self, function: Callable[[], T], *, kind: str, timeout_s: float | None = None
    ) -> T:
        """Run a function on the device thread.

        Args:
            function: The function.
            kind: Names calls that take about equally long; not empty.
            timeout_s: As for `retrieve`.
        """
        cost_s = self._scheduler.forecast.call_cost_s(kind)
        return await self._run(function, cost_s, timeout_s, kind)

    def run_between_batches(self, function: Callable[[], None]) -> None:
        """Run a function on the device thread between two batches; blocks the calling thread.

        Raises:
            NotReadyError: The batcher is closed.
            Exception: What the function raises.
        """
        result: Future[None] = Future()
        self._scheduler.add_between(partial(settle, result, function))
        result.result()

    @property
    def is_idle(self) -> bool:
        """Whether no request waits, is prepared or on the device; from any thread."""
        return self._scheduler.is_idle

    def stats(self) -> QueueStats:
        """Return the queue's state and counts."""
        return replace(
            self._scheduler.stats(),
            uptime_s=self._clock() - self._created_s,
            compilations_after_ready=self._retriever.unforeseen_compilations - self._compilations,
            user_cache_hits=self._user_cache_hits,
            user_cache_misses=self._user_cache_misses,
            user_cache_users=0 if self._users is None else len(self._users),
        )

    def close(self, timeout_s: float | None = None) -> bool:
        """Refuse new requests, finish the accepted ones, and end the threads.

        Args:
            timeout_s: Maximum wait for each thread, in seconds. None: no limit.

        Returns:
            Whether the threads have ended.
        """
        self._scheduler.close()
        return self._executor.join(timeout_s)

    def _find(self, users: UserCache, key: bytes) -> EncodedUser | None:
        """Look a user up, and count it."""
        known = users.find(key)
        self._user_cache_hits += known is not None
        self._user_cache_misses += known is None
        return known

    async def _answer(self, query: Query, timeout_s: float | None) -> Answer:
        return await self._run(query, self._retriever.user_seconds(query), timeout_s)

    async def _run(
        self,
        work: Query | Callable[[], object],
        cost_s: float,
        timeout_s: float | None,
        kind: str = "",
    ) -> Any:
        arrival_s = self._clock()
        request = Request(
            work,
            asyncio.get_running_loop().create_future(),
            arrival_s=arrival_s,
            cost_s=cost_s,
            due_s=self._due_s(arrival_s, timeout_s),
            has_deadline=timeout_s is not None,
            number=next(self._numbers),
            kind=kind,
        )
        self._scheduler.admit(request)
        try:
            return await request.future
        except asyncio.CancelledError:
            self._scheduler.abandon(request)
            raise

    def _due_s(self, arrival_s: float, timeout_s: float | None) -> float:
        return arrival_s + (self._config.default_timeout_s if timeout_s is None else timeout_s)

    def _deliver(self, outcomes: Outcomes, end_s: float | None = None) -> None:
        """Hand results to their callers; from any thread. The queue's only way to the event loop.

        Wakes the loop once per batch. `asyncio.wrap_future` wakes it once per request: that took 14
        to 27 µs of CPU more per request on a quiet machine and 23 to 62 µs on a busy one, of about
        1 ms per `Retrieve`; with a device that answers at once, batches fell from 8 to 5.8 users.

        Args:
            outcomes: Results of requests of one event loop; not empty.
            end_s: When their batch ended on the device. None: they did not run.
        """
        loop = outcomes[0][0].future.get_loop()
        with suppress(RuntimeError):  # the loop is closed: no caller waits
            loop.call_soon_threadsafe(self._resolve, outcomes, end_s)

    def _resolve(self, outcomes: Outcomes, end_s: float | None) -> None:
        """Resolve the futures that still wait, and count them; on the event loop."""
        answered = failed = 0
        for request, result in outcomes:
            if request.future.done():  # cancelled
                continue
            if isinstance(result, Exception):
                request.future.set_exception(result)
                failed += not request.settled
            else:
                request.future.set_result(result)
                answered += 1
            request.settled = True
        self._scheduler.note_results(answered=answered, failed=failed)
        if end_s is not None:
            # Runs after the callers, which were scheduled above, have made their replies.
            asyncio.get_running_loop().call_soon(self._scheduler.note_replies, end_s)
