"""Load profiles: what ghz reads, with rates that fit the server at hand.

The rates in the files are for a server that answers 100 calls a second, so that they read as per
cent of its capacity; here they are multiplied by what it does answer.
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
_RATES_ARE_FOR = 100  # calls a second
_UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0}

Config = Mapping[str, Any]


class Stage(NamedTuple):
    """A stretch of a profile in which the rate stays the same.

    Attributes:
        begin_s: From the start of the run.
        end_s: Likewise.
        rate: Calls a second; 0 where callers wait for their answers.
    """

    begin_s: float
    end_s: float
    rate: float


def read_profile(directory: Path, name: str) -> Config:
    """Read a profile.

    Raises:
        FileNotFoundError: There is none of this name.
    """
    return json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))


def fit_profile(config: Config, capacity: float, requests: Path) -> Config:
    """Return a profile for a server that answers `capacity` calls a second.

    Args:
        config: As `read_profile` gives it.
        capacity: Calls a second.
        requests: What to send, as `write_requests` wrote it.
    """
    rates = {
        name: max(1, round(config[name] * capacity / _RATES_ARE_FOR))
        for name in _RATES
        if name in config
    }
    return {**config, **rates, "binary-file": str(requests)}


def find_stages(config: Config) -> list[Stage]:
    """Return the stages of a profile, in order."""
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
    """Return the calls of each stage of a profile."""
    return [(stage, calls.between(stage.begin_s, stage.end_s)) for stage in find_stages(config)]


def duration_s(text: str) -> float:
    """Return a duration in seconds, of one number and one unit: 500ms, 20s, 2m.

    Raises:
        ValueError: It is not written so.
    """
    number = text.rstrip("ms")
    unit = text.removeprefix(number)
    if unit not in _UNITS_S:
        raise ValueError(f"{text!r} is not a number of ms, s or m")
    return float(number) * _UNITS_S[unit]
