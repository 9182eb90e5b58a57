"""The commands that change which generation answers, or show what there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from phoenix_client.cli import output
from phoenix_client.cli.connected import asking
from phoenix_client.cli.options import LoadTimeoutS
from phoenix_client.client import PhoenixClient
from phoenix_client.transport.channels import DEFAULT_LOAD_TIMEOUT_S
from phoenix_client.types.generations import Generation

app = typer.Typer()

_changing = asking(
    app,
    output.print_fields,
    output.fields_json,
    timeout=LoadTimeoutS,
    timeout_s=DEFAULT_LOAD_TIMEOUT_S,
)

# Text, not paths: they are the server's, and go as they are given.
Bundle = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="A bundle's directory, on the server. Default: that of the generation that answers.",
    ),
]
Corpus = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="A corpus's directory, on the server. Default: that of the generation that answers,"
        " with all changes.",
    ),
]


@asking(app, output.print_generations, output.generations_json)
def generations(client: PhoenixClient) -> Sequence[Generation]:
    """Print what the server has loaded, is loading, and last failed to load."""
    return client.list_generations()


@_changing
def load_generation(
    client: PhoenixClient,
    bundle: Bundle = None,
    corpus: Corpus = None,
    activate: Annotated[
        bool, typer.Option("--activate", help="Have it answer once it is ready.")
    ] = False,
) -> Generation:
    """Have the server load a bundle, a corpus or both, and print them once they are ready.

    A relative directory is of the server's working directory. Giving up waiting ends nothing.
    """
    try:
        return client.load_generation(bundle, corpus, activate=activate, timeout_s=None)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@_changing
def activate_generation(
    client: PhoenixClient,
    number: Annotated[
        int,
        typer.Argument(
            metavar="NUMBER", min=1, max=2**32 - 1, help="Its number, as generations prints it."
        ),
    ],
) -> Generation:
    """Have a generation answer that is ready, and print it."""
    return client.activate_generation(number)


@_changing
def rollback_generation(client: PhoenixClient) -> Generation:
    """Have the generation answer that did before, and print it."""
    return client.roll_back_generation()
