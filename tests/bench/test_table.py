from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from phoenix_bench.plots import draw_bars, draw_lines, draw_timeline
from phoenix_bench.results import Points, Report, Row, Span, Timeline, summarise
from phoenix_bench.table import format_number, make_table


def rows() -> list[Row]:
    made: list[Row] = []
    for k in (10, 1000):
        for system, time in (("peer", 3.0), ("ours", 2.0)):
            made.append(
                summarise(
                    [time * k, time * k + 1],
                    suite="s",
                    system=system,
                    metric="time",
                    unit="ms",
                    params={"k": k, "of": "all"},
                )
            )
    return made


def printed(rows: list[Row], *, percentiles: bool) -> list[str]:
    console = Console(file=StringIO(), width=100)
    console.print(make_table(rows, percentiles=percentiles))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def test_ours_comes_first_and_params_are_lines() -> None:
    lines = printed(rows(), percentiles=True)
    header = next(line for line in lines if "peer" in line)
    assert header.index("ours") < header.index("peer")
    line = next(line for line in lines if "k 1,000, of: all" in line)
    assert "2,000 (2,000-2,001)" in line and "3,000 (3,000-3,001)" in line


def test_a_narrow_table_shows_medians_alone() -> None:
    text = "\n".join(printed(rows(), percentiles=False))
    assert "2,000" in text and "(" not in text


def test_a_system_that_was_not_measured_leaves_its_cell_empty() -> None:
    lines = printed(rows()[:-1], percentiles=True)
    line = next(line for line in lines if "k 1,000" in line)
    assert "3,000" in line and "2,000" not in line


@pytest.mark.parametrize(
    ("value", "text"), [(0.012345, "0.0123"), (12.345, "12.3"), (1234.5, "1,234"), (100, "100")]
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert format_number(value) == text


def test_plots_are_pictures(tmp_path: Path) -> None:
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


def test_a_plot_of_what_was_not_measured_is_refused(tmp_path: Path) -> None:
    report = Report(machine={}, versions={}, rows=rows())
    with pytest.raises(ValueError, match="memory"):
        draw_bars(report, tmp_path / "bars.png", metrics=["memory"], title="t")
    with pytest.raises(ValueError, match="no timeline"):
        draw_timeline(report, tmp_path / "timeline.png", title="t")
