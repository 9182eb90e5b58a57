"""The request queue: requests in order of due time, and the batches that they will form.

`request` defines due, deadline, cost, slowdown, batch time and lateness. Times are in seconds.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from math import inf
from operator import attrgetter
from typing import NamedTuple

from phoenix_server.batching.request import Request

Slowdowns = Sequence[float]
"""Element b is the slowdown of batches of b users; element 0 that of calls."""

_order = attrgetter("order")


class Arrivals(NamedTuple):
    """Queries that are expected to arrive.

    Attributes:
        start_s: From when on.
        rate: Queries per second.
        cost_s: Mean cost of a query.
    """

    start_s: float
    rate: float
    cost_s: float


class _PlannedBatch(NamedTuple):
    """A batch that would form from the requests `begin` to `end - 1` of the queue.

    Attributes:
        begin: Index of its first request.
        end: Index after its last request.
        start_s: When the device would start it.
        end_s: `start_s` + batch time.
        deadline_s: Its earliest deadline.
    """

    begin: int
    end: int
    start_s: float
    end_s: float
    deadline_s: float

    @property
    def in_time(self) -> bool:
        return self.end_s <= self.deadline_s


class RequestQueue:
    """The waiting requests. Not thread-safe: `Scheduler` holds its lock around every call.

    A batch takes the requests with the earliest due times, up to `max_batch`; fewer if a longer
    batch would miss a deadline. A call is a batch of its own and ends the batch before it.

    Attributes:
        max_batch: Maximum users of a batch.
    """

    def __init__(self, max_batch: int, batch_seconds: Callable[[int], float]) -> None:
        """Create an empty queue.

        Args:
            max_batch: Maximum users of a batch.
            batch_seconds: Returns the search cost of a batch by its number of users.
        """
        self.max_batch = max_batch
        self._batch_seconds = batch_seconds
        self._requests: list[Request] = []
        # `_costs[i]` is `_requests[i].cost_s`. `Scheduler.admit` takes 4% (8 requests wait) to 20%
        # (1024) longer if it reads the costs from the requests instead of summing a list of floats.
        self._costs: list[float] = []
        self._calls = 0

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> int:
        """Insert a request, and return its index."""
        place = bisect_left(self._requests, request.order, key=_order)
        self._requests.insert(place, request)
        self._costs.insert(place, request.cost_s)
        self._calls += bool(request.kind)
        return place

    def discard(self, request: Request) -> bool:
        """Remove a request; return whether it was in the queue."""
        place = bisect_left(self._requests, request.order, key=_order)
        if place == len(self) or self._requests[place] is not request:
            return False
        self._remove(place, place + 1)
        return True

    def batch_cost_s(self, users: int, user_cost_s: float) -> float:
        """Return the cost of a batch of users of equal cost."""
        return users * user_cost_s + self._batch_seconds(users)

    def lateness(
        self, place: int, start_s: float, slowdowns: Slowdowns, arrivals: Arrivals | None = None
    ) -> float:
        """Return the lateness of the first late batch from that of request `place` on; or 0.

        Args:
            place: Index of the newest request. Its due time counts as its deadline.
            start_s: When the device can start the first batch, plus the margin.
            slowdowns: Slowdowns of the forecast.
            arrivals: If given, the newest request's batch keeps room for these queries.
        """
        for batch in self._plan(0, start_s, slowdowns):
            if batch.end <= place:
                continue
            end_s, deadline_s = batch.end_s, batch.deadline_s
            if batch.begin <= place:
                deadline_s = min(deadline_s, self._requests[place].due_s)
                if arrivals and not self._calls:
                    end_s = max(end_s, self._full_end_s(batch, deadline_s, slowdowns, arrivals))
            if end_s > deadline_s:
                return end_s - deadline_s
        return 0.0

    def expire(self, now_s: float) -> list[Request]:
        """Remove the requests whose deadlines have passed, and return them."""
        past = bisect_left(self._requests, (now_s, inf), key=_order)
        expired = [request for request in self._requests[:past] if request.deadline_s <= now_s]
        for request in expired:
            self.discard(request)
        return expired

    def form(
        self, start_s: float, *, likely: Slowdowns, cautious: Slowdowns, margin_s: float
    ) -> tuple[list[Request], float, list[Request]]:
        """Remove the next batch from the queue.

        The batch must meet its deadlines by the cautious forecast, which admitted its requests, or
        else by the likely one. While no batch does, the request with the earliest deadline is late
        and is removed.

        Args:
            start_s: When the device can start the batch.
            likely: Likely slowdowns.
            cautious: Cautious slowdowns.
            margin_s: Margin of the cautious forecast.

        Returns:
            The requests of the batch, empty if none wait; its cost; the late requests.
        """
        late: list[Request] = []
        while self._requests:
            longest = self._longest(0)
            for begin_s, slowdowns in ((start_s + margin_s, cautious), (start_s, likely)):
                batch = self._batch(0, begin_s, slowdowns)
                if not batch.in_time:
                    continue
                # A short batch must not make a request behind it late.
                rest_s = start_s + self._batch_time_s(0, batch.end, likely)
                rest = self._plan(batch.end, rest_s, likely)
                if batch.end == longest or all(planned.in_time for planned in rest):
                    cost_s = self._cost_s(0, batch.end)
                    return self._remove(0, batch.end), cost_s, late
            first = next(i for i, each in enumerate(self._requests) if each.deadline_s < inf)
            late += self._remove(first, first + 1)
        return [], 0.0, late

    def _plan(self, begin: int, start_s: float, slowdowns: Slowdowns) -> Iterator[_PlannedBatch]:
        """Yield the batches that form from `begin` on, one directly after the other."""
        while begin < len(self._requests):
            batch = self._batch(begin, start_s, slowdowns)
            yield batch
            begin, start_s = batch.end, batch.end_s

    def _batch(self, begin: int, start_s: float, slowdowns: Slowdowns) -> _PlannedBatch:
        """Return the batch from `begin`: the longest, if it or no shorter one meets its deadlines.

        Otherwise, of those that do, the one with the most users per second: the next compiled size
        of a search may cost more than it gains.
        """
        longest = self._longest(begin)
        end_s = start_s + self._batch_time_s(begin, longest, slowdowns)
        best = _PlannedBatch(begin, longest, start_s, end_s, self._deadline_s(begin, longest))
        if best.in_time:
            return best
        max_rate, cost_s, deadline_s = 0.0, 0.0, inf
        for place in range(begin, longest - 1):  # queries only: a call is the longest batch itself
            deadline_s = min(deadline_s, self._requests[place].deadline_s)
            cost_s += self._costs[place]
            users = place + 1 - begin
            time_s = slowdowns[users] * (cost_s + self._batch_seconds(users))
            if start_s + time_s > deadline_s:
                break
            if (rate := _rate(users, time_s)) >= max_rate:
                best = _PlannedBatch(begin, place + 1, start_s, start_s + time_s, deadline_s)
                max_rate = rate
        return best

    def _full_end_s(
        self, batch: _PlannedBatch, deadline_s: float, slowdowns: Slowdowns, arrivals: Arrivals
    ) -> float:
        """Return when a batch ends if requests behind it and expected arrivals fill it.

        An urgent request makes its batch short. Under overload that wastes the device, because
        requests with more slack would fill the batch. So the batch counts as long as the size with
        the most users per second, of the sizes that gather at the arrival rate and end in time:

            size / rate + batch time(size) <= deadline - now
        """
        users = batch.end - batch.begin
        arriving = int(arrivals.rate * (batch.start_s - arrivals.start_s))
        max_size = min(len(self._requests) - batch.begin + arriving, self.max_batch)

        def time_s(size: int) -> float:
            return slowdowns[size] * self.batch_cost_s(size, arrivals.cost_s)

        if batch.start_s + time_s(max_size) <= deadline_s:
            return batch.end_s
        left_s = deadline_s - arrivals.start_s
        best_s, max_rate = 0.0, 0.0
        for size in range(users, max_size + 1):
            size_s = time_s(size)
            rate = _rate(size, size_s)
            if size / arrivals.rate + size_s <= left_s and rate >= max_rate:
                best_s, max_rate = size_s, rate
        return batch.start_s + best_s

    def _longest(self, begin: int) -> int:
        """Return the index after the longest batch from `begin`."""
        end = min(begin + self.max_batch, len(self._requests))
        if self._calls:
            calls = (place for place in range(begin, end) if self._requests[place].kind)
            end = max(next(calls, end), begin + 1)
        return end

    def _deadline_s(self, begin: int, end: int) -> float:
        """Return the earliest deadline: the first finite one, as the order is by due time."""
        for place in range(begin, end):
            if (deadline_s := self._requests[place].deadline_s) < inf:
                return deadline_s
        return inf

    def _batch_time_s(self, begin: int, end: int, slowdowns: Slowdowns) -> float:
        users = 0 if self._requests[begin].kind else end - begin
        return slowdowns[users] * self._cost_s(begin, end)

    def _cost_s(self, begin: int, end: int) -> float:
        cost_s = sum(self._costs[begin:end])
        is_call = self._requests[begin].kind
        return cost_s if is_call else cost_s + self._batch_seconds(end - begin)

    def _remove(self, begin: int, end: int) -> list[Request]:
        removed = self._requests[begin:end]
        self._calls -= sum(bool(request.kind) for request in removed)
        del self._requests[begin:end], self._costs[begin:end]
        return removed


def _rate(users: int, time_s: float) -> float:
    return users / time_s if time_s > 0 else inf
