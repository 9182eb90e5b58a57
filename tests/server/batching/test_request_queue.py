from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import inf
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from phoenix_server.batching.request import Request
from phoenix_server.batching.request_queue import RequestQueue
from server.batching.fakes import query

_NOBODY = cast("asyncio.Future[object]", None)
_AS_MEASURED = [1.0] * 5


def entry(number: int, due_s: float, *, cost_s: float = 1.0, has_deadline: bool = True) -> Request:
    """Return a query of the name `number`."""
    return Request(
        query(number),
        _NOBODY,
        arrival_s=0.0,
        cost_s=cost_s,
        due_s=due_s,
        has_deadline=has_deadline,
        number=number,
    )


def call(number: int, due_s: float, *, cost_s: float = 1.0, kind: str = "call") -> Request:
    """Return a call."""
    return Request(
        lambda: None,
        _NOBODY,
        arrival_s=0.0,
        cost_s=cost_s,
        due_s=due_s,
        has_deadline=True,
        number=number,
        kind=kind,
    )


def _queue(*entries: Request) -> RequestQueue:
    """Return a queue of batches of three that cost ten seconds besides their users."""
    queue = RequestQueue(3, lambda users: 10.0)
    for one in entries:
        queue.add(one)
    return queue


def _numbers(entries: Sequence[Request]) -> list[int]:
    return [one.order[1] for one in entries]


def _form(
    queue: RequestQueue,
    start_s: float = 0.0,
    *,
    cautious: Sequence[float] = _AS_MEASURED,
    margin_s: float = 0.0,
) -> tuple[list[int], list[int]]:
    """Return the numbers of the next batch and of those given up."""
    formed, _, late = queue.form(
        start_s, likely=_AS_MEASURED, cautious=cautious, margin_s=margin_s
    )
    return _numbers(formed), _numbers(late)


def _formed(queue: RequestQueue) -> list[list[int]]:
    batches: list[list[int]] = []
    while queue:
        batches.append(_form(queue)[0])
    return batches


def test_batches_form_by_deadline_then_arrival() -> None:
    queue = _queue(entry(0, 900), entry(1, 500), entry(2, 700), entry(3, 500), entry(4, 100))
    assert _formed(queue) == [[4, 1, 3], [2, 0]]


def test_calls_run_alone_in_their_places() -> None:
    queue = _queue(*(entry(i, 100 + i) for i in (0, 1, 4, 5)), call(2, 102), call(3, 103))
    assert _formed(queue) == [[0, 1], [2], [3], [4, 5]]
    assert _formed(_queue(*(entry(i, 100 + i) for i in range(4)))) == [[0, 1, 2], [3]]


def test_an_entry_that_is_discarded_is_gone() -> None:
    first, middle, last = entries = (entry(0, 100), call(1, 100), entry(2, 100))
    queue = _queue(*entries)
    assert queue.discard(middle)
    assert not queue.discard(middle)
    assert len(queue) == 2
    assert _formed(queue) == [[0, 2]]
    assert not queue.discard(first)
    assert not queue.discard(last)


def test_lateness_counts_whole_batches_before_and_with_the_newest() -> None:
    queue = _queue(entry(0, 1000), entry(1, 1000), entry(2, 1000))
    newest = entry(3, 1023.0)
    place = queue.add(newest)
    assert place == 3
    # 10 s and 3 users, then 10 s and 1 user, from second 1000 on
    assert queue.lateness(place, 1000.0, _AS_MEASURED) == 1.0
    assert queue.lateness(place, 999.0, _AS_MEASURED) == 0.0
    assert queue.lateness(place, 999.0, [2.0] * 5) == 24.0


def test_an_urgent_entry_must_not_make_others_late() -> None:
    queue = _queue(entry(0, 1013.0), entry(1, 1013.0), entry(2, 1013.0))
    assert queue.lateness(2, 1000.0, _AS_MEASURED) == 0.0
    place = queue.add(entry(3, 1012.5))
    assert place == 0
    assert (
        queue.lateness(place, 1000.0, _AS_MEASURED) == 11.0
    )  # it fits, alone or not; the last does not


