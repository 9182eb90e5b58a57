"""The command line: `phoenix-export bundle` and `phoenix-export demo`."""

import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from phoenix_export.bundle import write_bundle
from phoenix_export.checkpoint import open_checkpoint
from phoenix_export.demo import DemoSizes, write_demo
from phoenix_export.errors import ExportError

app = typer.Typer(
    help="Turn a Phoenix checkpoint into portable compiled programs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_console = Console(stderr=True, emoji=False)


@app.command()
def bundle(
    checkpoint_dir: Annotated[
        Path, typer.Argument(help="The checkpoint, in the published layout.")
    ],
    out: Annotated[Path, typer.Option(help="The directory to write, as in phoenix/1.")],
    dtype: Annotated[
        Literal["bfloat16", "float32"], typer.Option(help="Element type of the forward pass.")
    ] = "bfloat16",
    saved_model: Annotated[
        bool, typer.Option(help="Write a TensorFlow SavedModel as well.")
    ] = True,
) -> None:
    """Compile a checkpoint into a bundle that phoenix-server serves."""
    began = time.monotonic()
    checkpoint = open_checkpoint(checkpoint_dir, dtype)
    with _progress() as progress:
        steps = 8 + saved_model
        task = progress.add_task("bundle", total=steps)

        def report(step: str) -> None:
            progress.update(task, description=step, advance=1)

        manifest = write_bundle(checkpoint, out, saved_model=saved_model, report=report)
    size = sum(file.size_bytes for file in manifest.files)
    _console.print(
        f"Wrote {out} ({size / 1e6:,.0f} MB) in {time.monotonic() - began:.1f} s: {dtype}, "
        f"for {', '.join(manifest.platforms)}, tower fingerprint "
        f"{manifest.tower_fingerprint[:12]}, readable until "
        f"{manifest.expires_at.ToDatetime():%Y-%m-%d}.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def demo(
    checkpoint_dir: Annotated[Path, typer.Argument(help="The directory to write.")],
    posts: Annotated[int, typer.Option(min=1, help="Posts in the corpus.")] = DemoSizes.posts,
    vocab: Annotated[
        int,
        typer.Option(min=2, max=2**31, help="Rows of each embedding table; 1000000 as published."),
    ] = DemoSizes.vocab,
    history: Annotated[
        int, typer.Option(min=1, help="Longest history; 127 as published.")
    ] = DemoSizes.history,
    layers: Annotated[
        int, typer.Option(min=1, help="Transformer layers; 4 as published.")
    ] = DemoSizes.layers,
    users: Annotated[int, typer.Option(min=1, help="Users in users.json.")] = DemoSizes.users,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all that is drawn.")] = 0,
) -> None:
    """Write a checkpoint whose answers make sense without training."""
    sizes = DemoSizes(posts=posts, vocab=vocab, history=history, layers=layers, users=users)
    with _progress() as progress:
        task = progress.add_task("demo", total=None)

        def report(step: str) -> None:
            progress.update(task, description=step)

        write_demo(checkpoint_dir, sizes, seed=seed, report=report)
    _console.print(
        f"Wrote {checkpoint_dir}: {posts:,} posts, tables of {vocab:,} rows.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=_console,
        transient=True,
        disable=not _console.is_terminal,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; the exit status is 1 for a failed export and 2 for wrong usage."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        app(args=arguments)
    except ExportError as exc:
        _console.print(f"error: {exc}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
