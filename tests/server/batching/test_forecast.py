from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_server.batching.forecast import Forecast, MovingEstimate
from phoenix_server.batching.request import Batch
from server.batching.test_request_queue import call, entry


def _queries(users: int, cost_s: float, spent_s: float) -> Batch:
    return _timed(Batch([entry(i, 1.0) for i in range(users)], cost_s), spent_s)


def _call(kind: str, cost_s: float, spent_s: float) -> Batch:
    return _timed(Batch([call(0, 1.0, kind=kind)], cost_s), spent_s)


def _timed(batch: Batch, spent_s: float) -> Batch:
    batch.start_s, batch.end_s = 5.0, 5.0 + spent_s
    return batch


def test_a_measurement_moves_mean_and_deviation_as_a_round_trip_does() -> None:
    estimate = MovingEstimate(8.0, 2.0)
    estimate.observe(12.0)
    assert (estimate.mean, estimate.deviation) == (8.5, 2.5)
    assert estimate.high == 18.5


@pytest.mark.parametrize(("sample", "as_if"), [(1e9, 16.0), (0.0, 4.0)])
def test_one_odd_measurement_counts_for_little(sample: float, as_if: float) -> None:
    odd, bounded = MovingEstimate(8.0, 2.0), MovingEstimate(8.0, 2.0)
    odd.observe(sample)
    bounded.observe(as_if)
    assert (odd.mean, odd.deviation) == (bounded.mean, bounded.deviation)


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0, 10))
def test_steady_measurements_are_believed_in_the_end(
    truth: float, mean: float, deviation: float
) -> None:
    estimate = MovingEstimate(mean, deviation)
    for _ in range(300):
        estimate.observe(truth)
    assert estimate.mean == pytest.approx(truth, rel=1e-3)
    assert estimate.high == pytest.approx(truth, rel=1e-2)


def test_at_first_the_forecast_is_what_was_measured_at_start_up() -> None:
    forecast = Forecast(5)
    assert forecast.likely == [1.0] * 6
    assert forecast.cautious == [1.5] * 6


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(0.3, 3.0), min_size=4, max_size=4))
def test_each_size_of_batch_is_forecast_by_its_own_past(truths: list[float]) -> None:
    forecast = Forecast(8)
    for _ in range(400):
        for users, truth in zip((1, 2, 4, 7), truths, strict=True):
            forecast.observe(_queries(users, cost_s=2.0, spent_s=2.0 * truth))
    by_users = [truths[i] for i in (0, 1, 2, 2, 3, 3, 3, 3)]
    assert forecast.likely[1:] == pytest.approx(by_users, rel=0.01)
    assert forecast.deviation < 0.02


def test_what_one_size_teaches_holds_for_the_others_in_part() -> None:
    forecast = Forecast(8)
    for _ in range(50):
        forecast.observe(_queries(8, cost_s=1.0, spent_s=2.0))
    assert forecast.likely[8] == pytest.approx(2.0, rel=0.01)
    assert 1.05 < forecast.likely[1] == forecast.likely[0] == forecast.slowness < 1.9


def test_irregular_batches_of_one_size_make_no_other_size_suspect() -> None:
    forecast = Forecast(8)
    for i in range(100):
        forecast.observe(_queries(1, cost_s=1.0, spent_s=1.5 if i % 2 else 0.75))
        forecast.observe(_queries(8, cost_s=1.0, spent_s=1.0))
    caution = [
        high / factor for high, factor in zip(forecast.cautious, forecast.likely, strict=True)
    ]
    assert caution[1] > 2 > 1.2 > caution[8]


def test_a_batch_that_was_to_cost_nothing_teaches_nothing() -> None:
    forecast = Forecast(8)
    forecast.observe(_queries(1, cost_s=0.0, spent_s=2.0))
    assert (forecast.slowness, forecast.deviation) == (1.0, 0.125)


def test_relaxing_forgets_slowness_but_no_speed() -> None:
    forecast = Forecast(8)
    for _ in range(50):
        forecast.observe(_queries(8, cost_s=1.0, spent_s=3.0))
        forecast.observe(_queries(1, cost_s=1.0, spent_s=0.3))
    fast, slow = forecast.likely[1], forecast.likely[8]
    forecast.relax()
    assert forecast.likely[8] < slow
    for _ in range(200):
        forecast.relax()
    assert forecast.cautious[8] < 1.01
    assert forecast.likely[1] <= fast


def test_calls_of_a_kind_teach_what_that_kind_costs() -> None:
    forecast = Forecast(8)
    forecast.slowness = 2.0
    assert forecast.call_cost_s("score") == 0.0
    forecast.observe(_call("score", cost_s=0.0, spent_s=6.0))
    assert forecast.call_cost_s("score") == 3.0
    assert forecast.call_cost_s("encode") == 0.0
    forecast.observe(_call("score", cost_s=3.0, spent_s=8.0))
    assert forecast.call_cost_s("score") == 3.125
    assert forecast.slowness == 2.0
