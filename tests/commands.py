"""Run command lines in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest


class Outcome(NamedTuple):
    """What a command came to: exit status, and what it printed."""

    status: int
    out: str
    err: str


Run = Callable[..., Outcome]


def outcome_of(command: Callable[[], object], captured: pytest.CaptureFixture[str]) -> Outcome:
    """Run a command, and return what it came to."""
    with pytest.raises(SystemExit) as caught:
        command()
    printed = captured.readouterr()
    status = caught.value.code
    assert isinstance(status, int)
    return Outcome(status, printed.out, printed.err)
