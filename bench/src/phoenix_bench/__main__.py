"""The command line: `python -m phoenix_bench run [SUITE...]`."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from phoenix_bench.results import write_report
from phoenix_bench.suites import SUITES, Options, load_suite
from phoenix_bench.table import print_report

app = typer.Typer(help="Measure this stack and its peers.", pretty_exceptions_enable=False)
_console = Console(stderr=True, highlight=False, emoji=False)


@app.callback()
def main() -> None:
    """Measure this stack and its peers."""


@app.command()
def run(
    suites: Annotated[
        list[str] | None, typer.Argument(help=f"Suites to run: {', '.join(SUITES)}. Default: all.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Use small sizes and few runs, for a trial run.")
    ] = False,
    results: Annotated[Path, typer.Option(help="Directory for SUITE.json and SUITE.png.")] = Path(
        "bench/results"
    ),
    build: Annotated[
        Path, typer.Option(help="Directory in which bundles and corpora are kept for the next run.")
    ] = Options.build,
) -> None:
    """Run suites in turn; for each print a table and write SUITE.json and SUITE.png."""
    chosen = suites or list(SUITES)
    if unknown := [name for name in chosen if name not in SUITES]:
        raise typer.BadParameter(f"{', '.join(unknown)}: not one of {', '.join(SUITES)}")
    options = Options(quick=quick, build=build)
    for name in chosen:
        suite = load_suite(name)
        report = suite.run(options)
        print_report(report, title=f"{name}, quick" if quick else name)
        write_report(report, results / f"{name}.json")
        suite.plot(report, results / f"{name}.png")
        _console.print(f"Wrote {results / name}.json and .png", markup=False)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    sys.exit(app())
