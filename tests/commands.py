"""Run command lines, in this process or in one of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest


class Outcome(NamedTuple):
    """How a command ended.

    Attributes:
        status: Its exit status; negative if a signal ended it.
        out: Its standard output.
        err: Its standard error.
    """

    status: int
    out: str
    err: str

    def checked(self) -> Outcome:
        """Check that the command succeeded; return this outcome."""
        assert self.status == 0, self.err
        return self


Run = Callable[..., Outcome]


def outcome_of(command: Callable[[], object], captured: pytest.CaptureFixture[str]) -> Outcome:
    """Run a command in this process, which it ends with SystemExit."""
    with pytest.raises(SystemExit) as caught:
        command()
    printed = captured.readouterr()
    status = caught.value.code
    assert isinstance(status, int)
    return Outcome(status, printed.out, printed.err)


def run_command(
    *command: object,
    input: str | None = None,
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Outcome:
    """Run a command in a process of its own.

    Args:
        command: A program and its arguments.
        input: What it reads from its standard input. Default: this process's.
        env: Its environment. Default: this process's.
        folder: Its working directory. Default: this process's.
    """
    done = subprocess.run(
        list(map(str, command)),
        input=input,
        env=env,
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def run_module(
    module: str, *arguments: object, input: str | None = None, env: Mapping[str, str] | None = None
) -> Outcome:
    """Run `python -m MODULE ARGUMENTS` in a process of its own.

    Args:
        module: The module.
        arguments: Its arguments.
        input: What it reads from its standard input. Default: this process's.
        env: Variables of its environment, besides those of this process.
    """
    return run_command(
        sys.executable, "-m", module, *arguments, input=input, env=os.environ | dict(env or {})
    )


def run_program(text: str, *arguments: object, env: Mapping[str, str] | None = None) -> Outcome:
    """Run a Python program in a process of its own.

    Args:
        text: The program.
        arguments: Its arguments.
        env: Variables of its environment, besides those of this process.
    """
    command = [sys.executable, "-c", text, *arguments]
    return run_command(*command, env=os.environ | dict(env or {}))
