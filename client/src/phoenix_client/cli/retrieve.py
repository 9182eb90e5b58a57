"""The commands `retrieve`, `request` and `search`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from phoenix_client.cli import output
from phoenix_client.cli.options import (
    ID,
    filter_options,
    min_sequence_option,
    read_user,
    read_vectors,
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
@min_sequence_option
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


@click.command()
@click.option(
    "--vectors",
    type=click.Path(path_type=Path),
    help="File of unit vectors to search by, one JSON array a line; - for standard input.",
)
@click.option(
    *("--post", "post_ids"),
    type=ID,
    multiple=True,
    metavar="POST_ID",
    help="A post of the corpus to search by, with its own vector; may be repeated.",
)
@click.option("--include-query-posts", is_flag=True, help="Let a post be in its own result.")
@top_k_option(10)
@click.option("--with-representation", is_flag=True, help="Print the queries' vectors too.")
@min_sequence_option
@filter_options
@server_command(output.results_text, output.results_json)
def search(
    client: PhoenixClient, vectors: Path | None, post_ids: tuple[int, ...], **query: Any
) -> list[RetrieveResult]:
    """Print the posts of highest score for vectors, or for posts of the corpus.

    There is a result for each of them, in their order. The command fails if one of them does.
    """
    from phoenix_client.errors import PhoenixClientError

    if (vectors is None) == (not post_ids):
        raise click.UsageError("give either --vectors or --post")
    by: dict[str, Any] = {"post_ids": post_ids}
    if vectors is not None:
        by = {"vectors": read_vectors(vectors)}
    found: list[RetrieveResult] = []
    for result in client.search(**by, **query, **_COLUMNS):
        if isinstance(result, PhoenixClientError):
            raise result
        found.append(result)
    return found
