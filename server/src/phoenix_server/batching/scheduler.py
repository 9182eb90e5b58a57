"""Decides which requests to admit, when the next batch forms, and which requests it holds.

The docstring of `batching` has the states of a request; `request` defines the terms.
"""

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence

from phoenix_server.batching import refusals
from phoenix_server.batching.forecast import Forecast
from phoenix_server.batching.refusals import LastRefusal
from phoenix_server.batching.request import Batch, Outcomes, Request
from phoenix_server.batching.request_queue import RequestQueue, Slowdowns
from phoenix_server.batching.stats import QueueStats
from phoenix_server.config import QueueConfig
from phoenix_server.errors import DeadlineExceededError, NotReadyError, OverloadedError


class Scheduler:
    """The request queue, the next batch, and the batch on the device. Thread-safe.

    Attributes:
        forecast: Estimates of device and reply times.
    """

    def __init__(
        self,
        queue: RequestQueue,
        config: QueueConfig,
        clock: Callable[[], float],
        deliver: Callable[[Outcomes], None],
    ) -> None:
        """Create a scheduler with an idle device.

        Args:
            queue: An empty queue.
            config: The queue's limits.
            clock: Monotonic, in seconds.
            deliver: Takes the errors of requests that are dropped or expire.
        """
        self.forecast = Forecast(queue.max_batch)
        self._config = config
        self._clock = clock
        self._deliver = deliver
        self._queue = queue
        self._next: Batch | None = None  # formed; prepared, or about to be
        self._running: Batch | None = None  # on the device
        self._between: deque[Callable[[], None]] = deque()
        self._last_refusal = LastRefusal()
        self._free_since_s = clock()
        self._closed = False
        self._counts: Counter[str] = Counter()
        self._device_s = 0.0
        self._lock = threading.Lock()
        self._device_work = threading.Condition(self._lock)
        self._preparation_work = threading.Condition(self._lock)

    def check_room(self, due_s: float) -> None:
        """Check that a query is not late for the reason for which the last one was refused.

        This costs far less than to receive the query and to forecast its batch. `admit` forecasts.

        Args:
            due_s: When it is due.

        Raises:
            OverloadedError: It would be late.
        """
        with self._lock:
            if not (late_s := self._last_refusal.lateness(due_s)):
                return
            now_s = self._clock()
            self.forecast.arrivals.observe(now_s)
            self._counts["refused_late"] += 1
        raise refusals.late(due_s - now_s, late_s)

    def admit(self, request: Request) -> None:
        """Queue a request.

        Raises:
            OverloadedError: The queue is full, or the request or another would be late.
            NotReadyError: The scheduler is closed.
        """
        with self._lock:
            self._check_open()
            now_s, cautious = self._clock(), self.forecast.cautious
            free_s = self._free_s(now_s, cautious)
            waiting = len(self._queue)
            overload = self.forecast.note_arrival(request, self._queue.batch_cost_s)
            if waiting >= self._config.max_waiting:
                self._counts["refused_full"] += 1
                raise refusals.full(waiting, free_s - now_s)
            place = self._queue.add(request)
            late_s = self._queue.lateness(place, free_s + self._margin_s, cautious, overload)
            if late_s > 0:
                self._queue.discard(request)
                self._counts["refused_late"] += 1
                left_s = request.due_s - now_s
                if not waiting and self._running is None and self._next is None:
                    # Otherwise a slowdown that refuses every request would never be measured again.
                    self.forecast.relax()
                    raise refusals.never(left_s, late_s)
                if not request.kind:
                    self._last_refusal.remember(request, late_s, max(cautious))
                who = "it" if place == waiting else "it or another request"
                raise refusals.late(left_s, late_s, who)
            self._counts["accepted"] += 1
            if not waiting:
                self._wake()

    def abandon(self, request: Request) -> None:
        """Remove a request whose caller has left, and count it."""
        with self._lock:
            if request.settled:
                return
            request.settled = True
            self._queue.discard(request)
            self._last_refusal.forget()
            if self._clock() < request.deadline_s - self._config.reply_margin_s:
                self._counts["cancelled"] += 1
            else:
                self._counts["overrun" if request.launched else "expired"] += 1

    def note_results(self, *, answered: int, failed: int) -> None:
        """Count requests that got their results."""
        with self._lock:
            self._counts["answered"] += answered
            self._counts["failed"] += failed

    def note_replies(self, end_s: float) -> None:
        """Measure the time from the end of a batch on the device, `end_s`, to its replies."""
        with self._lock:
            self.forecast.reply.observe(self._clock() - end_s)

    @property
    def is_idle(self) -> bool:
        """Whether no request waits, is prepared or on the device."""
        with self._lock:
            return not len(self._queue) and self._next is None and self._running is None

    def stats(self) -> QueueStats:
        """Return the state and the counts, without uptime and compilations."""
        with self._lock:
            return QueueStats(
                **self._counts,
                waiting=len(self._queue),
                prepared=len(self._next.requests) if self._next else 0,
                on_device=len(self._running.requests) if self._running else 0,
                device_s=self._device_s,
                slowness=self.forecast.slowness,
                forecast_deviation=self.forecast.deviation,
                reply_s=self.forecast.reply.mean,
            )

    def close(self) -> None:
        """Refuse new requests."""
        with self._lock:
            self._closed = True
            self._wake()

    def add_between(self, function: Callable[[], None]) -> None:
        """Have the device thread run a function before the next batch.

        Raises:
            NotReadyError: The scheduler is closed.
        """
        with self._lock:
            self._check_open()
            self._between.append(function)
            self._device_work.notify()

    def finish_between(self) -> None:
        """Note that the device thread has run one of these functions."""
        with self._lock:
            self._last_refusal.forget()
            self._free_since_s = self._clock()

    def next_for_device(self, *, wait: bool) -> Batch | Callable[[], None] | None:
        """Return what to run next: functions of `add_between` first, then a batch.

        The caller prepares a batch that is not `ready`.

        Args:
            wait: Block until there is work.

        Returns:
            None if there is no work; with `wait`, only once the scheduler is closed.
        """
        with self._lock:
            while True:
                if self._between:
                    return self._between.popleft()
                if self._next is not None and self._next.ready:
                    return self._next
                if self._next is None:  # else the preparation thread prepares it
                    if (formed := self._form()) is not None:
                        return formed
                    if self._closed or not wait:
                        self._preparation_work.notify()
                        return None
                self._device_work.wait()

    def next_to_prepare(self) -> Batch | None:
        """Wait until it is time to prepare the batch that follows the running one; return it.

        That is when the device is expected to be free after the preparation time: as late as
        possible, so that urgent requests that arrive until then join the batch. If the device is
        free before, its own thread prepares the batch.

        Returns:
            None once the scheduler is closed and no request waits.
        """
        with self._lock:
            while not self._closed or self._queue:
                wait_s: float | None = None
                if self._queue and self._running is not None and self._next is None:
                    now_s = self._clock()
                    free_s = self._free_s(now_s, self.forecast.likely)
                    wait_s = free_s - self.forecast.preparation.high - now_s
                    if wait_s <= 0:
                        if (formed := self._form()) is not None:
                            return formed
                        continue
                self._preparation_work.wait(wait_s)
        return None

    def set_ready(self, batch: Batch, spent_s: float) -> None:
        """Note that a batch can be launched, and how long its preparation took."""
        with self._lock:
            if not batch.kind:
                self.forecast.preparation.observe(spent_s)
            batch.ready = True
            self._device_work.notify()

    def start(self, batch: Batch) -> bool:
        """Note that a batch is about to be launched, unless some of its requests have left.

        Returns:
            False if some have left or expired. They are removed, and the rest of the batch, if any,
            must be prepared again.
        """
        with self._lock:
            now_s = self._clock()
            self._expire([e for e in batch.requests if not e.settled and e.deadline_s <= now_s])
            left = [request for request in batch.requests if not request.settled]
            if len(left) < len(batch.requests):
                batch.requests = left
                if not left:
                    self._next = None
                return False
            self._last_refusal.forget()
            for request in left:
                request.launched = True
            # Device time includes preparation and the delays of the threads.
            batch.start_s = max(self._free_since_s, min(request.arrival_s for request in left))
            self._next, self._running = None, batch
            self._counts["batches"] += not batch.kind
            self._counts["batched_users"] += batch.users
            self._preparation_work.notify()
            return True

    def finish(self, batch: Batch) -> None:
        """Note that the device has finished a batch."""
        with self._lock:
            batch.end_s = self._free_since_s = self._clock()
            self._running = None
            self._last_refusal.forget()
            self._device_s += batch.end_s - batch.start_s
            if batch.error is None:
                self.forecast.observe(batch)

    def _check_open(self) -> None:
        if self._closed:
            raise NotReadyError("the server is shutting down")

    @property
    def _margin_s(self) -> float:
        return self._config.reply_margin_s + self.forecast.reply.high

    def _free_s(self, now_s: float, slowdowns: Slowdowns) -> float:
        """Return when the device can start a batch that forms now."""
        free_s = now_s
        if (running := self._running) is not None:
            free_s = max(now_s, running.start_s + slowdowns[running.users] * running.cost_s)
        if self._next is not None:
            free_s += slowdowns[self._next.users] * self._next.cost_s
        return free_s

    def _form(self) -> Batch | None:
        """Form the next batch if a request waits; drop expired and late requests."""
        self._last_refusal.forget()
        now_s, likely = self._clock(), self.forecast.likely
        self._expire(self._queue.expire(now_s))
        requests, cost_s, late = self._queue.form(
            self._free_s(now_s, likely),
            likely=likely,
            cautious=self.forecast.cautious,
            margin_s=self._margin_s,
        )
        if late:
            what = "the device took longer than forecast: the deadline cannot be met any more"
            later_s = self._margin_s + max(request.cost_s for request in late)
            self._give_up(late, "dropped_late", OverloadedError(what, retry_after_s=later_s))
        if requests:
            self._next = Batch(requests, cost_s)
        return self._next

    def _expire(self, requests: Sequence[Request]) -> None:
        error = DeadlineExceededError("the deadline passed in the queue")
        self._give_up(requests, "expired", error)

    def _give_up(self, requests: Sequence[Request], state: str, error: Exception) -> None:
        if not requests:
            return
        self._counts[state] += len(requests)
        for request in requests:
            request.settled = True
        self._deliver([(request, error) for request in requests])

    def _wake(self) -> None:
        self._device_work.notify()
        self._preparation_work.notify()
