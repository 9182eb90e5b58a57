from collections.abc import Generator
from pathlib import Path

import jax
import numpy as np
import pytest

from phoenix_bench.results import OURS, Limit, Report
from phoenix_bench.search import systems
from phoenix_bench.search.dataset import Floats
from phoenix_bench.search.oracle import SearchResult, find_truth
from phoenix_bench.search.systems import Search, System
from phoenix_bench.suites import Options, topk
from phoenix_server.search.native.library import variants


@pytest.fixture(scope="module", autouse=True)
def _small_machine() -> Generator[None, None, None]:
    """Fix the machine's limits; provide one peer and let another be missing."""

    def absent(corpus: Floats) -> System:
        raise ImportError("no module named absent")

    limits = (
        Limit(name="read_bandwidth", value=1.0, unit="GB/s", method="given"),
        Limit(name="sgemm", value=100.0, unit="GFLOP/s", method="given"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(topk, "measure_limits", lambda **options: limits)
        patch.setattr(topk, "HOST_PEERS", {"numpy": systems.numpy, "absent": absent})
        yield


@pytest.fixture(scope="module")
def report(_small_machine: None) -> Report:
    return topk.run(Options(quick=True))


def test_every_set_of_parameters_has_all_systems_and_metrics(report: Report) -> None:
    names = {OURS, "ours, tiles", "XLA lax.top_k", "numpy argpartition"}
    names |= {"ours, avx2"} & {f"ours, {name}" for name in variants(128)}
    for metric in ("time", "share_of_read_bandwidth", "share_of_sgemm", "time_over_ours"):
        rows = [row for row in report.rows if row.metric == metric]
        expected = names - {OURS} if metric == "time_over_ours" else names
        assert {row.system for row in rows} == expected
        assert {tuple(row.params.values()) for row in rows} == {
            (kind, 5_000, batch, k)
            for kind in ("random", "clustered")
            for batch in (1, 8)
            for k in (10, 100)
        }
        assert len(rows) == 8 * len(expected)
        assert all(0 < row.p10 <= row.median <= row.p90 for row in rows)


def test_shares_are_relative_to_the_limits(report: Report) -> None:
    of_ours = {
        row.metric: row
        for row in report.rows
        if row.system == OURS
        and row.params == {"corpus": "random", "rows": 5_000, "batch": 8, "k": 10}
    }
    fastest_s, slowest_s = (of_ours["time"].p10 / 1e3, of_ours["time"].p90 / 1e3)
    read_s, multiply_s = 5_000 * 128 * 4 / 1e9, 2 * 5_000 * 128 * 8 / 100e9
    for metric, least_s in (("share_of_read_bandwidth", read_s), ("share_of_sgemm", multiply_s)):
        assert least_s / slowest_s <= of_ours[metric].median <= least_s / fastest_s


def test_a_missing_peer_is_noted(report: Report) -> None:
    assert "absent is not installed: no module named absent" in report.notes


def test_a_report_can_be_plotted(report: Report, tmp_path: Path) -> None:
    topk.plot(report, tmp_path / "topk.png")
    assert (tmp_path / "topk.png").exists()


def test_wrong_answers_of_our_search_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "ours", lambda *args, **kw: _swapping(systems.ours(*args, **kw)))
    with pytest.raises(topk.WrongAnswerError, match="equal vectors"):
        topk.run(Options(quick=True))


def test_our_search_returns_rows_of_the_corpus_on_several_devices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    corpus = np.random.default_rng(0).normal(size=(1000, 16)).astype(np.float32)
    monkeypatch.setattr(systems, "choose_devices", lambda shards: tuple(jax.devices()[:3]))
    found = systems.ours(corpus, "float32").prepare(2, 5)(corpus[[3, 997]])
    truth = find_truth(corpus, corpus[[3, 997]], 5)
    np.testing.assert_array_equal(found.rows, truth.rows)


def test_an_inexact_peer_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "xla", lambda corpus, dtype: _losing(systems.xla(corpus, dtype)))
    notes = topk.run(Options(quick=True)).notes
    assert any(note.startswith("XLA lax.top_k is not exact") for note in notes)


def _swapping(system: System) -> System:
    """Return a system that swaps the first two rows of every answer."""

    def prepare(batch: int, k: int) -> Search:
        search = system.prepare(batch, k)

        def swapped(queries: Floats) -> SearchResult:
            found = search(queries)
            rows = found.rows.copy()
            rows[:, [0, 1]] = rows[:, [1, 0]]
            return SearchResult(found.scores, rows)

        return swapped

    return System(system.name, prepare)


def _losing(system: System) -> System:
    """Return a system that omits the best row of every answer."""

    def prepare(batch: int, k: int) -> Search:
        search = system.prepare(batch, k + 1)

        def lost(queries: Floats) -> SearchResult:
            found = search(queries)
            return SearchResult(found.scores[:, 1:], found.rows[:, 1:])

        return lost

    return System(system.name, prepare)
