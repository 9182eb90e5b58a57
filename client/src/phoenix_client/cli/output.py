"""How the command line shows results: as tables for people, as JSON for programs."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TextIO, TypeAlias, cast

from google.protobuf import json_format
from google.protobuf.message import Message
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from phoenix_client.types.corpus import CorpusState, Deleted, FoundPosts, Snapshot, Upserted
from phoenix_client.types.generations import Generation
from phoenix_client.types.model import Model
from phoenix_client.types.posts import Posts
from phoenix_client.types.results import Candidates, RetrieveResult
from phoenix_client.types.stats import ServingStats

Description: TypeAlias = (
    Model | ServingStats | CorpusState | Upserted | Deleted | Snapshot | Generation
)

_FLOAT32 = struct.Struct("<f")


def shortest_float32(value: float) -> float:
    """Return the number of fewest digits, 6 to 9, that is `value` again as a float32."""
    for digits in range(6, 9):
        rounded = float(f"{value:.{digits}g}")
        if _FLOAT32.pack(rounded) == _FLOAT32.pack(value):
            return rounded
    return float(f"{value:.9g}")


def retrieve_json(result: RetrieveResult) -> str:
    """Write a result as one line of JSON. Ids are exact integers."""
    document: dict[str, object] = {
        "generation": result.generation,
        "rows_scanned": result.rows_scanned,
        "rows_eligible": result.rows_eligible,
        "sequence": result.sequence,
        "candidates": [
            {
                "post_id": candidate.post_id,
                "author_id": candidate.author_id,
                "score": shortest_float32(candidate.score),
                "labels": candidate.labels,
            }
            for candidate in result.candidates
        ],
    }
    if result.user_representation is not None:
        document["user_representation"] = [shortest_float32(x) for x in result.user_representation]
    return json.dumps(document)


def message_json(message: Message) -> str:
    """Write a message as one line of protobuf's JSON, where 64-bit integers are strings."""
    return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None)


def posts_json(found: FoundPosts) -> str:
    """Write posts as one line of JSON. Ids are exact integers; `upsert` reads such posts."""
    document = {
        "sequence": found.sequence,
        "posts": [
            {
                "post_id": post.post_id,
                "author_id": post.author_id,
                "created_at": post.created_at,
                "labels": post.labels,
            }
            for post in found.posts
        ],
        "missing_post_ids": found.missing_post_ids,
    }
    return json.dumps(document, default=_moment)


def fields_json(description: Description) -> str:
    """Write the fields of a description as one line of JSON."""
    return json.dumps(asdict(description), default=_moment)


def snapshots_json(snapshots: Sequence[Snapshot]) -> str:
    """Write snapshots as one line of JSON."""
    return json.dumps({"snapshots": [asdict(each) for each in snapshots]}, default=_moment)


def generations_json(generations: Sequence[Generation]) -> str:
    """Write generations as one line of JSON."""
    return json.dumps({"generations": [asdict(each) for each in generations]})


def unbounded_console(file: TextIO | None = None) -> Console:
    """Return a console without an edge, on standard output by default.

    Rich cuts what does not fit its width, and an id that is cut is another id.
    """
    return Console(file=file, width=2**20)


def print_result(result: RetrieveResult, console: Console, now: datetime) -> None:
    """Print a heading and a table of candidates; ages are as of `now`."""
    heading = (
        f"generation {_clean(result.generation)}: {result.rows_scanned:,} rows scanned,"
        f" {result.rows_eligible:,} eligible"
    )
    if result.sequence:
        heading += f", sequence {result.sequence}"
    console.print(Text(heading))
    console.print(_candidates_table(result.candidates, now))
    if result.user_representation is not None:
        values = " ".join(str(shortest_float32(x)) for x in result.user_representation)
        console.print(Text(f"user representation: {values}"))


