"""Time systems in turns, so that what else the machine does hits all of them alike."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long to measure one set of systems.

    Attributes:
        budget_s: Time for all rounds together; the fewest are run even if it is not enough.
        fewest: Rounds at least.
        most: Rounds at most.
        pause_s: Before each system, so that threads of the last one stop spinning for more work.
        warm_ups: Calls of a system after the pause and before the one that is timed. Cores that
            have slept are slow to begin with, which hits systems of many short parallel steps most,
            and is not what a server under load sees.
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
        """Return how many rounds fit, given what one takes in seconds."""
        fitting = int(self.budget_s / max(round_s, 1e-9))
        return max(self.fewest, min(self.most, fitting))


def time_in_turns(
    calls: Mapping[str, Callable[[], object]],
    pace: Pace,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, npt.NDArray[np.float64]]:
    """Time a call of each system once a round, and return what they took.

    A first round is not counted: it warms up, and tells how many rounds fit. Each round begins with
    another system, so that none always follows the same.

    Args:
        calls: The systems by name; a call returns when its answer is on the host.
        pace: How long to measure.
        clock: Seconds from any beginning.
        sleep: Waits some seconds.

    Returns:
        Seconds by system, one a round.
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
