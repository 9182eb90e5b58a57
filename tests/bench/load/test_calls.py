import grpc
import numpy as np
import pytest

from phoenix_bench.load.calls import EXPIRED, OK, REFUSED, Calls, code, rate_of_answers


def some_calls() -> Calls:
    return Calls(
        due_s=np.array([0.0, 1.0, 2.0, 3.0]),
        sent_s=np.array([0.0, 1.5, 2.0, 3.25]),
        ended_s=np.array([0.25, 2.0, 2.5, 3.5]),
        codes=np.array([code(status) for status in (OK, OK, REFUSED, EXPIRED)]),
    )


def test_latency_counts_from_the_due_time() -> None:
    assert some_calls().latencies_s().tolist() == [0.25, 1.0]
    assert some_calls().latencies_s(EXPIRED).tolist() == [0.5]


def test_waits_count_from_the_sent_time() -> None:
    assert some_calls().waits_s(OK).tolist() == [0.25, 0.5]
    assert some_calls().lags_s().tolist() == [0.0, 0.5, 0.0, 0.25]


def test_between_returns_the_calls_due_in_an_interval() -> None:
    assert some_calls().between(1.0, 3.0).due_s.tolist() == [1.0, 2.0]
    assert some_calls().between(1.0, 3.0).statuses() == {"OK": 1, "RESOURCE_EXHAUSTED": 1}


def test_statuses_are_counted_by_name_most_frequent_first() -> None:
    assert list(some_calls().statuses().items()) == [
        ("OK", 2),
        ("DEADLINE_EXCEEDED", 1),
        ("RESOURCE_EXHAUSTED", 1),
    ]
    assert some_calls().count(REFUSED) == 1


def test_the_number_of_a_status_is_its_number_on_the_wire() -> None:
    assert code(grpc.StatusCode.RESOURCE_EXHAUSTED) == 8


def test_the_rate_of_answers_excludes_both_ends() -> None:
    slow_start, even, slow_end = [1.0, 2.0, 3.0], [3.1, 3.2, 3.3, 3.4, 3.5], [4.5, 5.5, 6.5]
    ended = np.array(slow_start + even + slow_end)
    calls = Calls(np.zeros(11), np.zeros(11), ended, np.zeros(11, np.int64))
    assert rate_of_answers(calls, edge=3) == pytest.approx(10.0)


def test_errors_do_not_count_as_answers() -> None:
    ended = np.arange(10) / 10
    calls = Calls(np.zeros(10), np.zeros(10), ended, np.array([0, 8] * 5))
    assert rate_of_answers(calls, edge=1) == pytest.approx(5.0)


def test_too_few_answers_give_no_rate() -> None:
    with pytest.raises(ValueError, match="2 answers are too few"):
        rate_of_answers(some_calls(), edge=1)
