"""The command line: `phoenix-client`."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

import click

from phoenix_client.cli import corpus, generations, model, retrieve
from phoenix_client.cli.failure import describe_call, fail

_COMMANDS = (
    retrieve.retrieve,
    retrieve.request,
    retrieve.search,
    model.model,
    model.stats,
    corpus.upsert,
    corpus.delete,
    corpus.get_posts,
    corpus.corpus,
    corpus.snapshot,
    corpus.snapshots,
    generations.generations,
    generations.load_generation,
    generations.activate_generation,
    generations.rollback_generation,
)


class CommandGroup(click.Group):
    """Commands that `--help` lists in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(self.commands)


@click.group(cls=CommandGroup, commands=_COMMANDS, context_settings={"show_default": True})
def commands() -> None:
    """Ask a Phoenix retrieval server, and change what it serves."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; the exit status is 1 for a failed call and 2 for wrong usage."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        commands.main(arguments)
    except Exception as error:
        from phoenix_client.errors import FileError, PhoenixClientError

        if isinstance(error, PhoenixClientError):
            fail("phoenix-client", describe_call(error))
        if isinstance(error, FileError):
            fail("phoenix-client", str(error))
        raise
