import io

import numpy as np
from rich.console import Console

from phoenix_bench.load.calls import Calls
from phoenix_bench.load.summary import histogram, print_summary

STEPS = {
    "load-schedule": "step",
    "load-start": 2,
    "load-step": 2,
    "load-end": 4,
    "load-step-duration": "1s",
    "duration": "2s",
}


def shown(calls: Calls) -> str:
    console = Console(file=io.StringIO(), width=120)
    print_summary("burst", calls, STEPS, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_each_stage_shows_the_results_of_its_calls() -> None:
    due = np.array([0.0, 0.5, 1.0, 1.25, 1.5, 1.75])
    took = np.array([0.01, 0.03, 0.05, 0.001, 0.5, 0.1])
    codes = np.array([0, 0, 0, 8, 4, 14])
    text = shown(Calls(due, due, due + took, codes))
    first, second = (line for line in text.splitlines() if "/s" in line)
    assert first.split() == ["0", "s", "2/s", "2/s", "0", "0", "0", "20", "28", "30", "30"]
    assert second.split() == ["1", "s", "4/s", "1/s", "1", "1", "1", "50", "50", "50", "50"]
    assert "OK 3" in text
    assert "RESOURCE_EXHAUSTED 1" in text


def test_a_stage_without_answers_has_no_times() -> None:
    due = np.array([0.0, 1.0])
    assert "Latency" not in shown(Calls(due, due, due, np.array([8, 8])))


def test_a_histogram_counts_every_value_once() -> None:
    lines = histogram(np.array([1.0, 1.0, 1.0, 1.0, 5.5, 11.0]))
    counts = [int(line.split()[2]) for line in lines]
    assert counts == [4, 0, 0, 0, 1, 0, 0, 0, 0, 1]
    assert lines[0].count("■") == 40
    assert lines[-1].count("■") == 10
