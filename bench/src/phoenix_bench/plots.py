"""Plot reports."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from phoenix_bench.results import OURS, Report, Row
from phoenix_bench.table import format_number, format_params

_PANEL_INCHES = (4.5, 3.2)


def draw_lines(report: Report, path: Path, *, metric: str, x: str, title: str) -> None:
    """Plot one metric over one parameter on logarithmic axes; other parameters get panels.

    Each line is a system; its band spans the 10th to the 90th percentile.

    Raises:
        ValueError: The report has no such metric.
    """
    panels: dict[str, list[Row]] = {}
    for row in _rows_of(report, metric):
        others = {name: value for name, value in row.params.items() if name != x}
        panels.setdefault(format_params(others), []).append(row)
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * columns, height * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for ax, (name, rows) in zip(axes, panels.items(), strict=False):
        for system in _systems(rows):
            line = sorted(
                (row for row in rows if row.system == system), key=lambda row: float(row.params[x])
            )
            xs = [float(row.params[x]) for row in line]
            ax.plot(
                xs,
                [row.median for row in line],
                marker="o",
                label=system,
                linewidth=2.5 if system == OURS else 1.2,
            )
            ax.fill_between(xs, [r.p10 for r in line], [r.p90 for r in line], alpha=0.15)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ticks = sorted({float(row.params[x]) for row in rows})
        ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        ax.set_title(name, fontsize=9)
        ax.set_xlabel(x)
        ax.set_ylabel(f"{metric} [{rows[0].unit}]")
        ax.grid(visible=True, alpha=0.3)
    axes[0].legend(fontsize=7)
    _save(figure, path, title)


def draw_bars(report: Report, path: Path, *, metrics: Sequence[str], title: str) -> None:
    """Plot metrics as bars, one panel each, with whiskers at the 10th and 90th percentiles.

    Raises:
        ValueError: The report lacks a metric.
    """
    panels = {metric: _rows_of(report, metric) for metric in metrics}
    bars = [len(rows) for rows in panels.values()]
    figure = Figure(
        figsize=(8, 0.6 + sum(0.6 + 0.3 * count for count in bars)), layout="constrained"
    )
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=[2 + n for n in bars]).flat
    alone = len(_systems(report.rows)) == 1
    for ax, (metric, rows) in zip(axes, panels.items(), strict=True):
        names = [format_params(row.params) for row in rows]
        if not alone:
            names = [f"{row.system}  {name}" for row, name in zip(rows, names, strict=True)]
        medians = [row.median for row in rows]
        below = [row.median - row.p10 for row in rows]
        above = [row.p90 - row.median for row in rows]
        drawn = ax.barh(names, medians, xerr=(below, above), height=0.6, capsize=2)
        ax.bar_label(drawn, [f" {format_number(value)}" for value in medians], fontsize=7)
        ax.invert_yaxis()
        ax.margins(x=0.12)
        ax.tick_params(labelsize=8)
        ax.set_title(f"{metric} [{rows[0].unit}]", fontsize=9)
    _save(figure, path, title)


def draw_timeline(report: Report, path: Path, *, title: str) -> None:
    """Plot the latency of calls over their due times, with the spans of the timeline.

    Raises:
        ValueError: The report has no timeline.
    """
    if report.timeline is None:
        raise ValueError("the report has no timeline")
    figure = Figure(figsize=(9, 4), layout="constrained")
    ax = figure.subplots()
    for points in report.timeline.points:
        ax.scatter(points.x_s, points.y_ms, s=3, label=points.name, linewidths=0)
    for i, span in enumerate(report.timeline.spans):
        ax.axvspan(span.begin_s, span.end_s, color="grey", alpha=0.2, linewidth=0)
        ax.axvline(span.begin_s, color="black", linewidth=0.8, linestyle=":")
        height = 0.98 - 0.06 * (i % 3)
        ax.text(
            span.begin_s, height, f" {span.name}", transform=ax.get_xaxis_transform(), va="top",
            fontsize=8,
        )  # fmt: skip
    ax.set_yscale("log")
    ax.set_xlabel("when a call was due [s]")
    ax.set_ylabel("latency [ms]")
    ax.grid(visible=True, alpha=0.3)
    ax.legend(fontsize=7, markerscale=3, loc="lower right")
    _save(figure, path, title)


def _rows_of(report: Report, metric: str) -> list[Row]:
    rows = [row for row in report.rows if row.metric == metric]
    if not rows:
        raise ValueError(f"no row of the report is of {metric}")
    return rows


def _systems(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row.system for row in rows))


def _save(figure: Figure, path: Path, title: str) -> None:
    figure.suptitle(title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
