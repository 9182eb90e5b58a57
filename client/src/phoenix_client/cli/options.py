"""Options that the commands share, and the connection that they make."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Annotated

import grpc
import typer

from phoenix_client.client import PhoenixClient
from phoenix_client.types import times
from phoenix_client.types.filters import Filter


def _above_zero(seconds: float) -> float:
    if not 0 < seconds < math.inf:
        raise typer.BadParameter("must be above 0 and finite")
    return seconds


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"must be a time of ISO 8601, is {text!r}") from error
    try:
        times.bound_to_unix_ms(moment)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return moment


Target = Annotated[str, typer.Option(envvar="PHOENIX_TARGET", help="The server, as gRPC names it.")]
TimeoutS = Annotated[
    float,
    typer.Option(
        envvar="PHOENIX_TIMEOUT_S", callback=_above_zero, help="Time limit of the call, in seconds."
    ),
]
StreamTimeoutS = Annotated[
    float,
    typer.Option(
        "--timeout-s",
        envvar="PHOENIX_STREAM_TIMEOUT_S",
        callback=_above_zero,
        help="Time limit of the whole call, in seconds.",
    ),
]
SnapshotTimeoutS = Annotated[
    float,
    typer.Option(
        "--timeout-s",
        envvar="PHOENIX_SNAPSHOT_TIMEOUT_S",
        callback=_above_zero,
        help="Time limit of the call, in seconds; a large corpus takes long.",
    ),
]
LoadTimeoutS = Annotated[
    float,
    typer.Option(
        "--timeout-s",
        envvar="PHOENIX_LOAD_TIMEOUT_S",
        callback=_above_zero,
        help="Time limit of the call, in seconds; the server may go on after it.",
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

Since = Annotated[
    datetime | None,
    typer.Option(
        parser=_moment,
        metavar="TIME",
        help="Only posts created at this time or later; ISO 8601, with a time zone.",
    ),
]
Before = Annotated[
    datetime | None,
    typer.Option(
        parser=_moment,
        metavar="TIME",
        help="Only posts created before this time; ISO 8601, with a time zone.",
    ),
]
AnyLabels = Annotated[
    list[str] | None,
    typer.Option(
        "--label", metavar="LABEL", help="Only posts with this label; repeated: with one of these."
    ),
]
AllLabels = Annotated[
    list[str] | None,
    typer.Option(
        "--all-label",
        metavar="LABEL",
        help="Only posts with this label; repeated: with all of these.",
    ),
]
NoneLabels = Annotated[
    list[str] | None,
    typer.Option(
        "--without-label", metavar="LABEL", help="No posts with this label; may be repeated."
    ),
]
ExcludedPosts = Annotated[
    list[int] | None,
    typer.Option(
        "--exclude",
        metavar="POST_ID",
        min=1,
        max=2**64 - 1,
        help="Not this post; may be repeated.",
    ),
]
ExcludedAuthors = Annotated[
    list[int] | None,
    typer.Option(
        "--exclude-author",
        metavar="AUTHOR_ID",
        min=1,
        max=2**64 - 1,
        help="No posts by this author; may be repeated.",
    ),
]
MinScore = Annotated[float | None, typer.Option(help="Only posts with at least this score.")]


def filter_of(
    *,
    since: datetime | None,
    before: datetime | None,
    any_labels: list[str] | None,
    all_labels: list[str] | None,
    none_labels: list[str] | None,
    excluded_posts: list[int] | None,
    excluded_authors: list[int] | None,
    min_score: float | None,
) -> Filter | None:
    """Return the conditions that the options set; None if they set none.

    Raises:
        BadParameter: A label is no text.
    """
    try:
        chosen = Filter(
            created_since=since,
            created_before=before,
            any_labels=any_labels or (),
            all_labels=all_labels or (),
            none_labels=none_labels or (),
            excluded_post_ids=excluded_posts or (),
            excluded_author_ids=excluded_authors or (),
            min_score=min_score,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return None if chosen == Filter() else chosen


def connect(target: str, timeout_s: float, tls: bool, ca_file: Path | None) -> PhoenixClient:
    """Return a client, encrypted if the options say so.

    Raises:
        BadParameter: The file of certificates holds none.
    """
    authorities = None if ca_file is None else ca_file.read_bytes()
    if authorities is not None and b"CERTIFICATE-----" not in authorities:
        raise typer.BadParameter(f"{ca_file} holds no certificate in PEM", param_hint="--ca-file")
    credentials = grpc.ssl_channel_credentials(authorities) if tls or ca_file else None
    return PhoenixClient(target, timeout_s=timeout_s, credentials=credentials)
