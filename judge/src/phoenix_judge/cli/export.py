"""The command `phoenix-judge export`."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from phoenix_judge.export import Options
    from phoenix_judge.index_builders import Report

Format = Literal["faiss", "scann", "npy"]


def export_command(
    corpus: Annotated[
        Path,
        typer.Argument(
            envvar="PHOENIX_CORPUS", help="The corpus's directory; a server may be changing it."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The directory to write; must not exist.")],
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="The bundle whose towers' vectors to write. Needed where the corpus holds those "
            "of several.",
            show_default=False,
        ),
    ] = None,
    format: Annotated[
        Format, typer.Option(help="The index to make; npy: the vectors and ids alone.")
    ] = "faiss",
    factory: Annotated[
        str | None,
        typer.Option(
            help="faiss: the index as FAISS's index_factory names it, as in IVF256,PQ64. "
            "Default: HNSW32.",
            show_default=False,
        ),
    ] = None,
    leaves: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="scann: leaves of the tree. Default: the square root of the number of posts.",
            show_default=False,
        ),
    ] = None,
    reorder: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="scann: how many of the best by hashes are scored exactly. Default: 250.",
            show_default=False,
        ),
    ] = None,
    train_posts: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="faiss, scann: most posts to train on. Default: 262144.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a corpus for FAISS or ScaNN, to be graded with `phoenix-judge grade`."""
    options = _options(
        format, factory=factory, leaves=leaves, reorder=reorder, train_posts=train_posts
    )
    from phoenix_judge.export import export_index
    from phoenix_server.bundle.bundle import open_bundle

    tower = open_bundle(bundle).manifest.tower_fingerprint if bundle else ""
    console = Console(stderr=True, highlight=False, emoji=False)
    began = time.monotonic()
    with _progress(console) as report:
        rows = export_index(corpus, out, options, tower=tower, report=report)
    what = f"Wrote {out}: {rows:,} posts in {time.monotonic() - began:.1f} s."
    console.print(what, markup=False, soft_wrap=True)


def _options(format: Format, **given: str | int | None) -> "Options":
    """Return how to make an index.

    Raises:
        BadParameter: An option is not for this format.
    """
    from phoenix_judge.index_builders import FaissOptions, ScannOptions

    kind = {"faiss": FaissOptions, "scann": ScannOptions, "npy": None}[format]
    chosen = {name: value for name, value in given.items() if value is not None}
    known = kind.__dataclass_fields__ if kind else {}
    for name in chosen.keys() - known.keys():
        hint = f"--{name.replace('_', '-')}"
        raise typer.BadParameter(f"is not for --format {format}", param_hint=hint)
    return kind(**chosen) if kind else None  # pyright: ignore[reportArgumentType]


@contextmanager
def _progress(console: Console) -> Generator["Report", None, None]:
    columns = (TextColumn("{task.description:<8}"), BarColumn(), MofNCompleteColumn())
    hidden = not console.is_terminal  # or it leaves an empty line in logs
    with Progress(
        *columns, TimeElapsedColumn(), console=console, transient=True, disable=hidden
    ) as progress:
        task = progress.add_task("posts", total=None)

        def report(step: str, done: int, total: int) -> None:
            progress.update(task, description=step, completed=done, total=total)

        yield report
