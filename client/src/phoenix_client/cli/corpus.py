"""The commands that change the corpus or show it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from phoenix_client.cli import output
from phoenix_client.cli.options import ID, SNAPSHOT_TIMEOUT, STREAM_TIMEOUT, server_command

if TYPE_CHECKING:
    from phoenix_client.client import PhoenixClient
    from phoenix_client.types.corpus import (
        CorpusState,
        DeleteResult,
        FoundPosts,
        Snapshot,
        UpsertResult,
    )
    from phoenix_client.types.posts import Post

_post_ids = click.argument("post_ids", nargs=-1, required=True, type=ID, metavar="POST_ID...")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--batch", type=click.IntRange(1), default=500, help="Posts per change.")
@server_command(output.upserted_text, output.fields_json, time_limit=STREAM_TIMEOUT)
def upsert(client: PhoenixClient, file: Path, batch: int) -> UpsertResult:
    """Write posts to the corpus, in place of those with the same ids.

    FILE holds one JSON object a line; - for standard input. A line has a post_id and an author_id
    and may have created_at (ISO 8601, with a time zone), labels and a vector. Posts before a line
    with a mistake may be written.
    """
    return client.stream_upsert_posts(_batches(_read_posts(file), batch))


@click.command()
@_post_ids
@server_command(output.deleted_text, output.fields_json)
def delete(client: PhoenixClient, post_ids: tuple[int, ...]) -> DeleteResult:
    """Delete posts from the corpus."""
    return client.delete_posts(dict.fromkeys(post_ids))


@click.command()
@_post_ids
@server_command(output.posts_text, output.posts_json)
def get_posts(client: PhoenixClient, post_ids: tuple[int, ...]) -> FoundPosts:
    """Print posts as the corpus holds them."""
    return client.get_posts(post_ids)


@click.command()
@server_command(output.fields_text, output.fields_json)
def corpus(client: PhoenixClient) -> CorpusState:
    """Print the current state of the corpus."""
    return client.get_corpus()


@click.command()
@server_command(output.fields_text, output.fields_json, time_limit=SNAPSHOT_TIMEOUT)
def snapshot(client: PhoenixClient) -> Snapshot:
    """Write a snapshot of the corpus on the server's disk, and print it.

    If nothing has changed since the last snapshot, that one is printed.
    """
    return client.create_snapshot()


@click.command()
@server_command(output.snapshots_text, partial(output.list_json, "snapshots"))
def snapshots(client: PhoenixClient) -> tuple[Snapshot, ...]:
    """Print the snapshots on the server's disk, oldest first."""
    return client.list_snapshots()


def _read_posts(file: Path) -> Iterator[Post]:
    from phoenix_client.files.posts_file import load_posts, parse_posts

    if file == Path("-"):
        return parse_posts(sys.stdin.buffer, name="standard input")
    return load_posts(file)


def _batches(posts: Iterable[Post], size: int) -> Iterator[list[Post]]:
    """Cut posts into batches. A batch ends early where an id repeats: a change has each id once."""
    batch: dict[int, Post] = {}
    for post in posts:
        if len(batch) == size or post.post_id in batch:
            yield list(batch.values())
            batch.clear()
        batch[post.post_id] = post
    if batch:
        yield list(batch.values())
