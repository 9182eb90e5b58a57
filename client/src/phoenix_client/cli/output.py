"""How the command line prints results: as text for people, as JSON for programs."""

from __future__ import annotations

import json
import struct
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from google.protobuf.message import Message

    from phoenix_client.types.corpus import DeleteResult, FoundPosts, Snapshot, UpsertResult
    from phoenix_client.types.generations import Generation
    from phoenix_client.types.results import RetrieveResult

_RESULT_FIELDS = ("generation", "rows_scanned", "rows_eligible", "sequence")
_FLOAT32 = struct.Struct("<f")
_AGE_UNITS = {"y": 365 * 86_400, "d": 86_400, "h": 3600, "m": 60, "s": 1}  # in seconds


def shortest_float32(value: float) -> float:
    """Return the number of fewest digits, 6 to 9, that is `value` again as a float32."""
    for digits in range(6, 9):
        rounded = float(f"{value:.{digits}g}")
        if _FLOAT32.pack(rounded) == _FLOAT32.pack(value):
            return rounded
    return float(f"{value:.9g}")


def result_json(result: RetrieveResult) -> str:
    """Write a result as one line of JSON. Ids are exact integers."""
    return json.dumps(_result_document(result))


def results_json(results: Iterable[RetrieveResult]) -> str:
    """Write results as one line of JSON, each as `result_json` does."""
    return json.dumps({"results": [_result_document(each) for each in results]})


def _result_document(result: RetrieveResult) -> dict[str, object]:
    document: dict[str, object] = {
        **{name: getattr(result, name) for name in _RESULT_FIELDS},
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
    return document


def message_json(message: Message) -> str:
    """Write a message as one line of protobuf's JSON, where 64-bit integers are strings."""
    from google.protobuf import json_format

    return json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None)


def posts_json(found: FoundPosts) -> str:
    """Write posts as one line of JSON. Ids are exact integers; `upsert` reads such posts."""
    posts = [post._asdict() for post in found.posts]
    for post in posts:
        del post["vector"]
    document = {
        "sequence": found.sequence,
        "posts": posts,
        "missing_post_ids": found.missing_post_ids,
    }
    return json.dumps(document, default=_moment)


def fields_json(description: DataclassInstance) -> str:
    """Write the fields of a description as one line of JSON."""
    return json.dumps(asdict(description), default=_moment)


def list_json(name: str, descriptions: Iterable[DataclassInstance]) -> str:
    """Write descriptions as one line of JSON: an array that is called `name`."""
    return json.dumps({name: [asdict(each) for each in descriptions]}, default=_moment)


def result_text(result: RetrieveResult, now: datetime | None = None) -> str:
    """Write a heading and a table of candidates; ages are as of `now`."""
    heading = (
        f"generation {_clean(result.generation)}: {result.rows_scanned:,} rows scanned,"
        f" {result.rows_eligible:,} eligible"
    )
    if result.sequence:
        heading += f", sequence {result.sequence}"
    now = now or datetime.now(UTC)
    columns = {"rank": ">", "post id": ">", "author": ">", "age": ">", "labels": "<", "score": ">"}
    rows = [
        (
            rank,
            candidate.post_id,
            candidate.author_id,
            age(candidate.created_at, now),
            ", ".join(candidate.labels),
            shortest_float32(candidate.score),
        )
        for rank, candidate in enumerate(result.candidates, start=1)
    ]
    lines = [heading, table(columns, rows)]
    if result.user_representation is not None:
        values = " ".join(str(shortest_float32(x)) for x in result.user_representation)
        lines.append(f"user representation: {values}")
    return "\n".join(lines)


def results_text(results: Iterable[RetrieveResult], now: datetime | None = None) -> str:
    """Write results, each as `result_text` does, with an empty line between two."""
    return "\n\n".join(result_text(each, now) for each in results)


def posts_text(found: FoundPosts, now: datetime | None = None) -> str:
    """Write a table of posts, and the ids that are missing; ages are as of `now`."""
    now = now or datetime.now(UTC)
    rows = [
        (post.post_id, post.author_id, age(post.created_at, now), ", ".join(post.labels))
        for post in found.posts
    ]
    columns = {"post id": ">", "author": ">", "age": ">", "labels": "<"}
    lines = [f"sequence {found.sequence}: {len(found.posts):,} found", table(columns, rows)]
    if found.missing_post_ids:
        lines.append(f"missing: {' '.join(map(str, found.missing_post_ids))}")
    return "\n".join(lines)


def upserted_text(done: UpsertResult) -> str:
    """Write how many posts were inserted, replaced and evicted."""
    text = f"sequence {done.sequence}: {done.inserted:,} inserted, {done.replaced:,} replaced"
    return f"{text}, {done.evicted:,} evicted" if done.evicted else text


def deleted_text(done: DeleteResult) -> str:
    """Write how many posts were deleted."""
    return f"sequence {done.sequence}: {done.deleted:,} deleted"


def snapshots_text(snapshots: Sequence[Snapshot]) -> str:
    """Write a table of snapshots."""
    columns = {"sequence": ">", "rows": ">", "bytes": ">", "created at": "<", "directory": "<"}
    rows = [
        (
            *(each.sequence, f"{each.rows:,}", f"{each.size_bytes:,}"),
            *(_moment(each.created_at), each.directory or None),
        )
        for each in snapshots
    ]
    return table(columns, rows)


def generations_text(generations: Sequence[Generation]) -> str:
    """Write a table of generations, and why some failed. A dash stands for what is not known."""
    left = dict.fromkeys(("state", "previous", "generation"), "<")
    right = dict.fromkeys(("rows", "sequence"), ">")
    columns = {"number": ">", **left, **right, "bundle": "<", "corpus": "<"}
    rows = [
        (
            *(each.number, each.state, _shown(each.previous), each.generation or None),
            *((f"{each.corpus_rows:,}", each.sequence) if each.generation else (None, None)),
            *(each.bundle or None, each.corpus or None),
        )
        for each in generations
    ]
    reasons = [
        f"generation {each.number} {each.state}: {_clean(each.reason)}"
        for each in generations
        if each.reason
    ]
    return "\n".join([table(columns, rows), *reasons])


def fields_text(description: DataclassInstance) -> str:
    """Write the fields of a description, a line each."""
    fields = {name.replace("_", " "): value for name, value in asdict(description).items()}
    width = max(map(len, fields))
    return "\n".join(f"{name:{width}}  {_clean(_shown(value))}" for name, value in fields.items())


def table(columns: Mapping[str, str], rows: Iterable[Sequence[object]]) -> str:
    """Write rows below a heading.

    No cell is cut, however narrow the terminal is: an id that is cut is another id.

    Args:
        columns: For each heading `<` or `>`, the side to which its cells are aligned.
        rows: The cells; None is shown as a dash.
    """
    lines = [list(columns)]
    lines += [["-" if cell is None else _clean(str(cell)) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "   ".join(
            f"{cell:{side}{width - _width(cell) + len(cell)}}"
            for cell, side, width in zip(line, columns.values(), widths, strict=True)
        ).rstrip()
        for line in lines
    )


def age(created_at: datetime | None, now: datetime) -> str:
    """Return how old a post is, in the largest unit of which it is at least one."""
    if created_at is None:
        return "-"
    elapsed_s = max((now - created_at) // timedelta(seconds=1), 0)
    unit = next((unit for unit, length in _AGE_UNITS.items() if elapsed_s >= length), "s")
    return f"{elapsed_s // _AGE_UNITS[unit]}{unit}"


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


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


def _clean(text: str) -> str:
    """Replace what could control a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
