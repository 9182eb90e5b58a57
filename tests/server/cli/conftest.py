from __future__ import annotations

import logging
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from commands import Outcome, Run, outcome_of
from phoenix_server.cli.main import main


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Generator[Run]:
    """Run the command line in this process, and restore its log level."""
    logger = logging.getLogger("phoenix_server")
    level = logger.level

    def run_main(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["phoenix-server", *map(str, arguments)])
        return outcome_of(main, capfd)

    yield run_main
    logger.setLevel(level)
