"""A simulation of callers, a scheduler and a device, in simulated time."""

import heapq
import random
from asyncio import Future
from dataclasses import dataclass
from itertools import count
from math import exp
from typing import Any

from phoenix_server.batching.request import Batch, Request
from phoenix_server.batching.request_queue import RequestQueue
from phoenix_server.batching.scheduler import Scheduler
from phoenix_server.config import QueueConfig
from phoenix_server.errors import OverloadedError
from server.batching.fakes import Clock, query

MAX_BATCH = 32
USER_S = 0.003
_REPLY_S = 0.003
_DURATION_S = 12.0
_QUERY = query(1)
_NO_LOOP: Any = type("Loop", (), {"get_debug": lambda self: False})()


@dataclass
class Outcome:
    """Counts of calls by what became of them.

    Attributes:
        in_time: Answered before their deadlines.
        late: Accepted, but answered late, dropped or expired.
        refused: Refused at arrival.
        capacity: Calls that a device always busy with full batches could have answered.
    """

    in_time: int = 0
    late: int = 0
    refused: int = 0
    capacity: float = 0.0


def search_s(users: int) -> float:
    """Return the search cost of programs compiled for 1, 8, 16 and 32 users."""
    return next(
        cost for size, cost in ((1, 0.009), (8, 0.03), (16, 0.035), (32, 0.052)) if users <= size
    )


class Simulation:
    """A scheduler, a device that runs its batches, and callers that arrive at random.

    Device time = cost * slowness * exp(normal(0, irregularity)).

    Attributes:
        foretold: Calls that are refused before they are received, without a forecast.
        wrongly_foretold: Those of them that a forecast admits.
    """

    def __init__(
        self,
        *,
        slowness: float,
        irregularity: float,
        seed: int,
        costs: tuple[float, float] = (1.0, 1.0),
        forecast_all: bool = False,
    ) -> None:
        """Begin with an idle device.

        Args:
            slowness: See above.
            irregularity: See above.
            seed: Of all that is random.
            costs: Least and largest cost of a call, as shares of `USER_S`.
            forecast_all: Forecast also those that could be refused before.
        """
        self.foretold = self.wrongly_foretold = 0
        self._costs = costs
        self._forecast_all = forecast_all
        self._slowness = slowness
        self._irregularity = irregularity
        self._random = random.Random(seed)
        self._clock = Clock(0.0)
        queue = RequestQueue(MAX_BATCH, search_s)
        self._scheduler = Scheduler(queue, QueueConfig(), self._clock, lambda outcomes: None)
        self._events: list[tuple[float, int, Batch | float]] = []
        self._numbers = count()
        self._running = False

    def run(self, *, load: float, timeouts_s: tuple[float, ...]) -> Outcome:
        """Offer `load` times the capacity for 12 s, and wait for the last answer."""
        full_s = self._slowness * (MAX_BATCH * USER_S + search_s(MAX_BATCH))
        outcome = Outcome(capacity=MAX_BATCH / full_s * _DURATION_S)
        arrival_s = 0.0
        while arrival_s < _DURATION_S:
            arrival_s += self._random.expovariate(load * MAX_BATCH / full_s)
            self._add_event(arrival_s, self._random.choice(timeouts_s))
        while self._events:
            self._clock.now_s, _, what = heapq.heappop(self._events)
            if isinstance(what, Batch):
                self._finish(what, outcome)
            else:
                self._arrive(what, outcome)
            if not self._running:
                self._start()
        stats = self._scheduler.stats()
        outcome.late += stats.expired + stats.dropped_late
        assert outcome.in_time + outcome.late == stats.accepted
        return outcome

    def _add_event(self, at_s: float, what: Batch | float) -> None:
        heapq.heappush(self._events, (at_s, next(self._numbers), what))

    def _arrive(self, timeout_s: float, outcome: Outcome) -> None:
        number = next(self._numbers)
        now_s = self._clock()
        future: Future[Any] = Future(loop=_NO_LOOP)
        request = Request(
            _QUERY,
            future,
            arrival_s=now_s,
            cost_s=USER_S * self._random.uniform(*self._costs),
            due_s=now_s + timeout_s,
            has_deadline=True,
            number=number,
        )
        last = self._scheduler._last_refusal  # pyright: ignore[reportPrivateUsage]
        foretold = last.lateness(request.due_s) > 0
        self.foretold += foretold
        try:
            if not self._forecast_all:
                self._scheduler.check_room(request.due_s)
            self._scheduler.admit(request)
        except OverloadedError:
            outcome.refused += 1
        else:
            self.wrongly_foretold += foretold

    def _start(self) -> None:
        batch = self._scheduler.next_for_device(wait=False)
        if batch is None or callable(batch):
            return
        batch.ready = True
        assert self._scheduler.start(batch)  # `next_for_device` has just dropped late requests
        factor = exp(self._random.gauss(0.0, self._irregularity))
        self._add_event(self._clock() + self._slowness * factor * batch.cost_s, batch)
        self._running = True

    def _finish(self, batch: Batch, outcome: Outcome) -> None:
        self._running = False
        self._scheduler.finish(batch)
        replied_s = self._clock() + _REPLY_S
        for request in batch.requests:
            request.settled = True
            outcome.in_time += replied_s <= request.deadline_s
            outcome.late += replied_s > request.deadline_s
