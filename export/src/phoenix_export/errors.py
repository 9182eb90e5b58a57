"""The exceptions that exporting raises on purpose."""

from collections.abc import Sequence
from pathlib import Path


class ExportError(Exception):
    """Base of all exceptions below."""


class CheckpointError(ExportError):
    """A checkpoint cannot be exported.

    Attributes:
        path: The file or directory at fault.
        problems: All that is wrong with it.
    """

    def __init__(self, path: Path, problems: str | Sequence[str]) -> None:
        self.path = path
        self.problems = (problems,) if isinstance(problems, str) else tuple(problems)
        listed = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(
            f"{path}: {self.problems[0]}" if len(self.problems) == 1 else f"{path}:{listed}"
        )


class SigningError(ExportError):
    """A bundle cannot be signed, or a key cannot be made or used."""


class OutputError(ExportError):
    """The bundle or the demo checkpoint cannot be written."""
