"""The commands that load, activate, roll back and list generations."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import click

from phoenix_client.cli import output
from phoenix_client.cli.options import LOAD_TIMEOUT, server_command

if TYPE_CHECKING:
    from phoenix_client.client import PhoenixClient
    from phoenix_client.types.generations import Generation

_prints_generation = server_command(output.fields_text, output.fields_json, time_limit=LOAD_TIMEOUT)


@click.command()
@server_command(output.generations_text, partial(output.list_json, "generations"))
def generations(client: PhoenixClient) -> tuple[Generation, ...]:
    """Print the generations that are loaded, being loaded, or that failed last."""
    return client.list_generations()


# The directories are text, not paths: they name the server's and are sent unchanged.
@click.command()
@click.option(
    "--bundle",
    metavar="DIR",
    help="A bundle's directory, on the server. Default: the active generation's.",
)
@click.option(
    "--corpus",
    metavar="DIR",
    help="A corpus's directory, on the server. Default: the active generation's, with all changes.",
)
@click.option("--activate", is_flag=True, help="Activate the generation once it is READY.")
@_prints_generation
def load_generation(
    client: PhoenixClient, bundle: str | None, corpus: str | None, activate: bool
) -> Generation:
    """Load a bundle, a corpus or both on the server, and print the generation once it is READY.

    A relative directory is relative to the server's working directory. If the time limit passes,
    the server goes on loading.
    """
    try:
        return client.load_generation(bundle, corpus, activate=activate, timeout_s=None)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command()
@click.argument("number", type=click.IntRange(1, 2**32 - 1))
@_prints_generation
def activate_generation(client: PhoenixClient, number: int) -> Generation:
    """Activate a READY generation by its NUMBER, as generations prints it, and print it."""
    return client.activate_generation(number)


@click.command()
@_prints_generation
def rollback_generation(client: PhoenixClient) -> Generation:
    """Activate the rollback generation, which was active before, and print it."""
    return client.roll_back_generation()
