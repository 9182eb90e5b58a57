from phoenix_bench.limits import READ_BANDWIDTH, SGEMM, best_of, measure_limits
from phoenix_bench.results import Limit


def test_limits_are_rates_with_their_methods() -> None:
    bandwidth, products = measure_limits(quick=True)
    assert (bandwidth.name, bandwidth.unit) == (READ_BANDWIDTH, "GB/s")
    assert (products.name, products.unit) == (SGEMM, "GFLOP/s")
    assert bandwidth.value > 0 and products.value > 0
    assert "32 MiB" in bandwidth.method and "512 x 512" in products.method


def test_of_two_measurements_the_higher_is_the_limit() -> None:
    low = Limit(name="reads", value=20, unit="GB/s", method="sum")
    high = Limit(name="reads", value=30, unit="GB/s", method="dot")
    assert best_of(low, high) == best_of(high, low) == high
