"""What waits, in the order of deadlines, and which batches it will form.

Times are in seconds. A batch costs its users one by one and the search once; a forecast multiplies
that by factors, by the number of users: how much longer than at start-up such batches take lately.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from math import inf
from typing import NamedTuple

from phoenix_server.batching.request import Entry
from phoenix_server.engine.query import Query


class Arrivals(NamedTuple):
    """Queries that are expected to come.

    Attributes:
        now_s: From when on.
        rate: How many a second.
        cost_s: Device time of each, besides what a batch costs once.
    """

    now_s: float
    rate: float
    cost_s: float


class _Planned(NamedTuple):
    """A batch that would form.

    Attributes:
        begin: Its first entry.
        end: The entry after its last.
        starts_s: When the device would begin with it.
        ends_s: When it would be answered.
    """

    begin: int
    end: int
    starts_s: float
    ends_s: float


Factors = Sequence[float]  # entry b is for batches of b users, entry 0 for calls


class RequestQueue:
    """The entries that wait. Not for several threads at once.

    A batch takes the entries of earliest deadline, as many as fit; fewer where its first would
    otherwise come too late. A call is a batch of its own and ends the batch before it.

    Attributes:
        max_batch: Most users of a batch.
    """

    def __init__(self, max_batch: int, batch_seconds: Callable[[int], float]) -> None:
        """Make an empty backlog.

        Args:
            max_batch: Most users of a batch.
            batch_seconds: What a batch of so many users costs besides them.
        """
        self.max_batch = max_batch
        self._batch_seconds = batch_seconds
        self._entries: list[Entry] = []
        # In the order of `_entries`; sums and minima over lists of floats are quick.
        self._keys: list[tuple[float, int]] = []
        self._costs: list[float] = []
        self._limits: list[float] = []
        self._calls = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry) -> int:
        """Insert an entry in its place, and return that."""
        place = bisect_left(self._keys, entry.key)
        self._entries.insert(place, entry)
        self._keys.insert(place, entry.key)
        self._costs.insert(place, entry.cost_s)
        self._limits.insert(place, entry.limit_s)
        self._calls += not isinstance(entry.work, Query)
        return place

    def discard(self, entry: Entry) -> bool:
        """Remove an entry; return whether it was there."""
        place = bisect_left(self._keys, entry.key)
        if place == len(self._keys) or self._entries[place] is not entry:
            return False
        self._remove(place, place + 1)
        return True

    def seconds(self, users: int, cost_s: float) -> float:
        """Return what a batch of so many users costs, each of them `cost_s`."""
        return users * cost_s + self._batch_seconds(users)

    def lateness(
        self, place: int, start_s: float, factors: Factors, arrivals: Arrivals | None = None
    ) -> float:
        """Return by how much the first batch from that of `place` on is late, in seconds; or 0.

        Args:
            place: The newest entry; it is due at its `due_s` even if it has no deadline.
            start_s: When the first batch can begin.
            factors: Of the forecast.
            arrivals: What is to be kept room for, in the batch of the newest entry, until it forms.
        """
        for planned in self._plan(0, start_s, factors):
            begin, end, _, ends_s = planned
            if end > place:
                limit_s = min(self._limits[begin:end])
                if begin <= place:
                    limit_s = min(limit_s, self._entries[place].due_s)
                    if arrivals and not self._calls:
                        ends_s = max(ends_s, self._filled(planned, limit_s, factors, arrivals))
                if ends_s > limit_s:
                    return ends_s - limit_s
        return 0.0

    def expire(self, now_s: float) -> list[Entry]:
        """Remove the entries whose deadlines have passed, and return them."""
        expired: list[Entry] = []
        place = 0
        while place < len(self._entries) and self._entries[place].due_s <= now_s:
            if self._limits[place] <= now_s:
                expired += self._remove(place, place + 1)
            else:
                place += 1
        return expired

    def form(
        self, start_s: float, *, likely: Factors, cautious: Factors, margin_s: float
    ) -> tuple[list[Entry], float, list[Entry]]:
        """Remove the next batch.

        Args:
            start_s: When it can begin.
            likely: Of the most likely forecast, by which entries are given up.
            cautious: Of the cautious one, by which they were admitted.
            margin_s: What the cautious one adds for the reply.

        Returns:
            The batch, empty if nothing waits, its cost as at start-up, and the entries that it
            is too late for.
        """
        late: list[Entry] = []
        while self._entries:
            full, limit_s = self._full(0)
            for begins_s, factors in ((start_s + margin_s, cautious), (start_s, likely)):
                wish = self._batch(0, begins_s, factors)
                if wish.ends_s > min(self._limits[: wish.end]):
                    continue
                rest_s = start_s + self._time(0, wish.end, likely)
                # Short for the sake of its first, but not at the expense of those behind.
                if wish.end == full or self._all_in_time(wish.end, rest_s, likely):
                    cost_s = self._cost(0, wish.end)
                    return self._remove(0, wish.end), cost_s, late
            first = self._limits.index(limit_s)
            late += self._remove(first, first + 1)
        return [], 0.0, late

    def _all_in_time(self, place: int, start_s: float, factors: Factors) -> bool:
        return all(
            planned.ends_s <= min(self._limits[planned.begin : planned.end])
            for planned in self._plan(place, start_s, factors)
        )

    def _filled(
        self, planned: _Planned, limit_s: float, factors: Factors, arrivals: Arrivals
    ) -> float:
        """Return when a batch ends if it takes in those behind it and those still to come.

        An entry in a hurry makes its batch short. Under overload that wastes the device: others,
        who have more time left, would fill the batch. So it counts as full as pays, but not fuller
        than the time left allows if users gather no faster than they come.
        """
        users = planned.end - planned.begin
        coming = arrivals.rate * (planned.starts_s - arrivals.now_s)
        most = min(len(self._entries) - planned.begin + int(coming), self.max_batch)

        def seconds(size: int) -> float:
            return factors[size] * self.seconds(size, arrivals.cost_s)

        if planned.starts_s + seconds(most) <= limit_s:
            return planned.ends_s
        left_s = limit_s - arrivals.now_s
        best, most_users = 0.0, 0.0
        for size in range(users, most + 1):
            spent_s = seconds(size)
            rate = _rate(size, spent_s)
            if size / arrivals.rate + spent_s <= left_s and rate >= most_users:
                best, most_users = spent_s, rate
        return planned.starts_s + best

    def _plan(self, place: int, start_s: float, factors: Factors) -> Iterator[_Planned]:
        while place < len(self._entries):
            planned = self._batch(place, start_s, factors)
            yield planned
            place, start_s = planned.end, planned.ends_s

    def _batch(self, begin: int, start_s: float, factors: Factors) -> _Planned:
        """Return the batch from `begin`: the longest, if it is in time or none is.

        Otherwise, of those in time, the one of most users a second: a search of the next size may
        cost more than it gains.
        """
        full, limit = self._full(begin)
        ends_s = start_s + self._time(begin, full, factors)
        longest = _Planned(begin, full, start_s, ends_s)
        if ends_s <= limit:
            return longest
        best, most_users = longest, 0.0
        limit, cost_s = inf, 0.0
        for place in range(begin, full - 1):  # never a call, which is the longest batch itself
            limit = min(limit, self._limits[place])
            cost_s += self._costs[place]
            users = place + 1 - begin
            spent_s = factors[users] * (cost_s + self._batch_seconds(users))
            if start_s + spent_s > limit:
                break
            if (rate := _rate(users, spent_s)) >= most_users:
                best = _Planned(begin, place + 1, start_s, start_s + spent_s)
                most_users = rate
        return best

    def _full(self, begin: int) -> tuple[int, float]:
        """Return where the longest batch from `begin` ends, and the earliest deadline in it."""
        end = min(begin + self.max_batch, len(self._entries))
        if self._calls:
            calls = (place for place in range(begin, end) if self._is_call(place))
            end = max(next(calls, end), begin + 1)
        return end, min(self._limits[begin:end])

    def _time(self, begin: int, end: int, factors: Factors) -> float:
        users = 0 if self._is_call(begin) else end - begin
        return factors[users] * self._cost(begin, end)

    def _cost(self, begin: int, end: int) -> float:
        cost_s = sum(self._costs[begin:end])
        return cost_s if self._is_call(begin) else cost_s + self._batch_seconds(end - begin)

    def _is_call(self, place: int) -> bool:
        return self._calls > 0 and not isinstance(self._entries[place].work, Query)

    def _remove(self, begin: int, end: int) -> list[Entry]:
        removed = self._entries[begin:end]
        self._calls -= sum(not isinstance(entry.work, Query) for entry in removed)
        for column in (self._entries, self._keys, self._costs, self._limits):
            del column[begin:end]
        return removed


def _rate(users: int, spent_s: float) -> float:
    return users / spent_s if spent_s > 0 else inf
