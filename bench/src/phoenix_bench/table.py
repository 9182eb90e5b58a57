"""Print reports as tables on the terminal."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from phoenix_bench.results import OURS, Params, Report, Row

_WIDE = 160  # columns: the width of a table of six systems with percentiles


def print_report(report: Report, *, title: str) -> None:
    """Print a table for each metric, then the limits, the machine and the notes."""
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:  # rich would assume 80 columns
        console = Console(highlight=False, emoji=False, width=_WIDE)
    for metric in dict.fromkeys(row.metric for row in report.rows):
        rows = [row for row in report.rows if row.metric == metric]
        console.print(f"{title}: {metric}, {rows[0].unit}", style="bold", markup=False)
        console.print(make_table(rows, percentiles=console.width >= _WIDE))
    for limit in report.limits:
        console.print(f"{limit.name}: {limit.value:.4g} {limit.unit} ({limit.method})")
    for about in (report.machine, report.versions):
        console.print("; ".join(f"{name}: {value}" for name, value in about.items()))
    for note in report.notes:
        console.print(f"note: {note}", style="yellow", markup=False)


def make_table(rows: Sequence[Row], *, percentiles: bool = True) -> Table:
    """Return a table of one metric: a line for each set of params, a column for each system.

    Args:
        rows: Rows of one metric.
        percentiles: Show the 10th and 90th percentile beside the median if there were several runs.
    """
    systems = sorted(dict.fromkeys(row.system for row in rows), key=lambda name: name != OURS)
    table = Table()
    table.add_column("", no_wrap=True)
    for name in systems:
        table.add_column(name, justify="right")
    table.add_column("runs", justify="right")
    for line in _lines(rows):
        cells = {row.system: format_cell(row, percentiles=percentiles) for row in line}
        runs = "-".join(str(count) for count in sorted({row.runs for row in line}))
        table.add_row(
            format_params(line[0].params), *(cells.get(name, "") for name in systems), runs
        )
    return table


def format_cell(row: Row, *, percentiles: bool) -> str:
    """Format the numbers of a row."""
    median = format_number(row.median)
    if row.runs == 1 or not percentiles:
        return median
    return f"{median} ({format_number(row.p10, 2)}-{format_number(row.p90, 2)})"


def format_params(params: Params) -> str:
    """Format parameters."""
    return ", ".join(
        f"{name} {value:,}" if isinstance(value, int) else f"{name}: {value}"
        for name, value in params.items()
    )


def format_number(value: float, digits: int = 3) -> str:
    """Format a number with so many significant digits, but never drop digits before the point."""
    return f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"


def _lines(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Yield groups of rows with equal params, in order of first occurrence."""
    lines: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(repr(sorted(row.params.items())), []).append(row)
    yield from lines.values()
