import numpy as np
import pytest

from phoenix_bench.load.arrivals import poisson_arrivals


def test_due_times_are_ascending_within_the_duration_at_the_rate() -> None:
    due = poisson_arrivals(200, 50, seed=1)
    assert (np.diff(due) >= 0).all()
    assert 0 <= due[0] < due[-1] <= 50
    assert len(due) == pytest.approx(200 * 50, rel=0.05)


def test_gaps_are_distributed_as_those_of_independent_calls() -> None:
    gaps = np.diff(poisson_arrivals(200, 50, seed=1))
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05), "an even schedule would give 0"


def test_the_same_seed_gives_the_same_times() -> None:
    first, again, other = (poisson_arrivals(9, 9, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert first[0] != other[0]


@pytest.mark.parametrize(("rate", "duration_s"), [(0, 1), (1, 0), (-1, 1), (float("nan"), 1)])
def test_a_rate_and_a_duration_must_be_positive(rate: float, duration_s: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        poisson_arrivals(rate, duration_s, seed=0)
