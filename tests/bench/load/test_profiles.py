from pathlib import Path

import numpy as np
import pytest

from phoenix_bench.load.calls import Calls
from phoenix_bench.load.profiles import (
    CAPACITY,
    PROFILES,
    Stage,
    cut_by_stage,
    duration_s,
    find_stages,
    fit_profile,
    read_profile,
)
from phoenix_bench.load.requests import METHOD

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "bench" / "ghz"


@pytest.mark.parametrize("name", [CAPACITY, *PROFILES])
def test_a_profile_names_a_method_and_a_proto_that_exist_and_ends_by_itself(name: str) -> None:
    config = read_profile(CONFIGS, name)
    assert f"/{config['call']}" == METHOD
    assert (ROOT / config["proto"]).is_file()
    assert all((ROOT / path).is_dir() for path in config["import-paths"])
    assert 0 < duration_s(config["duration"]) <= 60
    assert config["duration-stop"] == "wait", "or ghz counts calls that it broke off as errors"


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_does_not_wait_for_answers(name: str) -> None:
    assert read_profile(CONFIGS, name)["async"] is True


@pytest.mark.parametrize("name", [CAPACITY, *PROFILES])
def test_stages_are_contiguous_and_fill_the_duration(name: str) -> None:
    config = read_profile(CONFIGS, name)
    stages = find_stages(config)
    assert stages[0].begin_s == 0
    assert stages[-1].end_s == duration_s(config["duration"])
    assert [s.end_s for s in stages[:-1]] == [s.begin_s for s in stages[1:]]


def test_the_burst_goes_from_half_of_the_capacity_to_three_times_it() -> None:
    fitted = fit_profile(read_profile(CONFIGS, "burst"), 250, Path("requests.bin"))
    assert [stage.rate for stage in find_stages(fitted)] == [125, 750]


def test_rates_are_percentages_of_the_capacity_and_at_least_1() -> None:
    config = {"rps": 70, "load-start": 20, "load-step": 10, "load-end": 140, "timeout": "1s"}
    fitted = fit_profile(config, 250, Path("some/requests.bin"))
    assert fitted == {
        "rps": 175,
        "load-start": 50,
        "load-step": 25,
        "load-end": 350,
        "timeout": "1s",
        "binary-file": "some/requests.bin",
    }
    assert fit_profile(config, 1, Path("x"))["load-step"] == 1


def test_calls_belong_to_the_stage_in_which_they_were_due() -> None:
    config = {
        "load-schedule": "step",
        "load-start": 10,
        "load-step": 20,
        "load-end": 30,
        "load-step-duration": "2s",
        "duration": "5s",
    }
    due = np.array([0.0, 1.9, 2.0, 4.5])
    calls = Calls(due, due, due + 10, np.zeros(4, np.int64))
    assert [(stage, part.due_s.tolist()) for stage, part in cut_by_stage(calls, config)] == [
        (Stage(0, 2, 10), [0.0, 1.9]),
        (Stage(2, 4, 30), [2.0]),
        (Stage(4, 5, 30), [4.5]),
    ]


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("20s", 20.0), ("2m", 120.0), ("1.5s", 1.5)]
)
def test_durations_are_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["20", "1h", "s", ""])
def test_other_forms_of_durations_are_rejected(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a number of|could not convert"):
        duration_s(text)
