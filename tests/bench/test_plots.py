from pathlib import Path

import pytest

from phoenix_bench.plots import draw_bars, draw_lines, draw_timeline
from phoenix_bench.results import Points, Report, Row, Span, Timeline, summarise


def rows() -> list[Row]:
    return [
        summarise([k, k + 1], suite="s", metric="time", unit="ms", params={"k": k})
        for k in (10, 1000)
    ]


def test_plots_are_png_files(tmp_path: Path) -> None:
    timeline = Timeline(
        points=[Points(name="calls", x_s=[0.5, 1.5], y_ms=[3, 40])],
        spans=[Span(name="load", begin_s=0.2, end_s=1)],
    )
    report = Report(machine={}, versions={}, rows=rows(), timeline=timeline)
    draw_timeline(report, tmp_path / "new" / "timeline.png", title="t")
    draw_lines(report, tmp_path / "new" / "lines.png", metric="time", x="k", title="t")
    draw_bars(report, tmp_path / "new" / "bars.png", metrics=["time"], title="t")
    for name in ("lines.png", "bars.png", "timeline.png"):
        assert (tmp_path / "new" / name).read_bytes().startswith(b"\x89PNG")


def test_plotting_a_missing_metric_is_rejected(tmp_path: Path) -> None:
    report = Report(machine={}, versions={}, rows=rows())
    with pytest.raises(ValueError, match="memory"):
        draw_bars(report, tmp_path / "bars.png", metrics=["memory"], title="t")
    with pytest.raises(ValueError, match="no timeline"):
        draw_timeline(report, tmp_path / "timeline.png", title="t")
