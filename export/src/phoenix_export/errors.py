"""The exceptions that exporting raises on purpose."""

import re
from collections.abc import Sequence
from pathlib import Path

# They end a line or control a terminal, and a name in a file may hold them.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")


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
        problems = (problems,) if isinstance(problems, str) else problems
        self.problems = tuple(map(_on_one_line, problems))
        listed = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(
            f"{path}: {self.problems[0]}" if len(self.problems) == 1 else f"{path}:{listed}"
        )


def _on_one_line(text: str) -> str:
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


class SigningError(ExportError):
    """A bundle cannot be signed, or a key cannot be made or used."""


class OutputError(ExportError):
    """The bundle or the demo checkpoint cannot be written."""
