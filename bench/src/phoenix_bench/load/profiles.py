"""Read load profiles for ghz and scale their rates to a server.

The rates in the files are for a server with a capacity of 100 calls per second, so they are
percentages of the capacity; this module multiplies them by the measured capacity.
"""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from phoenix_bench.load.calls import Calls

CAPACITY = "capacity"
PROFILES = ("steady", "ramp", "burst")

_RATES = ("rps", "load-start", "load-step", "load-end")
_RATES_ARE_FOR = 100  # calls per second
_UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0}

Config = Mapping[str, Any]


class Stage(NamedTuple):
    """A part of a profile with a constant rate.

    Attributes:
        begin_s: Beginning, in seconds from the start of the run.
        end_s: End, likewise.
        rate: Calls per second; 0 in a closed loop.
    """

    begin_s: float
    end_s: float
    rate: float


def read_profile(directory: Path, name: str) -> Config:
    """Read a profile.

    Raises:
        FileNotFoundError: There is no profile of this name.
    """
    return json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))


def fit_profile(config: Config, capacity: float, requests: Path) -> Config:
    """Return a profile for a server that answers `capacity` calls per second.

    Args:
        config: Profile from `read_profile`.
        capacity: Calls per second.
        requests: File of `write_requests`.
    """
    rates = {
        name: max(1, round(config[name] * capacity / _RATES_ARE_FOR))
        for name in _RATES
        if name in config
    }
    return {**config, **rates, "binary-file": str(requests)}


def find_stages(config: Config) -> list[Stage]:
    """Return the stages of a profile in order."""
    whole_s = duration_s(config["duration"])
    if config.get("load-schedule") != "step":
        return [Stage(0.0, whole_s, config.get("rps", 0))]
    step_s = duration_s(config["load-step-duration"])
    starts = [*np.arange(0, whole_s, step_s).tolist(), whole_s]
    return [
        Stage(begin, end, min(config["load-start"] + i * config["load-step"], config["load-end"]))
        for i, (begin, end) in enumerate(pairwise(starts))
    ]


def cut_by_stage(calls: Calls, config: Config) -> list[tuple[Stage, Calls]]:
    """Return each stage of a profile with its calls."""
    return [(stage, calls.between(stage.begin_s, stage.end_s)) for stage in find_stages(config)]


def duration_s(text: str) -> float:
    """Parse a duration of one number and one unit (500ms, 20s, 2m) to seconds.

    Raises:
        ValueError: The text has another form.
    """
    number = text.rstrip("ms")
    unit = text.removeprefix(number)
    if unit not in _UNITS_S:
        raise ValueError(f"{text!r} is not a number of ms, s or m")
    return float(number) * _UNITS_S[unit]
