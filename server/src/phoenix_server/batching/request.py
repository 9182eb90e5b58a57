"""What waits, and what runs together. Times are in seconds, on the queue's clock."""

from asyncio import Future
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from phoenix_server.engine.query import Query


class Entry:
    """A query or a call, and who waits for it.

    Attributes:
        work: What to run; a call runs alone.
        came_s: When it came.
        cost_s: Device time of it, besides what a batch costs once.
        due_s: When it should be answered, on the queue's clock; the order of the queue.
        limit_s: Its deadline; infinite if it has none, then `due_s` is only wished for.
        key: Its place in the order: first come first served among equals.
        future: The event loop's, for whoever waits.
        kind: What a call does, for the estimate of its cost; empty for queries.
        launched: Whether it has reached the device.
        settled: Whether it has been counted among those that are done with.
    """

    __slots__ = (
        "came_s",
        "cost_s",
        "due_s",
        "future",
        "key",
        "kind",
        "launched",
        "limit_s",
        "settled",
        "work",
    )

    def __init__(
        self,
        work: Query | Callable[[], object],
        future: Future[Any],
        *,
        came_s: float,
        cost_s: float,
        due_s: float,
        has_deadline: bool,
        number: int,
        kind: str = "",
    ) -> None:
        self.work = work
        self.future = future
        self.came_s = came_s
        self.cost_s = cost_s
        self.due_s = due_s
        self.limit_s = due_s if has_deadline else inf
        self.key = (due_s, number)
        self.kind = kind
        self.launched = False
        self.settled = False


class Batch:
    """Entries that run together: queries, or one call.

    Attributes:
        entries: In order.
        cost_s: Their device time, as measured at start-up.
        ready: Whether it has been prepared, or that has failed.
        prepared: What the retriever made of the queries.
        launched: What the device works on.
        error: Why it could not run as a batch.
        began_s: When the device could have begun: it was free, and there was an entry.
        ended_s: When the device was done with it.
    """

    def __init__(self, entries: list[Entry], cost_s: float) -> None:
        self.entries = entries
        self.cost_s = cost_s
        self.ready = False
        self.prepared: Any = None
        self.launched: Any = None
        self.error: Exception | None = None
        self.began_s = 0.0
        self.ended_s = 0.0

    @property
    def kind(self) -> str:
        """What the call does; empty for queries."""
        return self.entries[0].kind

    @property
    def users(self) -> int:
        """How many queries it has; 0 if it is a call."""
        return 0 if self.kind else len(self.entries)

    @property
    def queries(self) -> list[Query]:
        """The queries, in order; none if it is a call."""
        return [entry.work for entry in self.entries if isinstance(entry.work, Query)]


Outcomes = Sequence[tuple[Entry, object]]  # results, or the exceptions that stand for them
