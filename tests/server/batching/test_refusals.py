"""Queries that are refused for the same reason as the last one."""

from phoenix_server.batching.refusals import LastRefusal
from server.batching.fakes import query_request


def test_a_query_that_is_due_before_the_end_of_the_last_one_is_late() -> None:
    last = LastRefusal()
    assert last.lateness(100.0) == 0
    request = query_request(1, 100.0)
    request.cost_s = 4.0
    last.remember(request, late_s=30.0, slowdown=1.5)
    assert last.lateness(99.0) == 0  # it would queue before that one
    assert last.lateness(100.0) == 24.0
    assert last.lateness(123.0) == 1.0
    assert last.lateness(124.0) == 0
    last.forget()
    assert last.lateness(100.0) == 0
