"""The commands that change the corpus or show it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from phoenix_client import channels, output
from phoenix_client.options import (
    AsJson,
    CaFile,
    SnapshotTimeoutS,
    StreamTimeoutS,
    Target,
    TimeoutS,
    Tls,
    connect,
)
from phoenix_client.posts import Post
from phoenix_client.posts_file import load_posts, parse_posts

app = typer.Typer()

_STREAM_TIMEOUT_S = 600.0
_SNAPSHOT_TIMEOUT_S = 600.0

PostsFile = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="Posts, one JSON object a line; - for standard input."),
]
PostIds = Annotated[
    list[int],
    typer.Argument(metavar="POST_ID...", min=1, max=2**64 - 1, help="Ids of the posts."),
]


@app.command()
def upsert(
    file: PostsFile,
    batch: Annotated[int, typer.Option(min=1, help="How many posts make a change.")] = 500,
    as_json: AsJson = False,
    target: Target = channels.DEFAULT_TARGET,
    timeout_s: StreamTimeoutS = _STREAM_TIMEOUT_S,
    tls: Tls = False,
    ca_file: CaFile = None,
) -> None:
    """Write posts to the corpus, in place of those with the same ids.

    A line has a post_id and an author_id and may have created_at (ISO 8601, with a time zone),
    labels and a vector. Posts before a line at fault may be written.
    """
    with connect(target, timeout_s, tls, ca_file) as client:
        done = client.stream_upsert_posts(_batches(_read_posts(file), batch))
    if as_json:
        typer.echo(output.fields_json(done))
    else:
        typer.echo(
            f"sequence {done.sequence}: {done.inserted:,} inserted, {done.replaced:,} replaced"
        )


@app.command()
def delete(
    post_ids: PostIds,
    as_json: AsJson = False,
    target: Target = channels.DEFAULT_TARGET,
    timeout_s: TimeoutS = channels.DEFAULT_TIMEOUT_S,
    tls: Tls = False,
    ca_file: CaFile = None,
) -> None:
    """Delete posts from the corpus."""
    with connect(target, timeout_s, tls, ca_file) as client:
        done = client.delete_posts(dict.fromkeys(post_ids))
    if as_json:
        typer.echo(output.fields_json(done))
    else:
        typer.echo(f"sequence {done.sequence}: {done.deleted:,} deleted")


@app.command()
def get_posts(
    post_ids: PostIds,
    as_json: AsJson = False,
    target: Target = channels.DEFAULT_TARGET,
    timeout_s: TimeoutS = channels.DEFAULT_TIMEOUT_S,
    tls: Tls = False,
    ca_file: CaFile = None,
) -> None:
    """Print what the corpus holds of posts."""
    with connect(target, timeout_s, tls, ca_file) as client:
        found = client.get_posts(post_ids)
    if as_json:
        typer.echo(output.posts_json(found))
    else:
        output.print_posts(found, output.unbounded_console(), datetime.now(UTC))


@app.command()
def corpus(
    as_json: AsJson = False,
    target: Target = channels.DEFAULT_TARGET,
    timeout_s: TimeoutS = channels.DEFAULT_TIMEOUT_S,
    tls: Tls = False,
    ca_file: CaFile = None,
) -> None:
    """Print how the corpus is now."""
    with connect(target, timeout_s, tls, ca_file) as client:
        state = client.get_corpus()
    if as_json:
        typer.echo(output.fields_json(state))
    else:
        output.print_fields(state, output.unbounded_console())


@app.command()
def snapshot(
    as_json: AsJson = False,
    target: Target = channels.DEFAULT_TARGET,
    timeout_s: SnapshotTimeoutS = _SNAPSHOT_TIMEOUT_S,
    tls: Tls = False,
    ca_file: CaFile = None,
) -> None:
    """Write a snapshot of the corpus on the server's disk, and print it.

    If nothing has changed since the last one, that one is printed.
    """
    with connect(target, timeout_s, tls, ca_file) as client:
        newest = client.create_snapshot()
    if as_json:
        typer.echo(output.fields_json(newest))
    else:
        output.print_fields(newest, output.unbounded_console())


@app.command()
def snapshots(
    as_json: AsJson = False,
    target: Target = channels.DEFAULT_TARGET,
    timeout_s: TimeoutS = channels.DEFAULT_TIMEOUT_S,
    tls: Tls = False,
    ca_file: CaFile = None,
) -> None:
    """Print the snapshots on the server's disk, the oldest first."""
    with connect(target, timeout_s, tls, ca_file) as client:
        there_are = client.list_snapshots()
    if as_json:
        typer.echo(output.snapshots_json(there_are))
    else:
        output.print_snapshots(there_are, output.unbounded_console())


def _read_posts(file: Path) -> Iterator[Post]:
    if file == Path("-"):
        return parse_posts(typer.get_binary_stream("stdin"), name="standard input")
    return load_posts(file)


def _batches(posts: Iterable[Post], size: int) -> Iterator[list[Post]]:
    """Cut posts into batches, shorter where an id comes again: a change has each id once."""
    batch: dict[int, Post] = {}
    for post in posts:
        if len(batch) == size or post.post_id in batch:
            yield list(batch.values())
            batch.clear()
        batch[post.post_id] = post
    if batch:
        yield list(batch.values())
