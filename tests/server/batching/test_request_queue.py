from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from phoenix_server.batching.request import Request
from phoenix_server.batching.request_queue import RequestQueue
from server.batching.fakes import call_request, query_request

_AS_MEASURED = [1.0] * 5


def _queue(*requests: Request) -> RequestQueue:
    """Return a queue for batches of 3 users with a search cost of 10 s."""
    queue = RequestQueue(3, lambda users: 10.0)
    for one in requests:
        queue.add(one)
    return queue


def _numbers(requests: Sequence[Request]) -> list[int]:
    return [one.order[1] for one in requests]


def _form(
    queue: RequestQueue,
    start_s: float = 0.0,
    *,
    cautious: Sequence[float] = _AS_MEASURED,
    margin_s: float = 0.0,
) -> tuple[list[int], list[int]]:
    """Return the numbers of the requests in the next batch, and of the late ones."""
    formed, _, late = queue.form(start_s, likely=_AS_MEASURED, cautious=cautious, margin_s=margin_s)
    return _numbers(formed), _numbers(late)


def _formed(queue: RequestQueue) -> list[list[int]]:
    batches: list[list[int]] = []
    while queue:
        batches.append(_form(queue)[0])
    return batches


def test_batches_form_by_due_time_then_arrival() -> None:
    queue = _queue(
        query_request(0, 900),
        query_request(1, 500),
        query_request(2, 700),
        query_request(3, 500),
        query_request(4, 100),
    )
    assert _formed(queue) == [[4, 1, 3], [2, 0]]


def test_calls_run_alone_in_their_places() -> None:
    queue = _queue(
        *(query_request(i, 100 + i) for i in (0, 1, 4, 5)),
        call_request(2, 102),
        call_request(3, 103),
    )
    assert _formed(queue) == [[0, 1], [2], [3], [4, 5]]
    assert _formed(_queue(*(query_request(i, 100 + i) for i in range(4)))) == [[0, 1, 2], [3]]


def test_discarded_request_leaves_the_queue() -> None:
    first, middle, last = requests = (
        query_request(0, 100),
        call_request(1, 100),
        query_request(2, 100),
    )
    queue = _queue(*requests)
    assert queue.discard(middle)
    assert not queue.discard(middle)
    assert len(queue) == 2
    assert _formed(queue) == [[0, 2]]
    assert not queue.discard(first)
    assert not queue.discard(last)


def test_lateness_counts_whole_batches_up_to_the_newest_request() -> None:
    queue = _queue(query_request(0, 1000), query_request(1, 1000), query_request(2, 1000))
    newest = query_request(3, 1023.0)
    place = queue.add(newest)
    assert place == 3
    # the batches end at 1000 + (10 + 3) + (10 + 1) s
    assert queue.lateness(place, 1000.0, _AS_MEASURED) == 1.0
    assert queue.lateness(place, 999.0, _AS_MEASURED) == 0.0
    assert queue.lateness(place, 999.0, [2.0] * 5) == 24.0


def test_lateness_covers_requests_behind_the_newest() -> None:
    queue = _queue(query_request(0, 1013.0), query_request(1, 1013.0), query_request(2, 1013.0))
    assert queue.lateness(2, 1000.0, _AS_MEASURED) == 0.0
    place = queue.add(query_request(3, 1012.5))
    assert place == 0
    # In time, the newest fits into a batch of at most 2, to 1012 s. The other 2 end at 1024 s.
    assert queue.lateness(place, 1000.0, _AS_MEASURED) == 11.0


def test_lateness_ignores_late_batches_before_the_newest_request() -> None:
    queue = _queue(query_request(0, 1.0), query_request(1, 1.0), query_request(2, 1.0))
    assert queue.lateness(queue.add(query_request(3, 9999.0)), 1000.0, _AS_MEASURED) == 0.0


def test_request_without_a_deadline_is_due_at_admission_only() -> None:
    newest = query_request(0, 1005.0, has_deadline=False)
    queue = _queue(newest)
    assert queue.lateness(0, 1000.0, _AS_MEASURED) == 6.0
    place = queue.add(query_request(1, 1050.0))
    assert queue.lateness(place, 1030.0, _AS_MEASURED) == 0.0
    assert _numbers(queue.expire(9999.0)) == [1]
    assert _form(queue, 9999.0) == ([0], [])


