"""Build requests to `CorpusService` and read its replies, for the sync and the async client."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC
from functools import partial

from phoenix_client.errors import MalformedReplyError
from phoenix_client.types import times
from phoenix_client.types.columns import u64_column, vectors_column
from phoenix_client.types.corpus import (
    CorpusState,
    DeleteResult,
    FoundPosts,
    Snapshot,
    UpsertResult,
)
from phoenix_client.types.labels import check_sequence, check_text
from phoenix_client.types.posts import Post, Posts
from phoenix_client.wire.call import Call
from phoenix_client.wire.messages import check_times, read_columns, same_fields
from phoenix_retrieval.v1 import corpus_service_pb2 as corpus_pb2


def upsert_request(posts: Iterable[Post]) -> corpus_pb2.UpsertPostsRequest:
    """Write posts, in columns.

    Raises:
        ValueError: An id is not an unsigned 64-bit integer, a time has no zone or lies before 1970,
            labels are not strings, or some posts have vectors and others have none or longer ones.
            The message names the field.
    """
    rows = tuple(posts)
    request = corpus_pb2.UpsertPostsRequest(
        post_ids=u64_column("post_ids", (row.post_id for row in rows)),
        author_ids=u64_column("author_ids", (row.author_id for row in rows)),
        created_at_unix_ms=_times(rows),
        vectors=_vectors(rows),
    )
    _write_labels(rows, request)
    return request


def upsert(posts: Iterable[Post]) -> Call[UpsertResult]:
    """Return the call that writes posts.

    Raises:
        ValueError: As by `upsert_request`.
    """
    return Call("UpsertPosts", upsert_request(posts), read_upserted)


def stream_upsert_request(posts: Iterable[Post]) -> corpus_pb2.StreamUpsertPostsRequest:
    """Write a batch of a stream.

    Raises:
        ValueError: As by `upsert_request`.
    """
    return corpus_pb2.StreamUpsertPostsRequest(change=upsert_request(posts))


def _times(rows: Sequence[Post]) -> list[int]:
    """Return when posts were created; an empty list if no post has a time."""
    if all(row.created_at is None for row in rows):
        return []
    return [_time(row, index) for index, row in enumerate(rows)]


def _time(row: Post, index: int) -> int:
    if row.created_at is None:
        return times.UNKNOWN
    try:
        return times.to_unix_ms(row.created_at)
    except ValueError as error:
        raise ValueError(f"posts[{index}].created_at: {error}") from error


def _vectors(rows: Sequence[Post]) -> array[float]:
    """Return the posts' vectors, one after the other; an empty array if no post has one."""
    return vectors_column(_named_vectors(rows))


def _named_vectors(rows: Sequence[Post]) -> Iterator[tuple[str, Sequence[float]]]:
    """Yield the name and the vector of each post; nothing if no post has one."""
    first = rows[0].vector if rows else None
    for index, row in enumerate(rows):
        at = f"posts[{index}].vector"
        if (row.vector is None) != (first is None):
            raise ValueError(f"{at}: all posts have vectors or none has, posts[0] is otherwise")
        if row.vector is not None:
            yield at, row.vector


def _write_labels(rows: Sequence[Post], request: corpus_pb2.UpsertPostsRequest) -> None:
    """Write the posts' labels; the columns stay empty if no post has any."""
    indices: dict[str, int] = {}
    for index, row in enumerate(rows):
        at = f"posts[{index}].labels"
        check_sequence(row.labels, at)
        for name in row.labels:
            if name not in indices:
                check_text(name, at)
            request.label_indices.append(indices.setdefault(name, len(indices)))
    if indices:
        request.label_names.extend(indices)
        request.label_counts.extend(len(row.labels) for row in rows)


read_upserted = partial(same_fields, UpsertResult)
"""Read the counts of a write, in one message or as a stream."""


def delete(post_ids: Iterable[int]) -> Call[DeleteResult]:
    """Return the call that deletes posts.

    Raises:
        ValueError: An id is not an unsigned 64-bit integer.
    """
    request = corpus_pb2.DeletePostsRequest(post_ids=u64_column("post_ids", post_ids))
    return Call("DeletePosts", request, partial(same_fields, DeleteResult))


def get_posts(post_ids: Iterable[int]) -> Call[FoundPosts]:
    """Return the call that looks posts up.

    Raises:
        ValueError: An id is not an unsigned 64-bit integer.
    """
    request = corpus_pb2.GetPostsRequest(post_ids=u64_column("post_ids", post_ids))
    return Call("GetPosts", request, partial(read_found_posts, num_posts=len(request.post_ids)))


def read_found_posts(reply: corpus_pb2.GetPostsResponse, num_posts: int) -> FoundPosts:
    """Read posts as the corpus holds them.

    Raises:
        MalformedReplyError: The reply contradicts itself, or is not about `num_posts` posts.
    """
    found, missing = len(reply.post_ids), len(reply.missing_post_ids)
    if found + missing != num_posts:
        raise MalformedReplyError(
            f"post_ids: has {found} entries and missing_post_ids {missing}, not {num_posts}"
        )
    posts = read_columns(Posts, reply)
    return FoundPosts(reply.sequence, posts, tuple(reply.missing_post_ids))


def read_corpus(reply: corpus_pb2.GetCorpusResponse) -> CorpusState:
    """Read the description of the corpus.

    Raises:
        MalformedReplyError: The time of the newest post is later than a datetime can hold.
    """
    check_times("newest_created_at_unix_ms", [reply.newest_created_at_unix_ms])
    return same_fields(
        CorpusState,
        reply,
        label_names=tuple(reply.label_names),
        newest_created_at=times.from_unix_ms(reply.newest_created_at_unix_ms),
    )


def read_created_snapshot(reply: corpus_pb2.CreateSnapshotResponse) -> Snapshot:
    """Read the newest snapshot.

    Raises:
        MalformedReplyError: It is missing, or does not say when it was written.
    """
    return _read_snapshot(reply.snapshot, "snapshot")


def read_snapshots(reply: corpus_pb2.ListSnapshotsResponse) -> tuple[Snapshot, ...]:
    """Read the list of snapshots.

    Raises:
        MalformedReplyError: One does not say when it was written.
    """
    return tuple(
        _read_snapshot(snapshot, f"snapshots[{index}]")
        for index, snapshot in enumerate(reply.snapshots)
    )


GET_CORPUS = Call("GetCorpus", corpus_pb2.GetCorpusRequest(), read_corpus)
CREATE_SNAPSHOT = Call("CreateSnapshot", corpus_pb2.CreateSnapshotRequest(), read_created_snapshot)
LIST_SNAPSHOTS = Call("ListSnapshots", corpus_pb2.ListSnapshotsRequest(), read_snapshots)


def _read_snapshot(snapshot: corpus_pb2.CorpusSnapshot, at: str) -> Snapshot:
    if not snapshot.HasField("created_at"):
        raise MalformedReplyError(f"{at}.created_at: is missing")
    try:
        created_at = snapshot.created_at.ToDatetime(tzinfo=UTC)
    except (OverflowError, ValueError) as error:
        raise MalformedReplyError(f"{at}.created_at: {error}") from error
    return same_fields(Snapshot, snapshot, created_at=created_at)
