"""The command line, `phoenix-judge`: export a corpus, and grade indexes of it."""

import sys
from collections.abc import Sequence

import typer

from phoenix_client.errors import FileError, PhoenixClientError
from phoenix_judge.cli import export, grade
from phoenix_judge.errors import MissingPackageError
from phoenix_server.artifacts import describe_error
from phoenix_server.errors import PhoenixServerError

app = typer.Typer(
    help="Grade approximate indexes by the exact answers of a Phoenix retrieval server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(name="export")(export.export_command)
app.command(name="grade")(grade.grade_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; the exit status is 1 for a failure and 2 for wrong usage."""
    try:
        app(args=arguments)
    except PhoenixClientError as exc:
        _fail(f"{exc.code.name}: {exc.message}")
    except (FileError, MissingPackageError) as exc:
        _fail(str(exc))
    except (PhoenixServerError, OSError) as exc:
        _fail(describe_error(exc))


def _fail(problem: str) -> None:
    typer.echo(f"phoenix-judge: {' '.join(problem.split())}", err=True)
    sys.exit(1)
