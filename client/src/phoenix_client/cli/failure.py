"""How a command line reports that a command failed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from phoenix_client.errors import PhoenixClientError


def describe_call(error: PhoenixClientError) -> str:
    """Describe a failed call: status, message, fields at fault, when to retry."""
    from phoenix_client.errors import InvalidArgumentError, ResourceExhaustedError

    parts = [error.code.name, error.message]
    if isinstance(error, InvalidArgumentError):
        violations = [f"{v.field}: {v.description}" for v in error.field_violations]
        parts += [each for each in violations if each not in error.message]
    if isinstance(error, ResourceExhaustedError) and error.retry_after_s is not None:
        parts.append(f"retry after {error.retry_after_s:g} s")
    return ": ".join(part for part in parts if part)


def fail(program: str, problem: str) -> NoReturn:
    """Print a problem as one line on standard error, and exit with status 1."""
    click.echo(f"{program}: {' '.join(problem.split())}", err=True)
    sys.exit(1)
