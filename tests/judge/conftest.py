from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Outcome, Run, outcome_of
from fake_server.server import FakeServer, run_fake_server
from phoenix_judge.cli.main import main
from phoenix_server.bundle.bundle import Bundle, open_bundle


@pytest.fixture(scope="session")
def bundle(bundle_f32: Path) -> Bundle:
    return open_bundle(bundle_f32)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with run_fake_server() as fake:
        yield fake


@pytest.fixture
def run(
    server: FakeServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Run the command line in this process, with the server as its default target."""
    monkeypatch.setenv("PHOENIX_TARGET", server.target)

    def run_main(*arguments: object) -> Outcome:
        return outcome_of(lambda: main(list(map(str, arguments))), capsys)

    return run_main
