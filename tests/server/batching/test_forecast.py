from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phoenix_server.batching.forecast import Forecast, MovingEstimate
from phoenix_server.batching.request import Batch
from server.batching.fakes import call_request, query_request


def _queries(users: int, cost_s: float, spent_s: float) -> Batch:
    return _timed(Batch([query_request(i, 1.0) for i in range(users)], cost_s), spent_s)


def _call(kind: str, cost_s: float, spent_s: float) -> Batch:
    return _timed(Batch([call_request(0, 1.0, kind=kind)], cost_s), spent_s)


def _timed(batch: Batch, spent_s: float) -> Batch:
    batch.start_s, batch.end_s = 5.0, 5.0 + spent_s
    return batch


def test_estimate_follows_rfc_6298() -> None:
    estimate = MovingEstimate(8.0, 2.0)
    estimate.observe(12.0)
    assert (estimate.mean, estimate.deviation) == (8.5, 2.5)
    assert estimate.high == 18.5


@pytest.mark.parametrize(("sample", "as_if"), [(1e9, 16.0), (0.0, 4.0)])
def test_outlier_is_limited_to_half_or_twice_the_mean(sample: float, as_if: float) -> None:
    odd, bounded = MovingEstimate(8.0, 2.0), MovingEstimate(8.0, 2.0)
    odd.observe(sample)
    bounded.observe(as_if)
    assert (odd.mean, odd.deviation) == (bounded.mean, bounded.deviation)


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.floats(0, 10))
def test_estimate_converges_to_constant_samples(
    truth: float, mean: float, deviation: float
) -> None:
    estimate = MovingEstimate(mean, deviation)
    for _ in range(300):
        estimate.observe(truth)
    assert estimate.mean == pytest.approx(truth, rel=1e-3)
    assert estimate.high == pytest.approx(truth, rel=1e-2)


def test_forecast_starts_at_the_costs_of_start_up() -> None:
    forecast = Forecast(5)
    assert forecast.likely == [1.0] * 6
    assert forecast.cautious == [1.5] * 6


@settings(max_examples=20)
@given(st.lists(st.floats(0.3, 3.0), min_size=4, max_size=4))
def test_slowdown_is_learned_by_size_class(truths: list[float]) -> None:
    forecast = Forecast(8)
    for _ in range(400):
        for users, truth in zip((1, 2, 4, 7), truths, strict=True):
            forecast.observe(_queries(users, cost_s=2.0, spent_s=2.0 * truth))
    by_users = [truths[i] for i in (0, 1, 2, 2, 3, 3, 3, 3)]
    assert forecast.likely[1:] == pytest.approx(by_users, rel=0.01)
    assert forecast.deviation < 0.02


def test_one_size_class_moves_the_slowness_of_all() -> None:
    forecast = Forecast(8)
    for _ in range(50):
        forecast.observe(_queries(8, cost_s=1.0, spent_s=2.0))
    assert forecast.likely[8] == pytest.approx(2.0, rel=0.01)
    assert 1.05 < forecast.likely[1] == forecast.likely[0] == forecast.slowness < 1.9


def test_deviation_is_learned_by_size_class() -> None:
    forecast = Forecast(8)
    for i in range(100):
        forecast.observe(_queries(1, cost_s=1.0, spent_s=1.5 if i % 2 else 0.75))
        forecast.observe(_queries(8, cost_s=1.0, spent_s=1.0))
    caution = [
        high / factor for high, factor in zip(forecast.cautious, forecast.likely, strict=True)
    ]
    assert caution[1] > 2 > 1.2 > caution[8]


def test_batch_without_cost_changes_no_estimate() -> None:
    forecast = Forecast(8)
    forecast.observe(_queries(1, cost_s=0.0, spent_s=2.0))
    assert (forecast.slowness, forecast.deviation) == (1.0, 0.125)


def test_relax_lowers_slowdowns_above_one_only() -> None:
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


def test_call_cost_is_learned_by_kind() -> None:
    forecast = Forecast(8)
    forecast.slowness = 2.0
    assert forecast.call_cost_s("score") == 0.0
    forecast.observe(_call("score", cost_s=0.0, spent_s=6.0))
    assert forecast.call_cost_s("score") == 3.0
    assert forecast.call_cost_s("encode") == 0.0
    forecast.observe(_call("score", cost_s=3.0, spent_s=8.0))
    assert forecast.call_cost_s("score") == 3.125
    assert forecast.slowness == 2.0
