from dataclasses import replace
from pathlib import Path

import pytest

from phoenix_bench.results import (
    OURS,
    Limit,
    Points,
    Report,
    Span,
    Timeline,
    read_report,
    summarise,
    write_report,
)


def report() -> Report:
    row = summarise([3.0, 1.0, 2.0], suite="s", metric="time", unit="ms", params={"rows": 7})
    return Report(
        machine={"cpu": "one"},
        versions={"numpy": "2"},
        limits=(Limit(name="reads", value=30.5, unit="GB/s", method="sum"),),
        rows=(row, replace(row, system="peer", params={"rows": 7, "exact": True})),
        notes=("a peer is missing",),
    )


def test_a_row_holds_median_and_interpolated_percentiles() -> None:
    row = summarise([50, 10, 40, 20, 30], suite="s", metric="time", unit="ms", params={"k": 3})
    assert (row.p10, row.median, row.p90, row.runs) == (14, 30, 46, 5)
    assert (row.suite, row.system, row.metric, row.unit) == ("s", OURS, "time", "ms")
    assert row.params == {"k": 3}


def test_one_run_is_its_own_median_and_percentiles() -> None:
    row = summarise([2.5], suite="s", metric="time", unit="s")
    assert (row.p10, row.median, row.p90, row.runs) == (2.5, 2.5, 2.5, 1)


@pytest.mark.parametrize("samples", [[], [1.0, float("nan")], [float("inf")]])
def test_missing_or_infinite_samples_are_rejected(samples: list[float]) -> None:
    with pytest.raises(ValueError, match="not finite samples"):
        summarise(samples, suite="s", metric="time", unit="s")


def test_a_report_round_trips_through_its_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "s.json"
    write_report(report(), path)
    assert read_report(path) == report()


def test_a_timeline_round_trips_through_its_file(tmp_path: Path) -> None:
    timeline = Timeline(
        points=(Points(name="calls", x_s=[0.5, 1.5], y_ms=[3.0, 4.0]),),
        spans=(Span(name="load", begin_s=0.25, end_s=1.0),),
    )
    whole = replace(report(), timeline=timeline)
    write_report(whole, tmp_path / "s.json")
    assert read_report(tmp_path / "s.json") == whole


def test_a_file_names_its_limits(tmp_path: Path) -> None:
    write_report(report(), tmp_path / "s.json")
    text = (tmp_path / "s.json").read_text(encoding="utf-8")
    assert '"reads": {' in text and '"method": "sum"' in text


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"limits": {}, "rows": [{}], "notes": []}', '{"limits": 1}']
)
def test_another_file_is_rejected_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"odd\.json: not a report"):
        read_report(path)
