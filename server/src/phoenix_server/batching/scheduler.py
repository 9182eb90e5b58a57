"""Decides who is admitted, when the next batch forms and who is in it."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence

from phoenix_server.batching.forecast import Forecast
from phoenix_server.batching.request import Batch, Entry, Outcomes
from phoenix_server.batching.request_queue import Arrivals, Factors, RequestQueue
from phoenix_server.batching.stats import QueueStats
from phoenix_server.config import QueueConfig
from phoenix_server.errors import DeadlineExceededError, NotReadyError, OverloadedError


class Scheduler:
    """The backlog, and what is known of the device. For any thread.

    Attributes:
        forecast: What has been measured.
    """

    def __init__(
        self,
        backlog: RequestQueue,
        config: QueueConfig,
        clock: Callable[[], float],
        settle: Callable[[Outcomes], None],
    ) -> None:
        """Begin with nothing to do.

        Args:
            backlog: An empty one.
            config: The limits.
            clock: Seconds, from any beginning.
            settle: Takes the errors of entries that are given up.
        """
        self.forecast = Forecast(backlog.max_batch)
        self._config = config
        self._clock = clock
        self._settle = settle
        self._backlog = backlog
        self._upcoming: Batch | None = None  # formed; prepared, or about to be
        self._running: Batch | None = None
        self._free_since_s = clock()
        self._closed = False
        self._between: deque[Callable[[], None]] = deque()
        self._counts: Counter[str] = Counter()
        self._device_s = 0.0
        self._lock = threading.Lock()
        self._device_work = threading.Condition(self._lock)
        self._preparation_work = threading.Condition(self._lock)

    def admit(self, entry: Entry) -> None:
        """Queue an entry.

        Raises:
            OverloadedError: The queue is full, or the entry or another would be late.
            NotReadyError: The schedule is closed.
        """
        with self._lock:
            if self._closed:
                raise NotReadyError("the server drains")
            now_s, cautious = self._clock(), self.forecast.cautious
            free_s = self._free_s(now_s, cautious)
            waiting = len(self._backlog)
            excess = self._excess(entry)
            if waiting >= self._config.max_waiting:
                self._counts["refused_full"] += 1
                what = f"the queue is full: {waiting} users wait"
                raise OverloadedError(what, retry_after_s=free_s - now_s)
            place = self._backlog.add(entry)
            late_s = self._backlog.lateness(place, free_s + self._margin_s, cautious, excess)
            if late_s > 0:
                self._backlog.discard(entry)
                self._counts["refused_late"] += 1
                if not waiting and self._running is None and self._upcoming is None:
                    self.forecast.relax()  # or nothing might ever run and be measured again
                whose = "it" if place == waiting else "it or another"
                left_s = entry.due_s - now_s
                what = f"with {left_s:.3f} s left, {whose} would be {late_s:.3f} s late"
                raise OverloadedError(what, retry_after_s=late_s)
            self._counts["accepted"] += 1
            if not waiting:
                self._wake()

    def abandon(self, entry: Entry) -> None:
        """Forget an entry for which nobody waits any more."""
        with self._lock:
            if entry.settled:
                return
            entry.settled = True
            self._backlog.discard(entry)
            if self._clock() < entry.limit_s - self._config.reply_margin_s:
                self._counts["cancelled"] += 1
            else:
                self._counts["overrun" if entry.launched else "expired"] += 1

    def note_results(self, *, answered: int, failed: int) -> None:
        """Count entries that have got their results."""
        with self._lock:
            self._counts["answered"] += answered
            self._counts["failed"] += failed

    def note_replies(self, ended_s: float) -> None:
        """Measure how long replies took since the end of their batch on the device."""
        with self._lock:
            self.forecast.reply.observe(self._clock() - ended_s)

    @property
    def is_idle(self) -> bool:
        """Whether no entry waits, is prepared or on the device."""
        with self._lock:
            return not len(self._backlog) and self._upcoming is None and self._running is None

    def stats(self) -> QueueStats:
        """Return the queue's state and counts, as far as they are known here."""
        with self._lock:
            return QueueStats(
                **self._counts,
                waiting=len(self._backlog),
                prepared=len(self._upcoming.entries) if self._upcoming else 0,
                on_device=len(self._running.entries) if self._running else 0,
                device_s=self._device_s,
                slowness=self.forecast.slowness,
                forecast_deviation=self.forecast.deviation,
                reply_s=self.forecast.reply.mean,
            )

    def close(self) -> None:
        """Refuse what comes from now on."""
        with self._lock:
            self._closed = True
            self._wake()

    def add_between(self, function: Callable[[], None]) -> None:
        """Have the device's thread run a function before the next batch.

        Raises:
            NotReadyError: The schedule is closed.
        """
        with self._lock:
            if self._closed:
                raise NotReadyError("the server drains")
            self._between.append(function)
            self._device_work.notify()

    def done_between(self) -> None:
        """Note that the device's thread has run one of those functions."""
        with self._lock:
            self._free_since_s = self._clock()

    def next_for_device(self, *, wait: bool) -> Batch | Callable[[], None] | None:
        """Return what to run next: what `add_between` took, before any batch.

        Unless a batch is `ready`, it has yet to be prepared.

        Args:
            wait: For work, if there is none.

        Returns:
            None if there is none; with `wait`, only once the schedule is closed.
        """
        with self._lock:
            while True:
                if self._between:
                    return self._between.popleft()
                if self._upcoming is not None and self._upcoming.ready:
                    return self._upcoming
                if self._upcoming is None:  # or the other thread is about to prepare it
                    if (formed := self._form()) is not None:
                        return formed
                    if self._closed or not wait:
                        self._preparation_work.notify()
                        return None
                self._device_work.wait()

    def next_to_prepare(self) -> Batch | None:
        """Wait until it is time to prepare what follows the batch on the device; return that.

        That is late, just before the device will be free, so that urgent entries which come
        meanwhile are in it. If it is free before, its own thread sees to the next batch.

        Returns:
            None once the schedule is closed and nothing waits.
        """
        with self._lock:
            while not self._closed or self._backlog:
                wait_s: float | None = None
                if self._backlog and self._running is not None and self._upcoming is None:
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
        """Note that a batch can be launched, and how long that took to prepare."""
        with self._lock:
            if not batch.kind:
                self.forecast.preparation.observe(spent_s)
            batch.ready = True
            self._device_work.notify()

    def start(self, batch: Batch) -> bool:
        """Note that a batch is about to be launched.

        Returns:
            False if it is not: nobody waits for some of its entries any more. They are removed, and
            what is left must be prepared again, if anything is.
        """
        with self._lock:
            now_s = self._clock()
            self._expire([e for e in batch.entries if not e.settled and e.limit_s <= now_s])
            left = [entry for entry in batch.entries if not entry.settled]
            if len(left) < len(batch.entries):
                batch.entries = left
                if not left:
                    self._upcoming = None
                return False
            for entry in left:
                entry.launched = True
            # So preparation and the threads' own delays count as the batch's.
            batch.began_s = max(self._free_since_s, min(entry.came_s for entry in left))
            self._upcoming, self._running = None, batch
            self._counts["batches"] += not batch.kind
            self._counts["batched_users"] += batch.users
            self._preparation_work.notify()
            return True

    def finish(self, batch: Batch) -> None:
        """Note that the device is done with a batch."""
        with self._lock:
            batch.ended_s = self._free_since_s = self._clock()
            self._running = None
            self._device_s += batch.ended_s - batch.began_s
            if batch.error is None:
                self.forecast.observe(batch)

    def _excess(self, entry: Entry) -> Arrivals | None:
        """Note an arrival; return what is expected if that is more than the device can do."""
        arrivals, users = self.forecast.arrivals, self._backlog.max_batch
        if not entry.kind:
            arrivals.observe(entry.came_s, entry.cost_s)
        expected = arrivals.expected()
        full_s = self.forecast.likely[users] * self._backlog.seconds(users, expected.cost_s)
        arrivals.look_back(full_s)
        return expected if expected.rate * full_s > users else None

    @property
    def _margin_s(self) -> float:
        return self._config.reply_margin_s + self.forecast.reply.high

    def _free_s(self, now_s: float, factors: Factors) -> float:
        """Return when the device can begin with what waits."""
        free_s = now_s
        if (running := self._running) is not None:
            free_s = max(now_s, running.began_s + factors[running.users] * running.cost_s)
        if (upcoming := self._upcoming) is not None:
            free_s += factors[upcoming.users] * upcoming.cost_s
        return free_s

    def _form(self) -> Batch | None:
        """Form the next batch, if anything waits; settle what it is too late for."""
        now_s, likely = self._clock(), self.forecast.likely
        self._expire(self._backlog.expire(now_s))
        entries, cost_s, late = self._backlog.form(
            self._free_s(now_s, likely),
            likely=likely,
            cautious=self.forecast.cautious,
            margin_s=self._margin_s,
        )
        if late:
            self._counts["dropped_late"] += len(late)
            what = "the device took longer than was foreseen: the deadline cannot be met any more"
            later_s = self._margin_s + max(entry.cost_s for entry in late)
            self._give_up(late, OverloadedError(what, retry_after_s=later_s))
        if not entries:
            return None
        self._upcoming = Batch(entries, cost_s)
        return self._upcoming

    def _expire(self, entries: Sequence[Entry]) -> None:
        if entries:
            self._counts["expired"] += len(entries)
            self._give_up(entries, DeadlineExceededError("the deadline passed in the queue"))

    def _give_up(self, entries: Sequence[Entry], error: Exception) -> None:
        for entry in entries:
            entry.settled = True
        self._settle([(entry, error) for entry in entries])

    def _wake(self) -> None:
        self._device_work.notify()
        self._preparation_work.notify()
