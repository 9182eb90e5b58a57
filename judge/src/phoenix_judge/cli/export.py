"""The command `phoenix-judge export`."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from phoenix_judge.index_builders import Options, Report


def _size_option(flag: str, help: str) -> Any:
    return click.option(flag, type=click.IntRange(1), help=help)


@click.command()
@click.argument("corpus", type=click.Path(path_type=Path), envvar="PHOENIX_CORPUS")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="The directory to write; must not exist.",
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="The bundle whose towers' vectors to write. Needed if the corpus holds vectors of several "
    "towers.",
)
@click.option(
    "--format",
    type=click.Choice(["faiss", "scann", "npy"]),
    default="faiss",
    help="The index to build; npy: the vectors and ids alone.",
)
@click.option(
    "--factory",
    help="faiss: the index as FAISS's index_factory names it, as in IVF256,PQ64. Default: HNSW32.",
)
@_size_option(
    "--leaves", "scann: leaves of the tree. Default: the square root of the number of posts."
)
@_size_option(
    "--reorder", "scann: how many of the best results by hash are scored exactly. Default: 250."
)
@_size_option(
    "--train-posts", "faiss, scann: number of posts to train on, at most. Default: 262144."
)
def export(corpus: Path, out: Path, bundle: Path | None, format: str, **index: Any) -> None:
    """Write the posts of CORPUS, a directory, and an index of them for `phoenix-judge grade`.

    A server may change the corpus at the same time.
    """
    options = _options(format, index)
    from rich.console import Console

    from phoenix_judge.export import export_index
    from phoenix_server.bundle.bundle import open_bundle

    tower = open_bundle(bundle).manifest.tower_fingerprint if bundle else ""
    began = time.monotonic()
    with _progress(Console(stderr=True, highlight=False, emoji=False)) as report:
        rows = export_index(corpus, out, options, tower=tower, report=report)
    elapsed_s = time.monotonic() - began
    click.echo(f"Wrote {out}: {rows:,} posts in {elapsed_s:.1f} s.", err=True)


def _options(format: str, given: dict[str, Any]) -> Options:
    """Return how to build an index.

    Raises:
        BadParameter: An option does not belong to this format.
    """
    from phoenix_judge.index_builders import FaissOptions, ScannOptions

    kind = {"faiss": FaissOptions, "scann": ScannOptions}.get(format)
    chosen = {name: value for name, value in given.items() if value is not None}
    known = kind.__dataclass_fields__ if kind else {}
    for name in chosen.keys() - known.keys():
        hint = f"--{name.replace('_', '-')}"
        raise click.BadParameter(f"is not for --format {format}", param_hint=hint)
    return kind(**chosen) if kind else None


@contextmanager
def _progress(console: Console) -> Generator[Report, None, None]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:<8}"), BarColumn(), MofNCompleteColumn())
    hidden = not console.is_terminal  # or it leaves an empty line in logs
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=hidden
    ) as progress:
        task = progress.add_task("posts", total=None)

        def report(step: str, done: int, total: int) -> None:
            progress.update(task, description=step, completed=done, total=total)

        yield report
