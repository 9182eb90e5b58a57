"""Time systems in turns, so that other load on the machine affects all of them alike."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Duration of the measurement of one set of systems.

    Attributes:
        budget_s: Time for all rounds together, in seconds; exceeded if `fewest` rounds need more.
        fewest: Smallest number of rounds.
        most: Largest number of rounds.
        pause_s: Pause before each system, in seconds, for threads of the last one to stop spinning.
        warm_ups: Untimed calls of a system between the pause and the timed call. Cores that have
            slept are slow at first. That affects systems of many short parallel steps most, and
            does not happen on a server under load.
    """

    budget_s: float
    fewest: int = 3
    most: int = 25
    pause_s: float = 0.15
    warm_ups: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.fewest <= self.most:
            raise ValueError(f"fewest: {self.fewest}, most: {self.most}: not ascending from 1")

    def rounds(self, round_s: float) -> int:
        """Return how many rounds fit, given the duration of one in seconds."""
        fitting = int(self.budget_s / max(round_s, 1e-9))
        return max(self.fewest, min(self.most, fitting))


def time_in_turns(
    calls: Mapping[str, Callable[[], object]],
    pace: Pace,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, npt.NDArray[np.float64]]:
    """Time one call of each system in each round.

    The first round is not counted; it warms up and determines how many rounds fit. Each round
    begins with another system, so that no system always follows the same one.

    Args:
        calls: A call for each system, by name; it returns when its answer is on the host.
        pace: Duration of the measurement.
        clock: Returns seconds from an arbitrary origin.
        sleep: Waits for a number of seconds.

    Returns:
        Seconds by system, one value for each round.
    """
    names = list(calls)
    began = clock()
    for name in names:
        calls[name]()
    once_s = clock() - began
    rounds = pace.rounds(once_s * (1 + pace.warm_ups) + pace.pause_s * len(names))
    seconds = {name: np.empty(rounds) for name in names}
    for i in range(rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            sleep(pace.pause_s)
            for _ in range(pace.warm_ups):
                calls[name]()
            start = clock()
            calls[name]()
            seconds[name][i] = clock() - start
    return seconds
