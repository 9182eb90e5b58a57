from __future__ import annotations

import sys
from pathlib import Path

import pytest

from commands import Outcome, Run, outcome_of
from phoenix_server.cli.main import main


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command line in this process."""

    def run_main(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["phoenix-server", *map(str, arguments)])
        return outcome_of(main, capfd)

    return run_main
