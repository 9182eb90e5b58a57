"""Why requests are refused at arrival, and which queries are refused for the same reason."""

from math import inf

from phoenix_server.batching.request import Request
from phoenix_server.errors import OverloadedError


def full(waiting: int, retry_after_s: float) -> OverloadedError:
    """Return the error for a queue in which `waiting` requests wait."""
    return OverloadedError(
        f"the queue is full: {waiting} requests wait", retry_after_s=retry_after_s
    )


def never(left_s: float, late_s: float) -> OverloadedError:
    """Return the error for a request that would be late on an idle device."""
    needed_s = left_s + late_s
    what = f"with {left_s:.3f} s left, it would be late: it takes {needed_s:.3f} s"
    return OverloadedError(what, retry_after_s=None)


def late(left_s: float, late_s: float, who: str = "it") -> OverloadedError:
    """Return the error for a request for which `who` would be late."""
    what = f"with {left_s:.3f} s left, {who} would be {late_s:.3f} s late"
    return OverloadedError(what, retry_after_s=late_s)


class LastRefusal:
    """When the last query that was refused would have ended. Not thread-safe.

    Until the queue gets shorter, or the device or the forecast changes, a query that is due later
    than that one, but before this end, is late as well: it would queue behind it. The end is that
    of a query without cost, so that it holds for others. In simulations 0 to 1.3% of those that are
    refused by it would have been admitted by a forecast: they would have filled a batch otherwise.
    """

    def __init__(self) -> None:
        self._due_s = inf
        self._end_s = -inf

    def remember(self, request: Request, late_s: float, slowdown: float) -> None:
        """Remember a query that would have been late.

        Args:
            request: The query.
            late_s: How late it would have been.
            slowdown: The most by which its cost makes its batch longer.
        """
        self._due_s = request.due_s
        self._end_s = request.due_s + late_s - slowdown * request.cost_s

    def forget(self) -> None:
        """Have the next query forecast."""
        self._end_s = -inf

    def lateness(self, due_s: float) -> float:
        """Return how late a query is by this; 0 if nothing is known of it."""
        return self._end_s - due_s if self._due_s <= due_s < self._end_s else 0.0
