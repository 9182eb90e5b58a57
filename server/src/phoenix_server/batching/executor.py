"""The two threads that keep the device busy.

One owns the device: it launches a batch, then hands over the answers of the one before, then waits
for its own. The other prepares the next batch meanwhile.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from phoenix_server.batching.request import Batch, Outcomes
from phoenix_server.batching.scheduler import Scheduler
from phoenix_server.engine.query import Answer, Query

_log = logging.getLogger(__name__)


class Retriever(Protocol):
    """What answers queries; an `Engine`."""

    @property
    def max_batch(self) -> int:
        """Most queries of one batch."""
        ...

    @property
    def unforeseen_compilations(self) -> int:
        """How many programs were compiled that should have been there before."""
        ...

    def user_seconds(self, query: Query) -> float:
        """Return the device time of one user's tower, in seconds, as measured at start-up."""
        ...

    def batch_seconds(self, users: int) -> float:
        """Return the device time that a batch of so many users costs besides."""
        ...

    def prepare(self, queries: Sequence[Query]) -> Any:
        """Make the device's inputs of queries; touches no device."""
        ...

    def launch(self, prepared: Any) -> Any:
        """Hand prepared queries to the device, and return at once."""
        ...

    def collect(self, launched: Any) -> list[Answer]:
        """Wait for the answers of what was launched; in order."""
        ...


class Executor:
    """Runs what a schedule says, until it is closed."""

    def __init__(
        self,
        retriever: Retriever,
        schedule: Scheduler,
        settle: Callable[[Outcomes, float | None], None],
    ) -> None:
        """Start the threads.

        Args:
            retriever: Answers the queries.
            schedule: Says what to run next.
            settle: Takes results and errors, and when the device was done.
        """
        self._retriever = retriever
        self._schedule = schedule
        self._settle = settle
        self._threads = [
            threading.Thread(target=self._run_device, name="device", daemon=True),
            threading.Thread(target=self._run_preparation, name="preparation", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def join(self, timeout_s: float | None) -> bool:
        """Wait for the threads to end, each at most so long; return whether they have."""
        for thread in self._threads:
            thread.join(timeout_s)
        return not any(thread.is_alive() for thread in self._threads)

    def _run_device(self) -> None:
        done: tuple[Outcomes, float] | None = None
        while True:
            batch = self._schedule.next_for_device(wait=done is None)
            if callable(batch):  # nothing is on the device
                batch()
                self._schedule.done_between()
                continue
            if batch is not None and not self._launch(batch):
                continue
            if done is not None:
                self._settle(*done)  # now that the device is busy again
            elif batch is None:
                return
            done = None
            if batch is not None:
                outcomes = self._collect(batch)
                self._schedule.finish(batch)
                done = outcomes, batch.ended_s

    def _run_preparation(self) -> None:
        while (batch := self._schedule.next_to_prepare()) is not None:
            self._prepare(batch)

    def _prepare(self, batch: Batch) -> None:
        began = time.perf_counter()
        batch.error = None
        if queries := batch.queries:
            try:
                batch.prepared = self._retriever.prepare(queries)
            except Exception as exc:
                batch.error = exc
        self._schedule.set_ready(batch, time.perf_counter() - began)

    def _launch(self, batch: Batch) -> bool:
        """Start a batch; return whether anybody still waits for it."""
        if not batch.ready:
            self._prepare(batch)
        while not self._schedule.start(batch):
            if not batch.entries:
                return False
            self._prepare(batch)
        if not batch.kind and batch.error is None:
            try:
                batch.launched = self._retriever.launch(batch.prepared)
            except Exception as exc:
                batch.error = exc
        return True

    def _collect(self, batch: Batch) -> Outcomes:
        """Return what becomes of a batch that was started: results, or exceptions."""
        entries = batch.entries
        try:
            if batch.error is not None:
                raise batch.error
            if callable(work := entries[0].work):
                return [(entries[0], work())]
            answers = self._retriever.collect(batch.launched)
            return list(zip(entries, answers, strict=True))
        except Exception as exc:
            batch.error = exc
            if len(entries) == 1:
                return [(entries[0], exc)]
            _log.exception("a batch of %d failed; its queries run one by one", len(entries))
        results = list(map(self._run_alone, batch.queries))
        failed = sum(isinstance(result, Exception) for result in results)
        _log.error("one by one, %d of %d queries failed", failed, len(entries))
        return list(zip(entries, results, strict=True))

    def _run_alone(self, query: Query) -> Answer | Exception:
        try:
            launched = self._retriever.launch(self._retriever.prepare([query]))
            (answer,) = self._retriever.collect(launched)
        except Exception as exc:
            return exc
        return answer
