"""A closed loop runs for as long as a rate takes, on a slow machine, too."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phoenix_bench.load import target
from phoenix_bench.load.calls import Calls
from phoenix_bench.load.ghz import GhzError, GhzRun
from phoenix_bench.load.profiles import duration_s

CALLERS = 4


class Server:
    """Stands in for ghz and a server that answers `rate` calls per second with `code`."""

    def __init__(self, rate: float, code: int = 0) -> None:
        self.rate = rate
        self.code = code
        self.durations_s: list[float] = []

    def run_ghz(self, ghz: Path, config: Mapping[str, Any], address: str, out: Path) -> GhzRun:
        self.durations_s.append(duration_s(config["duration"]))
        ended_s = np.arange(1, int(self.durations_s[-1] * self.rate) + 1) / self.rate
        sent_s = ended_s - CALLERS / self.rate
        codes = np.full(len(ended_s), self.code)
        return GhzRun(Calls(due_s=sent_s, sent_s=sent_s, ended_s=ended_s, codes=codes), 0.1)


def run_closed(server: Server, monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(target, "run_ghz", server.run_ghz)
    paths = Path("ghz"), "127.0.0.1:1", Path("requests.bin")
    return target.run_closed(*paths, callers=CALLERS, duration_s=2).rate


def test_a_fast_server_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(rate=100)
    assert run_closed(server, monkeypatch) == pytest.approx(100)
    assert server.durations_s == [2]


def test_a_slow_server_is_loaded_for_longer_until_its_rate_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server(rate=1.5)
    assert run_closed(server, monkeypatch) == pytest.approx(1.5)
    assert server.durations_s == [2, 4, 8, 16]


def test_a_server_that_answers_next_to_nothing_has_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(rate=0.1)
    with pytest.raises(ValueError, match="6 answers are too few"):
        run_closed(server, monkeypatch)
    assert server.durations_s == [2, 4, 8, 16, 32, 60]


def test_a_rate_with_errors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GhzError, match="every call should be answered"):
        run_closed(Server(rate=100, code=8), monkeypatch)
