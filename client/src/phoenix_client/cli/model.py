"""The commands that show the model and how busy the server is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from phoenix_client.cli import output
from phoenix_client.cli.options import server_command

if TYPE_CHECKING:
    from phoenix_client.client import PhoenixClient
    from phoenix_client.types.model import Model
    from phoenix_client.types.stats import ServingStats


@click.command()
@server_command(output.fields_text, output.fields_json)
def model(client: PhoenixClient) -> Model:
    """Print the model and the corpus that the server serves, and its limits."""
    return client.get_model()


@click.command()
@server_command(output.fields_text, output.fields_json)
def stats(client: PhoenixClient) -> ServingStats:
    """Print the state of the request queue, and counts of how requests ended."""
    return client.get_serving_stats()
