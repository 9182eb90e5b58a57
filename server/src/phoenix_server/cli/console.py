"""Standard error as commands use it: what was done, warnings, and progress."""

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from phoenix_server.errors import escape_controls

_console = Console(stderr=True, highlight=False, emoji=False)


def say(text: str, style: str | None = None) -> None:
    """Print one line; the terminal wraps it."""
    _console.print(text, style=style, markup=False, soft_wrap=True)


def write_line(text: str) -> None:
    """Write one line to standard output; part of it may come from a file that nobody verified."""
    sys.stdout.write(f"{escape_controls(text)}\n")


@contextmanager
def report_progress(out: Path) -> Generator[Callable[..., None], None, None]:
    """Show progress on a terminal, and say at the end how many posts were written to `out`.

    Yields:
        The `report` of `import_corpus` and `build_corpus`.
    """
    began = time.monotonic()
    done = skipped = 0
    what = TextColumn("posts {task.description}")
    columns = what, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    hidden = not _console.is_terminal  # a hidden bar would leave an empty line in logs
    with Progress(*columns, console=_console, transient=True, disable=hidden) as progress:
        task = progress.add_task("", total=None)

        def report(completed: int, total: int, /, stage: str = "", found: int = 0) -> None:
            nonlocal done, skipped
            done, skipped = completed, max(found, skipped)
            progress.update(task, completed=completed, total=total, description=stage)

        yield report
    spent = time.monotonic() - began
    before = f", {skipped:,} of them encoded before," if skipped else ""
    rate = f"{(done - skipped) / spent:,.0f} a second"
    say(f"Wrote {out}: {done:,} posts{before} in {spent:.1f} s ({rate}).")
