"""The two threads that keep the device busy.

The device thread owns the device: it launches a batch, then delivers the answers of the batch
before, then waits for its own. The preparation thread prepares the next batch meanwhile.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from phoenix_server.batching.request import Batch, Outcomes
from phoenix_server.batching.scheduler import Scheduler
from phoenix_server.bundle.features import UserColumns
from phoenix_server.engine.query import Answer, Query

_log = logging.getLogger(__name__)


class Retriever(Protocol):
    """Answers queries; `Engine` is one."""

    @property
    def max_batch(self) -> int:
        """Maximum queries of a batch."""
        ...

    @property
    def unforeseen_compilations(self) -> int:
        """Number of programs compiled while a caller waited."""
        ...

    def user_key(self, user: UserColumns) -> bytes:
        """Return a key of a user: equal only where user and towers are."""
        ...

    def user_seconds(self, query: Query) -> float:
        """Return the device time of a query's user tower, in seconds, as measured at start-up.

        It is 0 for a user who is encoded already.
        """
        ...

    def batch_seconds(self, users: int) -> float:
        """Return the device time of a search for a batch of users, measured likewise."""
        ...

    def prepare(self, queries: Sequence[Query]) -> Any:
        """Make the device's inputs on the host."""
        ...

    def launch(self, prepared: Any) -> Any:
        """Start prepared queries on the device, and return at once."""
        ...

    def collect(self, launched: Any) -> list[Answer]:
        """Wait for launched queries; return their answers in order."""
        ...


class Executor:
    """Runs the batches of a scheduler until it is closed."""

    def __init__(
        self,
        retriever: Retriever,
        scheduler: Scheduler,
        deliver: Callable[[Outcomes, float | None], None],
    ) -> None:
        """Start the threads.

        Args:
            retriever: Answers the queries.
            scheduler: Forms the batches.
            deliver: Takes the outcomes of a batch, and when it ended on the device.
        """
        self._retriever = retriever
        self._scheduler = scheduler
        self._deliver = deliver
        self._threads = [
            threading.Thread(target=self._run_device, name="device", daemon=True),
            threading.Thread(target=self._run_preparation, name="preparation", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def join(self, timeout_s: float | None) -> bool:
        """Wait for each thread up to `timeout_s`; return whether all have ended."""
        for thread in self._threads:
            thread.join(timeout_s)
        return not any(thread.is_alive() for thread in self._threads)

    def _run_device(self) -> None:
        ended: tuple[Outcomes, float] | None = None
        while True:
            batch = self._scheduler.next_for_device(wait=ended is None)
            if callable(batch):  # nothing is on the device
                batch()
                self._scheduler.finish_between()
                continue
            if batch is not None and not self._launch(batch):
                continue
            if ended is not None:
                self._deliver(*ended)  # while the device works on the next batch
            elif batch is None:
                return
            ended = None
            if batch is not None:
                outcomes = self._collect(batch)
                self._scheduler.finish(batch)
                ended = outcomes, batch.end_s

    def _run_preparation(self) -> None:
        while (batch := self._scheduler.next_to_prepare()) is not None:
            self._prepare(batch)

    def _prepare(self, batch: Batch) -> None:
        start_s = time.perf_counter()
        batch.error = None
        if queries := batch.queries:
            try:
                batch.prepared = self._retriever.prepare(queries)
            except Exception as exc:
                batch.error = exc
        self._scheduler.set_ready(batch, time.perf_counter() - start_s)

    def _launch(self, batch: Batch) -> bool:
        """Start a batch; return False if all of its requests have left."""
        if not batch.ready:
            self._prepare(batch)
        while not self._scheduler.start(batch):
            if not batch.requests:
                return False
            self._prepare(batch)
        if not batch.kind and batch.error is None:
            try:
                batch.launched = self._retriever.launch(batch.prepared)
            except Exception as exc:
                batch.error = exc
        return True

    def _collect(self, batch: Batch) -> Outcomes:
        """Wait for a started batch. If it fails, run its queries one by one."""
        requests = batch.requests
        try:
            if batch.error is not None:
                raise batch.error
            if callable(work := requests[0].work):
                return [(requests[0], work())]
            answers = self._retriever.collect(batch.launched)
            return list(zip(requests, answers, strict=True))
        except Exception as exc:
            batch.error = exc
            if len(requests) == 1:
                return [(requests[0], exc)]
            _log.exception("a batch of %d queries failed; running them one by one", len(requests))
        results = list(map(self._run_alone, batch.queries))
        failed = sum(isinstance(result, Exception) for result in results)
        _log.error("run one by one, %d of %d queries failed", failed, len(requests))
        return list(zip(requests, results, strict=True))

    def _run_alone(self, query: Query) -> Answer | Exception:
        try:
            launched = self._retriever.launch(self._retriever.prepare([query]))
            (answer,) = self._retriever.collect(launched)
        except Exception as exc:
            return exc
        return answer