def test_entries_before_the_newest_are_not_its_fault() -> None:
    queue = _queue(entry(0, 1.0), entry(1, 1.0), entry(2, 1.0))
    assert queue.lateness(queue.add(entry(3, 9999.0)), 1000.0, _AS_MEASURED) == 0.0


def test_an_entry_without_a_deadline_is_due_when_it_is_new_and_never_late_after() -> None:
    newest = entry(0, 1005.0, has_deadline=False)
    queue = _queue(newest)
    assert queue.lateness(0, 1000.0, _AS_MEASURED) == 6.0
    place = queue.add(entry(1, 1050.0))
    assert queue.lateness(place, 1030.0, _AS_MEASURED) == 0.0
    assert _numbers(queue.expire(9999.0)) == [1]
    assert _form(queue, 9999.0) == ([0], [])


def test_what_expires_is_what_has_a_deadline_that_passed() -> None:
    others = entry(2, 7.0), entry(3, 800.0)
    queue = _queue(entry(0, 5.0), entry(1, 6.0, has_deadline=False), *others)
    assert _numbers(queue.expire(7.0)) == [0, 2]
    assert _formed(queue) == [[1, 3]]


def test_a_batch_is_short_where_its_first_would_come_too_late() -> None:
    queue = _queue(entry(0, 12.0), entry(1, 1000.0), entry(2, 1000.0))
    assert _form(queue) == ([0, 1], [])
    assert _form(queue) == ([2], [])


def test_a_batch_that_must_be_short_is_as_long_as_pays() -> None:
    limits = (45.0, 99.0, 99.0, 99.0)

    def formed(batch_seconds: Callable[[int], float]) -> list[int]:
        queue = RequestQueue(4, batch_seconds)
        for number, deadline_s in enumerate(limits):
            queue.add(entry(number, deadline_s))
        return _form(queue)[0]

    assert formed(lambda users: {1: 10.0, 2: 10.0, 3: 40.0, 4: 60.0}[users]) == [0, 1]
    assert formed(lambda users: {1: 10.0, 2: 10.0, 3: 12.0, 4: 60.0}[users]) == [0, 1, 2]
    assert formed(lambda users: 40.0) == [0, 1, 2, 3]


def test_a_batch_is_not_short_at_the_expense_of_those_behind() -> None:
    queue = _queue(entry(0, 12.0), entry(1, 14.0), entry(2, 14.0), entry(3, 999.0))
    assert _form(queue) == ([1, 2, 3], [0])


def test_what_can_no_longer_be_in_time_is_given_up_and_others_take_its_place() -> None:
    queue = _queue(entry(0, 5.0), entry(1, 9.0), *(entry(i, 99.0) for i in range(2, 6)))
    assert _form(queue) == ([2, 3, 4], [0, 1])
    assert _form(_queue(entry(0, 5.0))) == ([], [0])
    assert _form(_queue(call(0, 0.5), entry(1, 99.0))) == ([1], [0])


def test_entries_are_admitted_by_the_cautious_forecast_and_given_up_by_the_likely_one() -> None:
    queue = _queue(entry(0, 13.0), entry(1, 13.0), entry(2, 13.0))
    assert _form(queue, cautious=[2.0] * 5, margin_s=5.0) == ([0, 1, 2], [])


_ARRIVALS = st.lists(
    st.tuples(
        st.floats(0, 30),  # since the one before
        st.floats(0, 5),  # cost
        st.one_of(st.none(), st.floats(0, 120)),  # timeout
        st.booleans(),  # a call
    ),
    max_size=40,
)


@given(_ARRIVALS, st.floats(0, 8))
def test_whoever_is_admitted_is_answered_in_time_if_the_forecast_is_right(
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
        make = call if is_call else entry
        one = make(number, due_s, cost_s=cost_s)
        one.deadline_s = inf if timeout_s is None else due_s
        place = queue.add(one)
        if queue.lateness(place, free_s, _AS_MEASURED) > 0:
            queue.discard(one)
        else:
            limits[number] = one.deadline_s
    run_until(inf)
    assert not limits
