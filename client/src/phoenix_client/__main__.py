"""The command line: `phoenix-client`."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import grpc
import typer

from phoenix_client import channels, messages, output
from phoenix_client.client import PhoenixClient
from phoenix_client.errors import (
    InvalidArgumentError,
    PhoenixClientError,
    ResourceExhaustedError,
    SequenceError,
)
from phoenix_client.queries import RetrieveQuery
from phoenix_client.sequence import load_sequence, parse_sequence
from phoenix_client.users import User

app = typer.Typer(
    help="Ask a Phoenix retrieval server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _above_zero(seconds: float) -> float:
    if not 0 < seconds < math.inf:
        raise typer.BadParameter("must be above 0 and finite")
    return seconds


Target = Annotated[str, typer.Option(envvar="PHOENIX_TARGET", help="The server, as gRPC names it.")]
TimeoutS = Annotated[
    float,
    typer.Option(
        envvar="PHOENIX_TIMEOUT_S", callback=_above_zero, help="Time limit of the call, in seconds."
    ),
]
Tls = Annotated[
    bool, typer.Option("--tls", envvar="PHOENIX_TLS", help="Encrypt; trust the usual authorities.")
]
CaFile = Annotated[
    Path | None,
    typer.Option(
        envvar="PHOENIX_CA_FILE",
        exists=True,
        dir_okay=False,
        help="Encrypt; trust the certificates in this PEM file.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


SequenceFile = Annotated[
    Path,
    typer.Option(help="The user's history, as in example_sequence.json; - for standard input."),
]
TopK = Annotated[
    int, typer.Option(envvar="PHOENIX_TOP_K", min=1, max=2**32 - 1, help="How many posts.")
]


@app.command()
def retrieve(
    sequence: SequenceFile,
    top_k: TopK = 10,
    with_representation: Annotated[
        bool, typer.Option("--with-representation", help="Print the user's representation too.")
    ] = False,
    as_json: AsJson = False,
    target: Target = channels.DEFAULT_TARGET,
    timeout_s: TimeoutS = channels.DEFAULT_TIMEOUT_S,
    tls: Tls = False,
    ca_file: CaFile = None,
) -> None:
    """Print the posts of highest score for a user."""
    user = _read_user(sequence)
    with _connect(target, timeout_s, tls, ca_file) as client:
        result = client.retrieve(
            user,
            top_k=top_k,
            with_author_ids=True,
            with_labels=True,
            with_created_at=not as_json,
            with_representation=with_representation,
        )
    if as_json:
        typer.echo(output.retrieve_json(result))
    else:
        output.print_result(result, output.unbounded_console(), datetime.now(UTC))


@app.command()
def request(sequence: SequenceFile, top_k: TopK = 10) -> None:
    """Print the request that retrieve sends, as JSON for grpcurl and ghz."""
    query = RetrieveQuery(
        user=_read_user(sequence),
        top_k=top_k,
        with_author_ids=True,
        with_labels=True,
        with_created_at=True,
    )
    typer.echo(output.message_json(messages.retrieve_request(query)))


@app.command()
def model(
    as_json: AsJson = False,
    target: Target = channels.DEFAULT_TARGET,
    timeout_s: TimeoutS = channels.DEFAULT_TIMEOUT_S,
    tls: Tls = False,
    ca_file: CaFile = None,
) -> None:
    """Print what the server serves."""
    with _connect(target, timeout_s, tls, ca_file) as client:
        description = client.get_model()
    if as_json:
        typer.echo(output.fields_json(description))
    else:
        output.print_fields(description, output.unbounded_console())


@app.command()
def stats(
    as_json: AsJson = False,
    target: Target = channels.DEFAULT_TARGET,
    timeout_s: TimeoutS = channels.DEFAULT_TIMEOUT_S,
    tls: Tls = False,
    ca_file: CaFile = None,
) -> None:
    """Print how busy the server is, and what has become of its calls."""
    with _connect(target, timeout_s, tls, ca_file) as client:
        counts = client.get_serving_stats()
    if as_json:
        typer.echo(output.fields_json(counts))
    else:
        output.print_fields(counts, output.unbounded_console())


def _read_user(sequence: Path) -> User:
    if sequence == Path("-"):
        return parse_sequence(typer.get_binary_stream("stdin").read(), name="standard input")
    return load_sequence(sequence)


def _connect(target: str, timeout_s: float, tls: bool, ca_file: Path | None) -> PhoenixClient:
    authorities = None if ca_file is None else ca_file.read_bytes()
    credentials = grpc.ssl_channel_credentials(authorities) if tls or ca_file else None
    return PhoenixClient(target, timeout_s=timeout_s, credentials=credentials)


def _describe(error: PhoenixClientError) -> str:
    """Say in one line what went wrong."""
    parts = [error.code.name, error.message]
    if isinstance(error, InvalidArgumentError):
        parts += [f"{v.field}: {v.description}" for v in error.field_violations]
    if isinstance(error, ResourceExhaustedError) and error.retry_after_s is not None:
        parts.append(f"retry after {error.retry_after_s:g} s")
    return ": ".join(part for part in parts if part)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; the exit status is 1 for a failed call and 2 for wrong usage."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    try:
        app(args=arguments)
    except PhoenixClientError as error:
        _fail(_describe(error))
    except SequenceError as error:
        _fail(str(error))


def _fail(problem: str) -> NoReturn:
    typer.echo(f"phoenix-client: {' '.join(problem.split())}", err=True)
    sys.exit(1)


if __name__ == "__main__":
    main()
