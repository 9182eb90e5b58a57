"""What the tests of the command line share."""

from __future__ import annotations

from commands import Outcome


def assert_one_line(outcome: Outcome, message: str, status: int = 1) -> None:
    """Check that a command failed with one line, which begins with a message."""
    assert outcome.status == status
    assert outcome.err.startswith(f"error: {message}")
    assert outcome.err.count("\n") == 1
    assert "Traceback" not in outcome.out + outcome.err
