from collections.abc import Sequence

import numpy as np
import pytest

from phoenix_bench.load.calls import Calls
from phoenix_bench.load.open_loop import OpenRun
from phoenix_bench.results import Span
from phoenix_bench.suites.swap import Swap, count_misnamed

# Activated between 10 and 12, rolled back between 20 and 22.
_STEPS = (
    Span(name="load", begin_s=2, end_s=8),
    Span(name="activate", begin_s=10, end_s=12),
    Span(name="back", begin_s=20, end_s=22),
)


def _swap(calls: Sequence[tuple[float, float, str]]) -> Swap:
    """Return a run of calls: sent time, end time, and the generation that answered, if any."""
    sent, ended = np.array([[sent, ended] for sent, ended, _ in calls], np.float64).T
    names = np.array([name for _, _, name in calls], np.str_)
    codes = np.array([0 if name else 8 for _, _, name in calls])
    run = OpenRun(Calls(sent, sent, ended, codes), 0.1, 100.0, names)
    return Swap(run=run, steps=_STEPS, names=("old", "new"), compilations=0)


@pytest.mark.parametrize(
    ("sent", "ended", "right"),
    [
        (0, 1, {"old"}),
        (9, 10.5, {"old", "new"}),  # either generation may have answered
        (11, 11.5, {"old", "new"}),
        (12.5, 13, {"new"}),
        (5, 13, {"old", "new"}),
        (19, 21, {"old", "new"}),
        (21, 25, {"old", "new"}),
        (22.5, 23, {"old"}),
    ],
)
def test_an_answer_names_a_generation_that_was_active_during_the_call(
    sent: float, ended: float, right: set[str]
) -> None:
    for name in ("old", "new", "third"):
        assert count_misnamed(_swap([(sent, ended, name)])) == (name not in right)


def test_calls_without_an_answer_are_not_misnamed() -> None:
    assert count_misnamed(_swap([(0, 1, ""), (0, 1, "old"), (0, 1, "new")])) == 1
