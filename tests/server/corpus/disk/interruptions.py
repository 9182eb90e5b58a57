"""A process that is killed before each of its changes of a directory."""

import os
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

_CHANGES = ("open", "mkdir", "rename", "replace", "unlink", "pwrite", "fsync", "fdatasync")


class _Killed(BaseException):
    pass


def interrupted_at_each_step(
    left: Path, run: Callable[[Path], object]
) -> Iterator[tuple[int, Path]]:
    """Yield, for each step, its number and a copy of a directory in which `run` got that far.

    A step is a call of the system that changes files, or flushes them.

    Args:
        left: The directory as it is before.
        run: Is called with copies of it until no step is left.
    """
    for step in count():
        path = Path(shutil.copytree(left, left.with_name(f"{left.name}-{step}")))
        if _completes(run, path, step):
            assert step > 3
            return
        yield step, path


def _completes(run: Callable[[Path], object], path: Path, step: int) -> bool:
    """Call a function that may make some changes only; return whether that was enough."""
    steps = 0

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def run_counted(*args: Any, **options: Any) -> Any:
            nonlocal steps
            if steps >= step:
                raise _Killed
            steps += 1
            return change(*args, **options)

        return run_counted

    with pytest.MonkeyPatch.context() as patch:
        for name in _CHANGES:
            patch.setattr(os, name, counted(getattr(os, name)))
        try:
            made = run(path)
        except _Killed:
            return False
    if close := getattr(made, "close", None):
        close()
    return True
