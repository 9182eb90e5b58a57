"""The commands `retrieve` and `request`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from phoenix_client.cli import output
from phoenix_client.cli.options import (
    filter_options,
    read_user,
    sequence_option,
    server_command,
    top_k_option,
)

if TYPE_CHECKING:
    from phoenix_client.client import PhoenixClient
    from phoenix_client.types.results import RetrieveResult

_COLUMNS: dict[str, Any] = {"with_author_ids": True, "with_labels": True, "with_created_at": True}


@click.command()
@sequence_option
@top_k_option(10)
@click.option("--with-representation", is_flag=True, help="Print the user's representation too.")
@click.option(
    "--min-sequence",
    type=click.IntRange(0, 2**64 - 1),
    default=0,
    help="Wait until the corpus holds the change of this number, as upsert prints it.",
)
@filter_options
@server_command(output.result_text, output.result_json)
def retrieve(client: PhoenixClient, sequence: Path, **query: Any) -> RetrieveResult:
    """Print the posts of highest score for a user."""
    return client.retrieve(read_user(sequence), **query, **_COLUMNS)


@click.command()
@sequence_option
@top_k_option(10)
@filter_options
def request(sequence: Path, **query: Any) -> None:
    """Print the request that retrieve sends, as JSON for grpcurl and ghz."""
    from phoenix_client.types.queries import RetrieveQuery
    from phoenix_client.wire import messages

    asked = RetrieveQuery(user=read_user(sequence), **query, **_COLUMNS)
    click.echo(output.message_json(messages.retrieve_request(asked)))
