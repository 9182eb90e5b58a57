from collections.abc import Callable

import numpy as np
import pytest

from phoenix_bench.timing import Pace, time_in_turns


class Machine:
    """A clock that only calls move, and what was called."""

    def __init__(self) -> None:
        self.now = 100.0
        self.called: list[str] = []

    def call(self, name: str, takes: float) -> Callable[[], object]:
        def run() -> None:
            self.called.append(name)
            self.now += takes

        return run

    def wait(self, seconds: float) -> None:
        self.now += seconds


def measure(machine: Machine, pace: Pace, **takes: float) -> dict[str, list[float]]:
    calls = {name: machine.call(name, seconds) for name, seconds in takes.items()}
    seconds = time_in_turns(calls, pace, clock=lambda: machine.now, sleep=machine.wait)
    return {name: times.tolist() for name, times in seconds.items()}


def test_times_are_kept_by_system_and_exclude_pauses() -> None:
    pace = Pace(budget_s=0, fewest=3, most=3, pause_s=0.5)
    seconds = measure(Machine(), pace, fast=1, slow=4)
    assert np.allclose(seconds["fast"], [1, 1, 1]) and np.allclose(seconds["slow"], [4, 4, 4])


def test_systems_take_turns_and_rotate_the_first_place() -> None:
    machine = Machine()
    measure(machine, Pace(budget_s=0, fewest=3, most=3), a=1, b=1, c=1)
    warm_up, *rounds = ("".join(machine.called[i : i + 3]) for i in range(0, 12, 3))
    assert warm_up == "abc"
    assert rounds == ["abc", "bca", "cab"]


@pytest.mark.parametrize(("budget_s", "rounds"), [(0, 3), (50, 10), (10_000, 12)])
def test_the_rounds_that_fit_are_run_between_fewest_and_most(budget_s: float, rounds: int) -> None:
    pace = Pace(budget_s=budget_s, fewest=3, most=12, pause_s=0.5)
    seconds = measure(Machine(), pace, a=1, b=3)
    assert len(seconds["a"]) == len(seconds["b"]) == rounds


def test_warm_up_calls_precede_the_timed_call() -> None:
    machine = Machine()
    pace = Pace(budget_s=100, fewest=1, most=50, pause_s=1, warm_ups=2)
    seconds = measure(machine, pace, a=1, b=2)
    assert "".join(machine.called[2:14]) == "aaabbbbbbaaa"
    assert seconds["a"] == [1] * 9  # rounds of 2 + 3 * 3 seconds


def test_a_pace_of_no_rounds_is_rejected() -> None:
    with pytest.raises(ValueError, match="fewest: 0"):
        Pace(budget_s=1, fewest=0)
