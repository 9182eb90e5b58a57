from __future__ import annotations

import pytest

from phoenix_judge.sweeps import Sweep, doubling, parse_sweep


def test_sweeps_are_read() -> None:
    assert parse_sweep("efSearch=16,32") == Sweep("efSearch", (16, 32))
    assert parse_sweep("nprobe=1") == Sweep("nprobe", (1,))
    assert doubling("nprobe", 3, 13) == Sweep("nprobe", (3, 6, 12))


@pytest.mark.parametrize(
    "text", ["", "nprobe", "nprobe=", "=1", "nprobe=1,", "nprobe=a", "nprobe=-1", "nprobe=1.5"]
)
def test_what_is_no_sweep_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be as in efSearch=16,32,64"):
        parse_sweep(text)


@pytest.mark.parametrize("text", ["nprobe=0", f"nprobe={2**31}"])
def test_values_out_of_range_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="values must be from 1"):
        parse_sweep(text)
