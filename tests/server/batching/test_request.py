from __future__ import annotations

from math import inf

from phoenix_server.batching.request import Batch
from server.batching.fakes import call_request, query_request


def test_deadline_is_the_due_time_or_infinity() -> None:
    assert query_request(1, 5.0).deadline_s == 5.0
    assert query_request(1, 5.0, has_deadline=False).deadline_s == inf


def test_order_is_by_due_time_then_arrival() -> None:
    requests = query_request(2, 7.0), call_request(3, 5.0), query_request(1, 7.0)
    ordered = sorted(requests, key=lambda request: request.order)
    assert [request.order[1] for request in ordered] == [3, 1, 2]


def test_batch_of_queries_counts_its_users() -> None:
    requests = [query_request(4, 1.0), query_request(2, 2.0)]
    batch = Batch(requests, 3.0)
    assert (batch.kind, batch.users) == ("", 2)
    assert [query.top_k for query in batch.queries] == [4, 2]


def test_batch_of_a_call_has_no_users() -> None:
    batch = Batch([call_request(1, 1.0, kind="score")], 3.0)
    assert (batch.kind, batch.users, batch.queries) == ("score", 0, [])
