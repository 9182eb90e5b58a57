"""Plot a report: recall and rank-biased overlap over time."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from phoenix_client.errors import FileError
from phoenix_judge.report import Report


def draw(report: Report, path: Path) -> None:
    """Draw recall and rank-biased overlap over the median time of a search.

    Raises:
        FileError: The file cannot be written.
    """
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    recall, overlap = figure.subplots(1, 2)
    _panel(recall, report, "recall", f"recall@{report.top_k}")
    _panel(overlap, report, "rbo", f"rank-biased overlap, p = {report.rbo_p:g}")
    recall.legend(fontsize=8, loc="lower right")
    figure.suptitle(f"{report.rows:,} posts, {report.users:,} users, one query at a time")
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise FileError(str(path), "", error.strerror or str(error)) from error


def _panel(axes: Axes, report: Report, measure: str, label: str) -> None:
    for index in report.indexes:
        xs = [grade.p50_ms for grade in index.grades]
        ys: list[float] = [getattr(grade, measure) for grade in index.grades]
        axes.plot(xs, ys, marker="o", label=index.label)
        for grade, x, y in zip(index.grades, xs, ys, strict=True):
            if grade.value is not None:
                axes.annotate(
                    str(grade.value),
                    (x, y),
                    xytext=(4, -10),
                    textcoords="offset points",
                    fontsize=7,
                )
    exact, encode = report.retrieve.p50_ms, report.encode.p50_ms
    axes.plot([exact], [1.0], marker="*", markersize=13, linestyle="", label="served, exact")
    axes.axvline(encode, color="grey", linestyle=":", label="EncodeUser alone")
    axes.set_xscale("log")
    axes.set_xlabel("median time of a query, ms")
    axes.set_ylabel(label)
    axes.grid(visible=True, which="both", alpha=0.3)
