"""A request of the queue, and a batch of requests.

Times are in seconds, on the queue's clock. The package uses these terms:

    due       = arrival + timeout; the order of the queue. A caller that sets no timeout gets
                `QueueConfig.default_timeout_s`.
    deadline  = due if the caller set a timeout, else infinity.
    cost      = device time as measured at start-up.
                Query: time of its user tower, `Retriever.user_seconds`.
                Batch of queries: sum of user costs + search cost, `Retriever.batch_seconds(users)`.
                Call: moving mean over calls of its kind, `Forecast.call_cost_s`.
    slowdown  = device time / cost, measured by number of users of the batch (`Forecast`).
    batch time = cost * slowdown.
    margin    = time that a reply takes after the end of its batch:
                `QueueConfig.reply_margin_s` + `Forecast.reply.high`.
    slack     = deadline - (start of the batch + batch time + margin).
    lateness  = max(0, -slack).
"""

from asyncio import Future
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, InitVar, dataclass, field
from math import inf
from typing import Any

from phoenix_server.engine.query import Query


@dataclass(eq=False, slots=True)
class Request:
    """A query, or a call that runs alone on the device thread, and the future of its caller.

    Attributes:
        work: The query, or the function of a call.
        future: Belongs to the event loop; the caller awaits it.
        arrival_s: When the request arrived.
        cost_s: Its cost, without the search cost of its batch.
        due_s: When it is due.
        has_deadline: Whether the caller set a timeout; for `deadline_s`.
        number: The number of the request, by arrival; for `order`.
        kind: The kind of call; empty for a query.
        deadline_s: Its deadline: `due_s`, or infinity.
        order: Sort key of the queue: due time, then order of arrival.
        launched: Whether it has reached the device.
        settled: Whether it is counted in a final state.
    """

    work: Query | Callable[[], object]
    future: Future[Any]
    _: KW_ONLY
    arrival_s: float
    cost_s: float
    due_s: float
    has_deadline: InitVar[bool]
    number: InitVar[int]
    kind: str = ""
    deadline_s: float = field(init=False)
    order: tuple[float, int] = field(init=False)
    launched: bool = False
    settled: bool = False

    def __post_init__(self, has_deadline: bool, number: int) -> None:
        self.deadline_s = self.due_s if has_deadline else inf
        self.order = (self.due_s, number)


@dataclass(eq=False)
class Batch:
    """Requests that run together: queries, or one call.

    Attributes:
        requests: In order of due time.
        cost_s: The cost of the batch.
        ready: Whether preparation has ended, with or without an error.
        prepared: The retriever's inputs for the device.
        launched: The retriever's handle of the running batch.
        error: Why it did not run as a batch.
        start_s: When the device was free and a request of the batch had arrived.
        end_s: When the device finished the batch.
    """

    requests: list[Request]
    cost_s: float
    ready: bool = False
    prepared: Any = None
    launched: Any = None
    error: Exception | None = None
    start_s: float = 0.0
    end_s: float = 0.0

    @property
    def kind(self) -> str:
        """The kind of call; empty for queries."""
        return self.requests[0].kind

    @property
    def users(self) -> int:
        """Number of queries; 0 for a call."""
        return 0 if self.kind else len(self.requests)

    @property
    def queries(self) -> list[Query]:
        """The queries, in order; empty for a call."""
        return [request.work for request in self.requests if isinstance(request.work, Query)]


Outcomes = Sequence[tuple[Request, object]]
"""Requests with their results. An exception as result means that the request failed."""
