"""Moving estimates of device, preparation and reply times, and of arrivals. Times are in seconds.

Formulas (`request` defines cost and batch time; c(b) is the size class of b users):

    likely[b]   = slowness * size[c(b)]
    cautious[b] = likely[b] * (1 + 4 * deviation[c(b)])
    likely[0]   = slowness; cautious[0] = slowness * (1 + 4 * mean deviation of all batches)
    high        = mean + 4 * deviation, for the times of preparation and replies

After a batch of b users, with error = device time / (likely[b] * cost) - 1, limited to -1/2 .. 1:

    slowness        *= 1 + error / 64
    size[c(b)]      *= 1 + error / 8
    deviation[c(b)] += (|error| - deviation[c(b)]) / 4
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import exp

from phoenix_server.batching.request import Batch, Request
from phoenix_server.batching.request_queue import Arrivals, Slowdowns

_GAIN = 1 / 8
_DEVIATION_GAIN = 1 / 4
_CAUTION = 4.0  # deviations, as TCP adds to a round trip time (RFC 6298)
_FIRST_DEVIATION = 1 / 8
_SLOWNESS_GAIN = 1 / 64
_SIZE_GAIN = 1 / 8
_WINDOW_BATCHES = 4
_MIN_WINDOW_S = 0.5
_COST_GAIN = 1 / 32


@dataclass
class MovingEstimate:
    """Moving mean and mean deviation of a time, as TCP estimates round trips (RFC 6298).

    A sample is limited to 1/2 .. 2 times the mean, so that a single stall has little effect.

    Attributes:
        mean: The moving mean, above 0.
        deviation: The moving mean of |sample - mean|.
    """

    mean: float
    deviation: float

    @property
    def high(self) -> float:
        """A value that is seldom exceeded: mean + 4 * deviation."""
        return self.mean + _CAUTION * self.deviation

    def observe(self, sample: float) -> None:
        """Update the estimate with a sample."""
        error = _limit(sample / self.mean) * self.mean - self.mean
        self.deviation += _DEVIATION_GAIN * (abs(error) - self.deviation)
        self.mean += _GAIN * error


class ArrivalRate:
    """Rate and mean cost of arriving queries, refused ones included, over a decaying window."""

    def __init__(self) -> None:
        self._recent = 0.0  # sum over arrivals of exp(-age / window)
        self._last_s = 0.0
        self._cost_s = 0.0
        self._window_s = _MIN_WINDOW_S

    def observe(self, now_s: float, cost_s: float | None = None) -> None:
        """Update the rate with an arrival.

        Args:
            now_s: Its time; not before that of the last arrival.
            cost_s: Its cost, without the search cost of its batch. None: unknown.
        """
        if cost_s is not None:
            gain = _COST_GAIN if self._recent else 1.0
            self._cost_s += gain * (cost_s - self._cost_s)
        self._recent = self._recent * exp((self._last_s - now_s) / self._window_s) + 1
        self._last_s = now_s

    def expected(self) -> Arrivals:
        """Return the arrivals expected after the last one, at the present rate."""
        return Arrivals(self._last_s, self._recent / self._window_s, self._cost_s)

    def set_window(self, full_s: float) -> None:
        """Set the window to 4 times the time of a full batch, and at least 0.5 s.

        A second says little of the load on a device that takes a minute for a batch.
        """
        self._window_s = max(_WINDOW_BATCHES * full_s, _MIN_WINDOW_S)


class Forecast:
    """Learns how long batches, calls, preparation and replies take, and how many queries arrive.

    Deviations are kept by size class, because small batches are less regular than large ones.

    Attributes:
        slowness: Device time of queries / cost, over batches of all sizes; 1 at first.
        deviation: Moving mean of |error| over batches of all sizes.
        likely: Likely slowdowns.
        cautious: Slowdowns that are seldom exceeded.
        preparation: Time to prepare a batch.
        reply: Time from the end of a batch on the device to its replies.
        arrivals: Rate of arriving queries.
    """

    def __init__(self, max_batch: int) -> None:
        self.slowness = 1.0
        self.deviation = _FIRST_DEVIATION
        self.preparation = MovingEstimate(0.001, 0.0005)
        self.reply = MovingEstimate(0.001, 0.0005)
        self.arrivals = ArrivalRate()
        classes = _size_class(max_batch) + 1
        self._sizes = [1.0] * classes
        self._deviations = [_FIRST_DEVIATION] * classes
        self._classes = [_size_class(users) for users in range(1, max_batch + 1)]
        self._calls: dict[str, MovingEstimate] = {}
        self.likely: Slowdowns
        self.cautious: Slowdowns
        self._refresh()

    def note_arrival(
        self, request: Request, batch_cost_s: Callable[[int, float], float]
    ) -> Arrivals | None:
        """Measure an arrival; return the expected ones if the device cannot answer them all.

        That is the case if, with b the maximum batch size, rate * likely[b] * cost(b) > b.

        Args:
            request: The request that arrives.
            batch_cost_s: Returns the cost of a batch by its users and the cost of a user.
        """
        if not request.kind:
            self.arrivals.observe(request.arrival_s, request.cost_s)
        expected = self.arrivals.expected()
        users = len(self._classes)
        full_s = self.likely[users] * batch_cost_s(users, expected.cost_s)
        self.arrivals.set_window(full_s)
        return expected if expected.rate * full_s > users else None

    def call_cost_s(self, kind: str) -> float:
        """Return the cost of a kind of call: device time / slowness; 0 until one has run."""
        return self._calls[kind].mean if kind in self._calls else 0.0

    def observe(self, batch: Batch) -> None:
        """Update the estimates with the device time of a batch."""
        device_s = batch.end_s - batch.start_s
        if batch.kind:
            cost_s = device_s / self.slowness
            if batch.kind in self._calls:
                self._calls[batch.kind].observe(cost_s)
            else:
                self._calls[batch.kind] = MovingEstimate(cost_s, cost_s / 2)
        elif batch.cost_s > 0:
            error = _limit(device_s / (self.likely[batch.users] * batch.cost_s)) - 1
            size = _size_class(batch.users)
            self.slowness *= 1 + _SLOWNESS_GAIN * error
            self._sizes[size] *= 1 + _SIZE_GAIN * error
            self._deviations[size] += _DEVIATION_GAIN * (abs(error) - self._deviations[size])
            self.deviation += _DEVIATION_GAIN * (abs(error) - self.deviation)
            self._refresh()

    def relax(self) -> None:
        """Move slowdowns above 1 towards 1 and deviations towards 0, by one step."""
        self.slowness += _GAIN * min(1 - self.slowness, 0.0)
        self._sizes = [size + _GAIN * min(1 - size, 0.0) for size in self._sizes]
        self._deviations = [(1 - _DEVIATION_GAIN) * deviation for deviation in self._deviations]
        self._refresh()

    def _refresh(self) -> None:
        sizes = [1.0, *(self._sizes[size] for size in self._classes)]
        deviations = [self.deviation, *(self._deviations[size] for size in self._classes)]
        self.likely = [self.slowness * size for size in sizes]
        self.cautious = [
            slowdown * (1 + _CAUTION * deviation)
            for slowdown, deviation in zip(self.likely, deviations, strict=True)
        ]


def _limit(ratio: float) -> float:
    return min(max(ratio, 0.5), 2.0)


def _size_class(users: int) -> int:
    """Return the class of 1, 2, 3 to 4, 5 to 8, ... users, from 0."""
    return (users - 1).bit_length()
