"""The command `phoenix-judge grade`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from phoenix_client.cli import output
from phoenix_client.cli.options import AsJson, CaFile, Target, TimeoutS, Tls, connect
from phoenix_client.files.sequence import load_sequences
from phoenix_client.transport import channels
from phoenix_judge.errors import MissingPackageError

_SUFFIXES = (".png", ".svg", ".pdf")
_EXTRAS = {"faiss": "faiss", "matplotlib": "plot", "scann": "scann"}


def _persistence(p: float) -> float:
    if not 0 < p < 1:
        raise typer.BadParameter("must be above 0 and below 1")
    return p


def _picture(path: Path | None) -> Path | None:
    if path is not None and path.suffix not in _SUFFIXES:
        raise typer.BadParameter(f"must end in {', '.join(_SUFFIXES)}")
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"there is no directory {path.parent}")
    return path


def grade_command(
    index_dirs: Annotated[
        list[Path],
        typer.Argument(
            metavar="INDEX_DIR...", help="Indexes, as phoenix-judge export writes them."
        ),
    ],
    users: Annotated[
        Path,
        typer.Argument(
            metavar="USERS", help="Users: an array of histories as in example_sequence.json."
        ),
    ],
    top_k: Annotated[
        int, typer.Option(envvar="PHOENIX_TOP_K", min=1, max=2**32 - 1, help="How many posts.")
    ] = 100,
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE,...",
            help="What to try, as in efSearch=100,200, nprobe=1,4,16 or leaves_to_search=10,20; "
            "may be repeated, one for each kind of index.",
        ),
    ] = None,
    rbo_p: Annotated[
        float,
        typer.Option(
            callback=_persistence,
            help="Persistence of the rank-biased overlap: the nearer to 1, the deeper ranks count.",
        ),
    ] = 0.9,
    repeat: Annotated[int, typer.Option(min=1, help="How often to time each query.")] = 3,
    allow_stale: Annotated[
        bool,
        typer.Option(
            "--allow-stale",
            help="Judge an index of an older state of the corpus, and say so.",
        ),
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, callback=_picture, help="Draw recall against latency to this file."
        ),
    ] = None,
    as_json: AsJson = False,
    target: Target = channels.DEFAULT_TARGET,
    timeout_s: TimeoutS = channels.DEFAULT_TIMEOUT_S,
    tls: Tls = False,
    ca_file: CaFile = None,
) -> None:
    """Grade approximate indexes by the exact answers of the server."""
    people = load_sequences(users)
    with _extras():
        from phoenix_judge import judge as judging
        from phoenix_judge.exported_index import ExportedIndex
        from phoenix_judge.report import print_report, report_json
        from phoenix_judge.sweeps import parse_sweep

        if plot is not None:
            from phoenix_judge.plot import draw
        else:
            draw = None
        indexes = [ExportedIndex(path) for path in index_dirs]
    settings = judging.Settings(top_k=top_k, rbo_p=rbo_p, repeat=repeat, allow_stale=allow_stale)
    try:
        sweeps = judging.choose_sweeps(indexes, [parse_sweep(text) for text in search or ()], top_k)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--search") from error
    with connect(target, timeout_s, tls, ca_file) as client, _status() as report:
        judged = judging.judge(
            client, indexes, people, sweeps, settings, name=str(users), report=report
        )
    if draw is not None and plot is not None:
        draw(judged, plot)
    if as_json:
        typer.echo(report_json(judged))
    else:
        print_report(judged, output.unbounded_console())


@contextmanager
def _extras() -> Generator[None, None, None]:
    """Say of a package that is not installed which extra has it.

    Raises:
        MissingPackageError: One is not.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            raise
        extra = f"phoenix-judge[{_EXTRAS[package]}]"
        raise MissingPackageError(f"grade needs {package}: install {extra}") from error


@contextmanager
def _status() -> Generator[Callable[[str], None], None, None]:
    """Show what is done now, where somebody looks on."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step: None
        return
    with console.status("") as status:
        yield status.update
