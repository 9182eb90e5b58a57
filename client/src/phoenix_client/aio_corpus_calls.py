"""The calls of `CorpusService`, async: to change the corpus and to look it up."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing

from phoenix_client.transport.aio_connection import AsyncConnection
from phoenix_client.types.corpus import (
    CorpusState,
    DeleteResult,
    FoundPosts,
    Snapshot,
    UpsertResult,
)
from phoenix_client.types.posts import Post
from phoenix_client.wire import corpus_messages
from phoenix_retrieval.v1 import corpus_service_pb2 as corpus_pb2


class AsyncCorpusCalls(AsyncConnection):
    """The methods of `AsyncPhoenixClient` that are about the corpus."""

    async def upsert_posts(
        self, posts: Iterable[Post], *, timeout_s: float | None = None
    ) -> UpsertResult:
        """Insert posts into the corpus, and replace those with the same ids: all posts or none.

        Every call that begins after the reply sees them.

        Args:
            posts: From 1 post to the server's limit (`Model.max_candidates`), each id once.
            timeout_s: Time limit of this call.

        Raises:
            ValueError: A post cannot be sent, or some posts have vectors and others have none.
            InvalidArgumentError: The server rejects a post.
            FailedPreconditionError: The server's corpus is read-only.
            ResourceExhaustedError: The corpus or the disk is full, or too many changes are pending.
            DeadlineExceededError: The time limit passed; the posts may be written even so.
        """
        return await self._call(corpus_messages.upsert(posts), timeout_s)

    async def stream_upsert_posts(
        self,
        batches: Iterable[Iterable[Post]] | AsyncIterable[Iterable[Post]],
        *,
        timeout_s: float | None = None,
    ) -> UpsertResult:
        """Write many posts in one call. Each batch is a change of its own, as by `upsert_posts`.

        The first batch that fails ends the call: batches before it stay written, none after it is.
        An exception that `batches` raises is raised by this call; the last batches before it may
        not be written.

        Args:
            batches: Iterated as fast as the server accepts them. An async iterable is cancelled if
                the call ends early; with another one, this is noticed when the next batch comes.
            timeout_s: Time limit of the whole call.

        Returns:
            The number of the last change, 0 if there was no batch; and the counts of all batches.

        Raises:
            ValueError: As for `upsert_posts`.
            PhoenixClientError: As for `upsert_posts`.
        """
        async with aclosing(_upsert_requests(batches)) as requests:
            reply = await self._send("StreamUpsertPosts", requests, timeout_s)
        return corpus_messages.read_upserted(reply)

    async def delete_posts(
        self, post_ids: Iterable[int], *, timeout_s: float | None = None
    ) -> DeleteResult:
        """Delete posts from the corpus: all or none. Ids that it does not hold are ignored.

        Args:
            post_ids: From 1 post to the server's limit (`Model.max_candidates`), each id once.
            timeout_s: Time limit of this call.

        Raises:
            FailedPreconditionError: The server's corpus is read-only.
            DeadlineExceededError: The time limit passed; the posts may be deleted even so.
        """
        return await self._call(corpus_messages.delete(post_ids), timeout_s)

    async def get_posts(
        self, post_ids: Iterable[int], *, timeout_s: float | None = None
    ) -> FoundPosts:
        """Look up from 1 post to the server's limit (`Model.max_candidates`) in the corpus."""
        return await self._call(corpus_messages.get_posts(post_ids), timeout_s)

    async def get_corpus(self, *, timeout_s: float | None = None) -> CorpusState:
        """Describe the current state of the corpus."""
        return await self._call(corpus_messages.GET_CORPUS, timeout_s)

    async def create_snapshot(self, *, timeout_s: float | None = None) -> Snapshot:
        """Write a snapshot of all changes so far, from which a restart of the server begins.

        The server also writes snapshots by itself from time to time. A large corpus may need more
        than the client's default time limit.

        Returns:
            The snapshot, or the last one if nothing has changed since.

        Raises:
            FailedPreconditionError: The server's corpus is read-only.
            ResourceExhaustedError: The disk is full.
            DeadlineExceededError: The time limit passed; the snapshot may be written even so.
        """
        return await self._call(corpus_messages.CREATE_SNAPSHOT, timeout_s)

    async def list_snapshots(self, *, timeout_s: float | None = None) -> tuple[Snapshot, ...]:
        """List the snapshots, oldest first. The corpus as it was built is one of them."""
        return await self._call(corpus_messages.LIST_SNAPSHOTS, timeout_s)


async def _upsert_requests(
    batches: Iterable[Iterable[Post]] | AsyncIterable[Iterable[Post]],
) -> AsyncGenerator[corpus_pb2.StreamUpsertPostsRequest, None]:
    if isinstance(batches, AsyncIterable):
        async for posts in batches:
            yield corpus_messages.stream_upsert_request(posts)
    else:
        for posts in batches:
            yield corpus_messages.stream_upsert_request(posts)
