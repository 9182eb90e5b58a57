"""What can go wrong while exporting."""

from collections.abc import Sequence
from pathlib import Path


class ExportError(Exception):
    """Base of everything this package raises on purpose."""


class CheckpointError(ExportError):
    """A checkpoint that cannot be exported.

    Attributes:
        path: The file or directory at fault.
        problems: Everything that is wrong with it, in words.
    """

    def __init__(self, path: Path, problems: str | Sequence[str]) -> None:
        self.path = path
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        listed = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(
            f"{path}: {self.problems[0]}" if len(self.problems) == 1 else f"{path}:{listed}"
        )


class OutputError(ExportError):
    """The bundle or the demo checkpoint cannot be written."""
