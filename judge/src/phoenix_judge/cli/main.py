"""The command line, `phoenix-judge`: export a corpus, and grade indexes of it."""

from collections.abc import Sequence

import click

from phoenix_client.cli.failure import describe_call, fail
from phoenix_judge.cli.export import export
from phoenix_judge.cli.grade import grade


@click.group(context_settings={"show_default": True})
def commands() -> None:
    """Grade approximate indexes by the exact answers of a Phoenix retrieval server."""


commands.add_command(export)
commands.add_command(grade)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; the exit status is 1 for a failure and 2 for wrong usage."""
    try:
        commands.main(arguments)
    except Exception as error:
        from phoenix_client.errors import FileError, PhoenixClientError
        from phoenix_judge.errors import MissingPackageError
        from phoenix_server.artifacts import describe_error
        from phoenix_server.errors import PhoenixServerError

        if isinstance(error, PhoenixClientError):
            fail("phoenix-judge", describe_call(error))
        if isinstance(error, FileError | MissingPackageError):
            fail("phoenix-judge", str(error))
        if isinstance(error, PhoenixServerError | OSError):
            fail("phoenix-judge", describe_error(error))
        raise
