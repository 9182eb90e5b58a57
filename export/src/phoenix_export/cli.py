"""The command line, `phoenix-export`: bundle, demo, keygen and sign."""

import logging
import re
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, ArgumentCollection, CoercionError, CycloptsError, Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from phoenix_export.bundle import write_bundle
from phoenix_export.checkpoint import open_checkpoint
from phoenix_export.demo import DemoSizes, write_demo
from phoenix_export.errors import ExportError
from phoenix_export.signing import make_key_pair, sign_bundle

_INTEGER = re.compile(r"[+-]?[0-9]+")


def _refuse_fractions(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse 1.6 for an integer; Cyclopts rounds it."""
    for argument in arguments:
        for token in argument.tokens:
            if argument.hint is int and not _INTEGER.fullmatch(token.value):
                raise CoercionError(token=token, argument=argument, target_type=int)


app = App(
    name="phoenix-export",
    help="Turn a Phoenix checkpoint into portable compiled programs.",
    version_flags=(),
    config=[_refuse_fractions],
    default_parameter=Parameter(allow_repeating=True),
)
_console = Console(stderr=True, highlight=False, emoji=False)


@app.command
def bundle(
    checkpoint_dir: Path,
    /,
    *,
    out: Path,
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    saved_model: bool = True,
) -> None:
    """Compile a checkpoint into a bundle that phoenix-server serves.

    Args:
        checkpoint_dir: The checkpoint, in the published layout.
        out: The directory to write, such as phoenix/1.
        dtype: Element type of the forward pass.
        saved_model: Write a TensorFlow SavedModel as well.
    """
    began = time.monotonic()
    checkpoint = open_checkpoint(checkpoint_dir, dtype)
    with _report_progress(steps=8 + saved_model) as report:
        manifest = write_bundle(checkpoint, out, saved_model=saved_model, report=report)
    size = sum(file.size_bytes for file in manifest.files)
    _say(
        f"Wrote {out} ({size / 1e6:,.0f} MB) in {time.monotonic() - began:.1f} s: {dtype}, "
        f"for {', '.join(manifest.platforms)}, tower fingerprint "
        f"{manifest.tower_fingerprint[:12]}, readable until "
        f"{manifest.expires_at.ToDatetime():%Y-%m-%d}."
    )


@app.command
def demo(
    checkpoint_dir: Path,
    /,
    *,
    sizes: Annotated[DemoSizes, Parameter(name="*")] = DemoSizes(),  # noqa: B008 - frozen
    seed: Annotated[int, Parameter(validator=Number(gte=0))] = 0,
) -> None:
    """Write a checkpoint whose answers make sense without training.

    Args:
        checkpoint_dir: The directory to write.
        sizes: Sizes of the demo.
        seed: Seed of everything that is drawn.
    """
    with _report_progress() as report:
        write_demo(checkpoint_dir, sizes, seed=seed, report=report)
    _say(f"Wrote {checkpoint_dir}: {sizes.posts:,} posts, tables of {sizes.vocab:,} rows.")


@app.command
def keygen(key: Path, /) -> None:
    """Write a new pair of Ed25519 keys: KEY, which is secret, and KEY.pub.

    Args:
        key: The private key to write, in PEM; only its owner may read it.
    """
    public_key = make_key_pair(key)
    _say(f"Wrote {key}, which is secret, and {public_key}, for phoenix-server --trusted-key.")


@app.command
def sign(bundle_dir: Path, /, *, key: Path) -> None:
    """Sign a bundle, and the programs compiled ahead in it.

    Args:
        bundle_dir: The bundle. All of its files are verified first.
        key: PEM file of an Ed25519 private key, as keygen writes it.
    """
    signed = sign_bundle(bundle_dir, key)
    _say(f"Signed {', '.join(str(path.relative_to(bundle_dir)) for path in signed)}.")


def _say(text: str, style: str | None = None) -> None:
    _console.print(text, style=style, markup=False, soft_wrap=True)


@contextmanager
def _report_progress(steps: int | None = None) -> Generator[Callable[[str], None], None, None]:
    """Show the current step on a terminal; yields the function that names it."""
    step = TextColumn("{task.description:<24}")
    columns = (step, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    hidden = not _console.is_terminal
    with Progress(*columns, console=_console, transient=True, disable=hidden) as progress:
        task = progress.add_task("", total=steps)
        yield lambda step: progress.update(task, description=step, advance=1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: with 1 after a failed export, with 2 after wrong usage."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        _run(arguments)
    except (CycloptsError, ExportError) as exc:
        _say(f"error: {exc}", style="red")
        sys.exit(2 if isinstance(exc, CycloptsError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0 if arguments else 2)  # without arguments it prints the help


def _run(arguments: Sequence[str]) -> None:
    try:
        command, bound, _ = app.parse_args(arguments, print_error=False, exit_on_error=False)
    except ValueError as exc:  # a check of DemoSizes, which names the field first
        raise CycloptsError(msg=f"--{exc}") from exc
    command(*bound.args, **bound.kwargs)
