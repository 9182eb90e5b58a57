"""The command `phoenix-judge grade`."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from phoenix_client.cli.options import Connection, server_options, top_k_option
from phoenix_judge.errors import name_extra

_SUFFIXES = (".png", ".svg", ".pdf")


def _check_plot(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix not in _SUFFIXES:
        raise click.BadParameter(f"must end in {', '.join(_SUFFIXES)}")
    if path is not None and not path.parent.is_dir():
        raise click.BadParameter(f"there is no directory {path.parent}")
    return path


@click.command()
@click.argument("index_dirs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("users", type=click.Path(path_type=Path))
@top_k_option(100)
@click.option(
    "--search",
    multiple=True,
    metavar="NAME=VALUE,...",
    help="Search parameters to try, as in efSearch=100,200, nprobe=1,4,16 or "
    "leaves_to_search=10,20; may be repeated, one for each kind of index.",
)
@click.option(
    "--rbo-p",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.9,
    help="Persistence of the rank-biased overlap: the nearer to 1, the deeper ranks count.",
)
@click.option(
    "--repeat", type=click.IntRange(1), default=3, help="How many times to time each query."
)
@click.option(
    "--allow-stale",
    is_flag=True,
    help="Grade an index of an older state of the corpus too, and report it as stale.",
)
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_check_plot,
    help="Draw recall against latency to this file.",
)
@server_options()
def grade(
    index_dirs: tuple[Path, ...],
    users: Path,
    search: tuple[str, ...],
    plot: Path | None,
    as_json: bool,
    connection: Connection,
    **settings: Any,
) -> None:
    """Grade approximate indexes by the exact answers of the server.

    INDEX_DIRS are indexes as `phoenix-judge export` writes them. USERS is a JSON array of histories
    as in example_sequence.json.
    """
    from phoenix_client.files.sequence import load_sequences

    queries = load_sequences(users)
    with name_extra("grade"):
        from phoenix_judge.exported_index import ExportedIndex
        from phoenix_judge.judge import choose_sweeps, judge
        from phoenix_judge.report import report_json, report_text
        from phoenix_judge.settings import Settings
        from phoenix_judge.sweeps import parse_sweep

        if plot is not None:
            from phoenix_judge.plot import draw
        else:
            draw = None
        indexes = [ExportedIndex(path) for path in index_dirs]
    try:
        sweeps = choose_sweeps(indexes, [parse_sweep(text) for text in search], settings["top_k"])
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--search") from error
    with connection.open() as client, _status() as report:
        judged = judge(
            client, indexes, queries, sweeps, Settings(**settings), name=str(users), report=report
        )
    if draw is not None and plot is not None:
        draw(judged, plot)
    click.echo(report_json(judged) if as_json else report_text(judged))


@contextmanager
def _status() -> Generator[Callable[[str], None], None, None]:
    """Show the current step on a terminal; in a log, show nothing."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step: None
        return
    with console.status("") as status:
        yield status.update
