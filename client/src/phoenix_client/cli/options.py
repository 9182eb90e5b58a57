"""Options that several commands share, and the connection that they describe.

Modules of this package import what needs gRPC only where a command runs: `--help` takes a third of
the time without it.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import click

from phoenix_client.transport import defaults

if TYPE_CHECKING:
    from phoenix_client.client import PhoenixClient
    from phoenix_client.types.filters import Filter
    from phoenix_client.types.users import User

Command: TypeAlias = Callable[..., Any]
ID = click.IntRange(1, 2**64 - 1)


def _environment_option(flag: str, variable: str, help: str, **more: Any) -> Any:
    """Return an option that an environment variable can set too."""
    return click.option(flag, envvar=variable, show_envvar=True, help=help, **more)


def _check_timeout(context: click.Context, option: click.Parameter, seconds: float) -> float:
    if not 0 < seconds < math.inf:
        raise click.BadParameter("must be above 0 and finite")
    return seconds


def _timeout_option(variable: str, default_s: float, help: str) -> Any:
    more = {"type": float, "default": default_s, "callback": _check_timeout}
    return _environment_option("--timeout-s", variable, f"Time limit of the {help}", **more)


CALL_TIMEOUT = _timeout_option("PHOENIX_TIMEOUT_S", defaults.DEFAULT_TIMEOUT_S, "call, in seconds.")
STREAM_TIMEOUT = _timeout_option("PHOENIX_STREAM_TIMEOUT_S", 600.0, "whole call, in seconds.")
SNAPSHOT_TIMEOUT = _timeout_option(
    "PHOENIX_SNAPSHOT_TIMEOUT_S", 600.0, "call, in seconds; increase it for a large corpus."
)
LOAD_TIMEOUT = _timeout_option(
    "PHOENIX_LOAD_TIMEOUT_S",
    defaults.DEFAULT_LOAD_TIMEOUT_S,
    "call, in seconds. The server goes on loading after it.",
)


def server_command(
    text_of: Callable[[Any], str], json_of: Callable[[Any], str], *, time_limit: Any = CALL_TIMEOUT
) -> Callable[[Command], Command]:
    """Decorate a function so that it gets a connected client and its result is printed.

    The function's first parameter is the client. The options of the connection are added to those
    that the function has.

    Args:
        text_of: Writes a result for people.
        json_of: Writes a result as one line of JSON, for `--json`.
        time_limit: The option of the time limit.
    """

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(*, as_json: bool, connection: Connection, **own: Any) -> None:
            with connection.open() as client:
                result = function(client, **own)
            click.echo(json_of(result) if as_json else text_of(result))

        return server_options(time_limit)(command)

    return decorate


class Connection(NamedTuple):
    """What the options say about the server and how to reach it."""

    target: str
    timeout_s: float
    tls: bool
    ca_file: Path | None

    def open(self) -> PhoenixClient:
        """Return a client, with TLS if the options say so.

        Raises:
            BadParameter: The certificate file holds no certificate.
        """
        import grpc

        from phoenix_client.client import PhoenixClient

        authorities = None if self.ca_file is None else self.ca_file.read_bytes()
        if authorities is not None and b"CERTIFICATE-----" not in authorities:
            problem = f"{self.ca_file} holds no certificate in PEM"
            raise click.BadParameter(problem, param_hint="--ca-file")
        encrypt = self.tls or authorities is not None
        credentials = grpc.ssl_channel_credentials(authorities) if encrypt else None
        return PhoenixClient(self.target, timeout_s=self.timeout_s, credentials=credentials)


def server_options(time_limit: Any = CALL_TIMEOUT) -> Callable[[Command], Command]:
    """Add `--json` and the options of the connection; a command gets `as_json`, `connection`."""
    options = (
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table."),
        _environment_option(
            "--target",
            "PHOENIX_TARGET",
            "The server: host:port, dns:///name or unix:path.",
            default=defaults.DEFAULT_TARGET,
        ),
        time_limit,
        _environment_option(
            "--tls",
            "PHOENIX_TLS",
            "Encrypt; trust gRPC's default root certificates.",
            is_flag=True,
        ),
        _environment_option(
            "--ca-file",
            "PHOENIX_CA_FILE",
            "Encrypt; trust the certificates in this PEM file.",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
        ),
    )
    return _gather("connection", Connection._fields, Connection, options)


def _gather(
    name: str,
    fields: Sequence[str],
    build: Callable[..., Any],
    options: Sequence[Callable[[Command], Command]],
) -> Callable[[Command], Command]:
    """Add options to a command; it gets the values of `fields` as one value called `name`."""

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def command(**given: Any) -> Any:
            value = build(**{field: given.pop(field) for field in fields})
            return function(**given, **{name: value})

        return functools.reduce(lambda inner, option: option(inner), reversed(options), command)

    return decorate


class _Time(click.ParamType[datetime]):
    """A time with a time zone, not before 1970."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        from phoenix_client.types import times

        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"must be a time of ISO 8601, is {value!r}", param, ctx)
        try:
            times.bound_to_unix_ms(moment)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return moment