def test_requests_expire_at_their_deadlines() -> None:
    others = query_request(2, 7.0), query_request(3, 800.0)
    queue = _queue(query_request(0, 5.0), query_request(1, 6.0, has_deadline=False), *others)
    assert _numbers(queue.expire(7.0)) == [0, 2]
    assert _formed(queue) == [[1, 3]]


def test_batch_is_short_if_its_first_request_would_be_late_in_a_longer_one() -> None:
    queue = _queue(query_request(0, 12.0), query_request(1, 1000.0), query_request(2, 1000.0))
    assert _form(queue) == ([0, 1], [])
    assert _form(queue) == ([2], [])


def test_short_batch_has_the_size_with_most_users_per_second() -> None:
    limits = (45.0, 99.0, 99.0, 99.0)

    def formed(batch_seconds: Callable[[int], float]) -> list[int]:
        queue = RequestQueue(4, batch_seconds)
        for number, deadline_s in enumerate(limits):
            queue.add(query_request(number, deadline_s))
        return _form(queue)[0]

    assert formed(lambda users: {1: 10.0, 2: 10.0, 3: 40.0, 4: 60.0}[users]) == [0, 1]
    assert formed(lambda users: {1: 10.0, 2: 10.0, 3: 12.0, 4: 60.0}[users]) == [0, 1, 2]
    assert formed(lambda users: 40.0) == [0, 1, 2, 3]


def test_short_batch_must_not_make_requests_behind_it_late() -> None:
    queue = _queue(
        query_request(0, 12.0),
        query_request(1, 14.0),
        query_request(2, 14.0),
        query_request(3, 999.0),
    )
    assert _form(queue) == ([1, 2, 3], [0])


def test_late_requests_are_dropped_and_others_take_their_places() -> None:
    queue = _queue(
        query_request(0, 5.0), query_request(1, 9.0), *(query_request(i, 99.0) for i in range(2, 6))
    )
    assert _form(queue) == ([2, 3, 4], [0, 1])
    assert _form(_queue(query_request(0, 5.0))) == ([], [0])
    assert _form(_queue(call_request(0, 0.5), query_request(1, 99.0))) == ([1], [0])


def test_requests_are_dropped_by_the_likely_forecast_only() -> None:
    queue = _queue(query_request(0, 13.0), query_request(1, 13.0), query_request(2, 13.0))
    assert _form(queue, cautious=[2.0] * 5, margin_s=5.0) == ([0, 1, 2], [])


_ARRIVALS = st.lists(
    st.tuples(
        st.floats(0, 30),  # time since the last arrival
        st.floats(0, 5),  # cost
        st.one_of(st.none(), st.floats(0, 120)),  # timeout
        st.booleans(),  # a call
    ),
    max_size=40,
)


@given(_ARRIVALS, st.floats(0, 8))
def test_admitted_requests_are_answered_in_time_if_the_forecast_is_right(
    arrivals: list[tuple[float, float, float | None, bool]], overhead_s: float
) -> None:
    queue = RequestQueue(3, lambda users: overhead_s)
    now_s = free_s = 0.0
    limits: dict[int, float] = {}

    def run_until(end_s: float) -> None:
        nonlocal free_s
        while queue and free_s < end_s:
            batch, cost_s, late = queue.form(
                free_s, likely=_AS_MEASURED, cautious=_AS_MEASURED, margin_s=0.0
            )
            free_s += cost_s
            assert not late
            for one in batch:
                assert free_s <= limits.pop(one.order[1])

    for number, (gap_s, cost_s, timeout_s, is_call) in enumerate(arrivals):
        now_s += gap_s
        run_until(now_s)
        free_s = max(free_s, now_s)
        due_s = now_s + (50.0 if timeout_s is None else timeout_s)
        make = call_request if is_call else query_request
        one = make(number, due_s, cost_s=cost_s)
        one.deadline_s = inf if timeout_s is None else due_s
        place = queue.add(one)
        if queue.lateness(place, free_s, _AS_MEASURED) > 0:
            queue.discard(one)
        else:
            limits[number] = one.deadline_s
    run_until(inf)
    assert not limits
