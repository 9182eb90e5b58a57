"""Moving estimates of how long things take, in seconds."""

from collections.abc import Sequence
from math import exp

from phoenix_server.batching.request import Batch
from phoenix_server.batching.request_queue import Arrivals

_GAIN = 1 / 8
_DEVIATION_GAIN = 1 / 4
_CAUTION = 4.0  # deviations, as TCP allows a round trip
_FIRST_DEVIATION = 1 / 8
_SLOWNESS_GAIN = 1 / 64
_SIZE_GAIN = 1 / 8
_WINDOW_BATCHES = 4
_LEAST_WINDOW_S = 0.5
_COST_GAIN = 1 / 32


class MovingEstimate:
    """Mean and mean deviation of what was measured lately, as TCP times round trips (RFC 6298).

    One measurement counts for at most twice, and at least half, the mean, so that a single stall
    does not make everything after it look slow.

    Attributes:
        mean: The moving mean, above 0.
        deviation: The moving mean of the distance from it.
    """

    def __init__(self, mean: float, deviation: float) -> None:
        self.mean = mean
        self.deviation = deviation

    @property
    def high(self) -> float:
        """What is seldom exceeded: the mean and four deviations."""
        return self.mean + _CAUTION * self.deviation

    def observe(self, sample: float) -> None:
        """Take a measurement into account."""
        error = _bounded(sample / self.mean) * self.mean - self.mean
        self.deviation += _DEVIATION_GAIN * (abs(error) - self.deviation)
        self.mean += _GAIN * error


class ArrivalRate:
    """How many queries come, refused ones too, and what they cost; recent ones count for more."""

    def __init__(self) -> None:
        self._recent = 0.0
        self._last_s = 0.0
        self._cost_s = 0.0
        self._window_s = _LEAST_WINDOW_S

    def observe(self, now_s: float, cost_s: float) -> None:
        """Take an arrival into account.

        Args:
            now_s: When it comes; never earlier than the one before.
            cost_s: Device time of it, besides what a batch costs once.
        """
        gain = _COST_GAIN if self._recent else 1.0
        self._cost_s += gain * (cost_s - self._cost_s)
        self._recent = self._recent * exp((self._last_s - now_s) / self._window_s) + 1
        self._last_s = now_s

    def expected(self) -> Arrivals:
        """Return what is to come from the last arrival on, if things go on as they do."""
        return Arrivals(self._last_s, self._recent / self._window_s, self._cost_s)

    def look_back(self, full_s: float) -> None:
        """Set how long arrivals count, by the time of a full batch.

        A second says little of the load on a device that takes a minute for a batch.
        """
        self._window_s = max(_WINDOW_BATCHES * full_s, _LEAST_WINDOW_S)


class Forecast:
    """How long device work, preparation and replies will take, by how long they took.

    A batch's cost, as measured at start-up, is multiplied by a factor: how slow the device is of
    late, times a correction for batches of about this size, which is learned too. So is how far
    batches of about this size are from their forecast: small ones are less regular than large ones.

    Attributes:
        slowness: Device time of queries over their cost; 1 at first.
        deviation: Moving mean of the distance of device time from its forecast, relative to that,
            for batches of all sizes.
        likely: The most likely factor by the number of users; entry 0 is for calls.
        cautious: A factor that is seldom exceeded, likewise.
        preparation: Time to prepare a batch.
        reply: Time from a batch's end on the device to its replies.
        arrivals: How many queries come.
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
        self.likely: Sequence[float]
        self.cautious: Sequence[float]
        self._refresh()

    def call_cost_s(self, kind: str) -> float:
        """Return what a kind of call costs, as if at start-up; 0 until one has run."""
        return self._calls[kind].mean if kind in self._calls else 0.0

    def observe(self, batch: Batch) -> None:
        """Learn from a batch that has run."""
        spent_s = batch.ended_s - batch.began_s
        if batch.kind:
            spent_s /= self.slowness
            if batch.kind in self._calls:
                self._calls[batch.kind].observe(spent_s)
            else:
                self._calls[batch.kind] = MovingEstimate(spent_s, spent_s / 2)
        elif batch.cost_s > 0:
            error = _bounded(spent_s / (self.likely[batch.users] * batch.cost_s)) - 1
            size = _size_class(batch.users)
            self.slowness *= 1 + _SLOWNESS_GAIN * error
            self._sizes[size] *= 1 + _SIZE_GAIN * error
            self._deviations[size] += _DEVIATION_GAIN * (abs(error) - self._deviations[size])
            self.deviation += _DEVIATION_GAIN * (abs(error) - self.deviation)
            self._refresh()

    def relax(self) -> None:
        """Trust the measurements at start-up again, by a step."""
        self.slowness += _GAIN * min(1 - self.slowness, 0.0)
        self._sizes = [size + _GAIN * min(1 - size, 0.0) for size in self._sizes]
        self._deviations = [(1 - _DEVIATION_GAIN) * deviation for deviation in self._deviations]
        self._refresh()

    def _refresh(self) -> None:
        sizes = [1.0, *(self._sizes[size] for size in self._classes)]
        deviations = [self.deviation, *(self._deviations[size] for size in self._classes)]
        self.likely = [self.slowness * size for size in sizes]
        self.cautious = [
            factor * (1 + _CAUTION * deviation)
            for factor, deviation in zip(self.likely, deviations, strict=True)
        ]


def _bounded(ratio: float) -> float:
    return min(max(ratio, 0.5), 2.0)


def _size_class(users: int) -> int:
    """Return the class of 1, 2, 3 to 4, 5 to 8, ... users, from 0."""
    return (users - 1).bit_length()
