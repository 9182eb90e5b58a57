"""The command line: `phoenix-client`."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from phoenix_client.cli import corpus as corpus_commands
from phoenix_client.cli import generations as generation_commands
from phoenix_client.cli import output
from phoenix_client.cli.connected import asking
from phoenix_client.cli.options import (
    AllLabels,
    AnyLabels,
    AsJson,
    Before,
    CaFile,
    ExcludedAuthors,
    ExcludedPosts,
    MinScore,
    NoneLabels,
    Since,
    Target,
    TimeoutS,
    Tls,
    connect,
    filter_of,
)
from phoenix_client.client import PhoenixClient
from phoenix_client.errors import (
    FileError,
    InvalidArgumentError,
    PhoenixClientError,
    ResourceExhaustedError,
)
from phoenix_client.files.sequence import load_sequence, parse_sequence
from phoenix_client.transport import channels
from phoenix_client.types.model import Model
from phoenix_client.types.queries import RetrieveQuery
from phoenix_client.types.stats import ServingStats
from phoenix_client.types.users import User
from phoenix_client.wire import messages

app = typer.Typer(
    help="Ask a Phoenix retrieval server, and change what it serves.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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
    min_sequence: Annotated[
        int,
        typer.Option(
            min=0,
            max=2**64 - 1,
            help="Wait until the corpus holds the change of this number, as upsert prints it.",
        ),
    ] = 0,
    since: Since = None,
    before: Before = None,
    label: AnyLabels = None,
    all_label: AllLabels = None,
    without_label: NoneLabels = None,
    exclude: ExcludedPosts = None,
    exclude_author: ExcludedAuthors = None,
    min_score: MinScore = None,
    as_json: AsJson = False,
    target: Target = channels.DEFAULT_TARGET,
    timeout_s: TimeoutS = channels.DEFAULT_TIMEOUT_S,
    tls: Tls = False,
    ca_file: CaFile = None,
) -> None:
    """Print the posts of highest score for a user."""
    chosen = filter_of(
        since=since,
        before=before,
        any_labels=label,
        all_labels=all_label,
        none_labels=without_label,
        excluded_posts=exclude,
        excluded_authors=exclude_author,
        min_score=min_score,
    )
    user = _read_user(sequence)
    with connect(target, timeout_s, tls, ca_file) as client:
        result = client.retrieve(
            user,
            top_k=top_k,
            with_author_ids=True,
            with_labels=True,
            with_created_at=not as_json,
            with_representation=with_representation,
            min_sequence=min_sequence,
            filter=chosen,
        )
    if as_json:
        typer.echo(output.retrieve_json(result))
    else:
        output.print_result(result, output.unbounded_console(), datetime.now(UTC))


@app.command()
def request(
    sequence: SequenceFile,
    top_k: TopK = 10,
    since: Since = None,
    before: Before = None,
    label: AnyLabels = None,
    all_label: AllLabels = None,
    without_label: NoneLabels = None,
    exclude: ExcludedPosts = None,
    exclude_author: ExcludedAuthors = None,
    min_score: MinScore = None,
) -> None:
    """Print the request that retrieve sends, as JSON for grpcurl and ghz."""
    chosen = filter_of(
        since=since,
        before=before,
        any_labels=label,
        all_labels=all_label,
        none_labels=without_label,
        excluded_posts=exclude,
        excluded_authors=exclude_author,
        min_score=min_score,
    )
    query = RetrieveQuery(
        user=_read_user(sequence),
        top_k=top_k,
        with_author_ids=True,
        with_labels=True,
        with_created_at=True,
        filter=chosen,
    )
    typer.echo(output.message_json(messages.retrieve_request(query)))


@asking(app, output.print_fields, output.fields_json)
def model(client: PhoenixClient) -> Model:
    """Print what the server serves."""
    return client.get_model()


@asking(app, output.print_fields, output.fields_json)
def stats(client: PhoenixClient) -> ServingStats:
    """Print how busy the server is, and what has become of its calls."""
    return client.get_serving_stats()


app.add_typer(corpus_commands.app)
app.add_typer(generation_commands.app)


def _read_user(sequence: Path) -> User:
    if sequence == Path("-"):
        return parse_sequence(typer.get_binary_stream("stdin").read(), name="standard input")
    return load_sequence(sequence)


def _describe(error: PhoenixClientError) -> str:
    """Say in one line what went wrong."""
    parts = [error.code.name, error.message]
    if isinstance(error, InvalidArgumentError):
        violations = [f"{v.field}: {v.description}" for v in error.field_violations]
        parts += [each for each in violations if each not in error.message]
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
    except FileError as error:
        _fail(str(error))


def _fail(problem: str) -> NoReturn:
    typer.echo(f"phoenix-client: {' '.join(problem.split())}", err=True)
    sys.exit(1)
