"""The schedule against a device in a world whose time is simulated: what it makes of a load."""

import heapq
import random
from asyncio import Future
from dataclasses import dataclass
from itertools import count
from math import exp
from typing import Any

import pytest

from phoenix_server.batching.request import Batch, Request
from phoenix_server.batching.request_queue import RequestQueue
from phoenix_server.batching.scheduler import Scheduler
from phoenix_server.config import QueueConfig
from phoenix_server.errors import OverloadedError
from server.batching.fakes import Clock, query

_MAX_BATCH = 32
_USER_S = 0.003
_REPLY_S = 0.003
_LASTS_S = 12.0
_QUERY = query(1)


@dataclass
class Outcome:
    """What became of the calls.

    Attributes:
        in_time: Answered before their deadlines.
        late: Accepted, but answered later, given up, or expired.
        refused: Refused when they came.
        capacity: How many a device without a pause, and with full batches, could have answered.
    """

    in_time: int = 0
    late: int = 0
    refused: int = 0
    capacity: float = 0.0


def _search_s(users: int) -> float:
    """Return what a search costs that is compiled for 1, 8, 16 and 32 users."""
    return next(
        cost for size, cost in ((1, 0.009), (8, 0.03), (16, 0.035), (32, 0.052)) if users <= size
    )


class World:
    """A schedule, a device that runs what it says, and callers that come at random.

    The device takes `slowness` times what was measured at start-up, give or take `irregularity`.
    """

    def __init__(self, *, slowness: float, irregularity: float, seed: int) -> None:
        self._slowness = slowness
        self._irregularity = irregularity
        self._random = random.Random(seed)
        self._clock = Clock(0.0)
        queue = RequestQueue(_MAX_BATCH, _search_s)
        self._schedule = Scheduler(queue, QueueConfig(), self._clock, lambda given_up: None)
        self._events: list[tuple[float, int, Batch | float]] = []
        self._numbers = count()
        self._running = False

    def run(self, *, load: float, timeouts_s: tuple[float, ...]) -> Outcome:
        """Offer calls for a while, as a share of the capacity, and wait for the last answer."""
        full_s = self._slowness * (_MAX_BATCH * _USER_S + _search_s(_MAX_BATCH))
        outcome = Outcome(capacity=_MAX_BATCH / full_s * _LASTS_S)
        due_s = 0.0
        while due_s < _LASTS_S:
            due_s += self._random.expovariate(load * _MAX_BATCH / full_s)
            self._happens(due_s, self._random.choice(timeouts_s))
        while self._events:
            self._clock.now_s, _, what = heapq.heappop(self._events)
            if isinstance(what, Batch):
                self._finish(what, outcome)
            else:
                self._arrive(what, outcome)
            if not self._running:
                self._start()
        stats = self._schedule.stats()
        outcome.late += stats.expired + stats.dropped_late
        assert outcome.in_time + outcome.late == stats.accepted
        return outcome

    def _happens(self, at_s: float, what: Batch | float) -> None:
        heapq.heappush(self._events, (at_s, next(self._numbers), what))

    def _arrive(self, timeout_s: float, outcome: Outcome) -> None:
        number = next(self._numbers)
        now_s = self._clock()
        future: Future[Any] = Future(loop=_NO_LOOP)
        entry = Request(
            _QUERY,
            future,
            arrival_s=now_s,
            cost_s=_USER_S,
            due_s=now_s + timeout_s,
            has_deadline=True,
            number=number,
        )
        try:
            self._schedule.admit(entry)
        except OverloadedError:
            outcome.refused += 1

    def _start(self) -> None:
        batch = self._schedule.next_for_device(wait=False)
        if batch is None or callable(batch):
            return
        batch.ready = True
        assert self._schedule.start(batch)  # whoever is too late has been given up just now
        odd = exp(self._random.gauss(0.0, self._irregularity))
        self._happens(self._clock() + self._slowness * odd * batch.cost_s, batch)
        self._running = True

    def _finish(self, batch: Batch, outcome: Outcome) -> None:
        self._running = False
        self._schedule.finish(batch)
        replied_s = self._clock() + _REPLY_S
        for entry in batch.requests:
            entry.settled = True
            outcome.in_time += replied_s <= entry.deadline_s
            outcome.late += replied_s > entry.deadline_s


_NO_LOOP: Any = type("Loop", (), {"get_debug": lambda self: False})()


@pytest.mark.parametrize("slowness", [1.0, 1.5])
@pytest.mark.parametrize("irregularity", [0.0, 0.1])
@pytest.mark.parametrize("timeouts_s", [(0.5,), (0.5, 0.5, 2.0)])
def test_a_device_with_too_much_to_do_wastes_no_time(
    timeouts_s: tuple[float, ...], irregularity: float, slowness: float
) -> None:
    for seed in range(2):
        world = World(slowness=slowness, irregularity=irregularity, seed=seed)
        outcome = world.run(load=3.0, timeouts_s=timeouts_s)
        assert outcome.in_time >= 0.9 * outcome.capacity
        assert outcome.late <= 0.02 * outcome.in_time


@pytest.mark.parametrize("irregularity", [0.0, 0.1])
def test_nobody_is_refused_or_late_while_the_device_keeps_up(irregularity: float) -> None:
    for seed in range(2):
        world = World(slowness=1.0, irregularity=irregularity, seed=seed)
        outcome = world.run(load=0.7, timeouts_s=(0.5,))
        assert (outcome.refused, outcome.late) == (0, 0)


def test_calls_in_a_hurry_are_served_where_no_full_batch_could_be_in_time() -> None:
    world = World(slowness=1.0, irregularity=0.0, seed=0)
    full_s = _MAX_BATCH * _USER_S + _search_s(_MAX_BATCH)
    outcome = world.run(load=3.0, timeouts_s=(0.8 * full_s,))
    assert outcome.in_time >= 0.4 * outcome.capacity