_ISO = "ISO 8601, with a time zone."
_FILTER_TYPES = {"TIME": _Time(), "FLOAT": click.FLOAT, "POST_ID": ID, "AUTHOR_ID": ID}

# A row per field of a `Filter`: flag, field, what the flag takes, help.
_FILTER_OPTIONS = (
    ("--since", "created_since", "TIME", f"Only posts created at this time or later; {_ISO}"),
    ("--before", "created_before", "TIME", f"Only posts created before this time; {_ISO}"),
    ("--label", "any_labels", "LABEL", "Only posts with this label; if repeated: with any."),
    ("--all-label", "all_labels", "LABEL", "Only posts with this label; if repeated: with all."),
    ("--without-label", "none_labels", "LABEL", "No posts with this label; may be repeated."),
    ("--exclude", "excluded_post_ids", "POST_ID", "Not this post; may be repeated."),
    ("--exclude-author", "excluded_author_ids", "AUTHOR_ID", "Not this author; may be repeated."),
    ("--min-score", "min_score", "FLOAT", "Only posts with at least this score."),
)


def filter_options(function: Command) -> Command:
    """Add the options of a filter; the command gets the `Filter`, or None, as `filter`."""
    options = [
        click.option(
            *(flag, field),
            type=_FILTER_TYPES.get(takes),
            multiple=takes not in ("TIME", "FLOAT"),
            metavar=takes,
            help=help,
        )
        for flag, field, takes, help in _FILTER_OPTIONS
    ]
    return _gather("filter", [row[1] for row in _FILTER_OPTIONS], _build_filter, options)(function)


def _build_filter(**conditions: Any) -> Filter | None:
    from phoenix_client.types.filters import Filter

    try:
        filter = Filter(**conditions)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return None if filter == Filter() else filter


sequence_option = click.option(
    "--sequence",
    type=click.Path(path_type=Path),
    required=True,
    help="The user's history, as in example_sequence.json; - for standard input.",
)


min_sequence_option = click.option(
    "--min-sequence",
    type=click.IntRange(0, 2**64 - 1),
    default=0,
    help="Wait until the corpus holds the change of this number, as upsert prints it.",
)


def top_k_option(default: int) -> Callable[[Command], Command]:
    """Return the option of how many posts to retrieve."""
    number = click.IntRange(1, 2**32 - 1)
    return _environment_option(
        "--top-k", "PHOENIX_TOP_K", "How many posts.", type=number, default=default
    )


def read_user(sequence: Path) -> User:
    """Read a user's history from a file, or from standard input if the file is `-`."""
    from phoenix_client.files.sequence import load_sequence, parse_sequence

    if sequence == Path("-"):
        return parse_sequence(sys.stdin.buffer.read(), name="standard input")
    return load_sequence(sequence)


def read_vectors(file: Path) -> list[tuple[float, ...]]:
    """Read vectors from a file, or from standard input if the file is `-`."""
    from phoenix_client.files.vectors_file import load_vectors, parse_vectors

    if file == Path("-"):
        return parse_vectors(sys.stdin.buffer, name="standard input")
    return load_vectors(file)