def print_posts(
    found: FoundPosts, console: Console | None = None, now: datetime | None = None
) -> None:
    """Print a table of posts, and the ids that are missing; ages are as of `now`."""
    console = console or unbounded_console()
    console.print(Text(f"sequence {found.sequence}: {len(found.posts):,} found"))
    console.print(_posts_table(found.posts, now or datetime.now(UTC)))
    if found.missing_post_ids:
        console.print(Text(f"missing: {' '.join(map(str, found.missing_post_ids))}"))


def print_snapshots(snapshots: Sequence[Snapshot], console: Console | None = None) -> None:
    """Print a table of snapshots."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("sequence", "rows", "bytes"):
        table.add_column(heading, justify="right")
    table.add_column("created at")
    table.add_column("directory")
    for snapshot in snapshots:
        table.add_row(
            str(snapshot.sequence),
            f"{snapshot.rows:,}",
            f"{snapshot.size_bytes:,}",
            _moment(snapshot.created_at),
            Text(_clean(_shown(snapshot.directory))),
        )
    (console or unbounded_console()).print(table)


def print_generations(generations: Sequence[Generation], console: Console | None = None) -> None:
    """Print a table of generations, and why some failed; what is not known of one is a dash."""
    console = console or unbounded_console()
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("number", justify="right")
    for heading in ("state", "previous", "generation"):
        table.add_column(heading)
    for heading in ("rows", "sequence"):
        table.add_column(heading, justify="right")
    for heading in ("bundle", "corpus"):
        table.add_column(heading)
    for each in generations:
        loaded = each.generation != ""
        table.add_row(
            str(each.number),
            each.state,
            _shown(each.previous),
            Text(_clean(_shown(each.generation))),
            f"{each.corpus_rows:,}" if loaded else "-",
            str(each.sequence) if loaded else "-",
            *(Text(_clean(_shown(text))) for text in (each.bundle, each.corpus)),
        )
    console.print(table)
    for each in generations:
        if each.reason:
            console.print(Text(f"generation {each.number} {each.state}: {_clean(each.reason)}"))


def print_fields(description: Description, console: Console | None = None) -> None:
    """Print the fields of a description, a line each."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in asdict(description).items():
        table.add_row(name.replace("_", " "), Text(_clean(_shown(value))))
    (console or unbounded_console()).print(table)


def age(created_at: datetime | None, now: datetime) -> str:
    """Say how old a post is, in the largest unit of which it is at least one."""
    if created_at is None:
        return "-"
    elapsed = max(now - created_at, timedelta())
    units: Mapping[str, timedelta] = {
        "y": timedelta(days=365),
        "d": timedelta(days=1),
        "h": timedelta(hours=1),
        "m": timedelta(minutes=1),
    }
    for unit, length in units.items():
        if elapsed >= length:
            return f"{elapsed // length}{unit}"
    return f"{elapsed // timedelta(seconds=1)}s"


def _shown(value: object) -> str:
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case tuple():
            return ", ".join(map(str, cast("tuple[object, ...]", value)))
        case datetime():
            return _moment(value)
        case _:
            return str(value)


def _moment(value: datetime) -> str:
    return value.isoformat(timespec="milliseconds")


def _posts_table(posts: Posts, now: datetime) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("post id", "author", "age"):
        table.add_column(heading, justify="right")
    table.add_column("labels")
    for post in posts:
        table.add_row(
            str(post.post_id),
            str(post.author_id),
            age(post.created_at, now),
            Text(_clean(", ".join(post.labels))),
        )
    return table


def _candidates_table(candidates: Candidates, now: datetime) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("rank", "post id", "author", "age"):
        table.add_column(heading, justify="right")
    table.add_column("labels")
    table.add_column("score", justify="right")
    for rank, candidate in enumerate(candidates, start=1):
        table.add_row(
            str(rank),
            str(candidate.post_id),
            "-" if candidate.author_id is None else str(candidate.author_id),
            age(candidate.created_at, now),
            Text(_clean(", ".join(candidate.labels))),
            str(shortest_float32(candidate.score)),
        )
    return table


def _clean(text: str) -> str:
    """Replace what could steer a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
