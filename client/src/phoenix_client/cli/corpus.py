"""The commands that change the corpus or show it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from phoenix_client.cli import output
from phoenix_client.cli.connected import asking
from phoenix_client.cli.options import SnapshotTimeoutS, StreamTimeoutS
from phoenix_client.client import PhoenixClient
from phoenix_client.files.posts_file import load_posts, parse_posts
from phoenix_client.types.corpus import CorpusState, Deleted, FoundPosts, Snapshot, Upserted
from phoenix_client.types.posts import Post

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


def _show_upserted(done: Upserted) -> None:
    what = f"{done.inserted:,} inserted, {done.replaced:,} replaced"
    if done.evicted:
        what += f", {done.evicted:,} evicted"
    typer.echo(f"sequence {done.sequence}: {what}")


def _show_deleted(done: Deleted) -> None:
    typer.echo(f"sequence {done.sequence}: {done.deleted:,} deleted")


@asking(
    app,
    _show_upserted,
    output.fields_json,
    timeout=StreamTimeoutS,
    timeout_s=_STREAM_TIMEOUT_S,
)
def upsert(
    client: PhoenixClient,
    file: PostsFile,
    batch: Annotated[int, typer.Option(min=1, help="How many posts make a change.")] = 500,
) -> Upserted:
    """Write posts to the corpus, in place of those with the same ids.

    A line has a post_id and an author_id and may have created_at (ISO 8601, with a time zone),
    labels and a vector. Posts before a line at fault may be written.
    """
    return client.stream_upsert_posts(_batches(_read_posts(file), batch))


@asking(app, _show_deleted, output.fields_json)
def delete(client: PhoenixClient, post_ids: PostIds) -> Deleted:
    """Delete posts from the corpus."""
    return client.delete_posts(dict.fromkeys(post_ids))


@asking(app, output.print_posts, output.posts_json)
def get_posts(client: PhoenixClient, post_ids: PostIds) -> FoundPosts:
    """Print what the corpus holds of posts."""
    return client.get_posts(post_ids)


@asking(app, output.print_fields, output.fields_json)
def corpus(client: PhoenixClient) -> CorpusState:
    """Print how the corpus is now."""
    return client.get_corpus()


@asking(
    app,
    output.print_fields,
    output.fields_json,
    timeout=SnapshotTimeoutS,
    timeout_s=_SNAPSHOT_TIMEOUT_S,
)
def snapshot(client: PhoenixClient) -> Snapshot:
    """Write a snapshot of the corpus on the server's disk, and print it.

    If nothing has changed since the last one, that one is printed.
    """
    return client.create_snapshot()


@asking(app, output.print_snapshots, output.snapshots_json)
def snapshots(client: PhoenixClient) -> Sequence[Snapshot]:
    """Print the snapshots on the server's disk, the oldest first."""
    return client.list_snapshots()


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
