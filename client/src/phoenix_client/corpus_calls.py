"""The calls of `CorpusService`, sync: to change the corpus and to look it up."""

from __future__ import annotations

from collections.abc import Iterable

from phoenix_client.transport.connection import Connection
from phoenix_client.types.corpus import (
    CorpusState,
    DeleteResult,
    FoundPosts,
    Snapshot,
    UpsertResult,
)
from phoenix_client.types.posts import Post
from phoenix_client.wire import corpus_messages


class CorpusCalls(Connection):
    """The methods of `PhoenixClient` that are about the corpus."""

    def upsert_posts(
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
        return self._call(corpus_messages.upsert(posts), timeout_s)

    def stream_upsert_posts(
        self, batches: Iterable[Iterable[Post]], *, timeout_s: float | None = None
    ) -> UpsertResult:
        """Write many posts in one call. Each batch is a change of its own, as by `upsert_posts`.

        The first batch that fails ends the call: batches before it stay written, none after it is.
        An exception that `batches` raises is raised by this call; the last batches before it may
        not be written.

        Args:
            batches: Iterated in this thread, as fast as the server accepts them. If the call ends
                early, this is noticed when the next batch comes.
            timeout_s: Time limit of the whole call.

        Returns:
            The number of the last change, 0 if there was no batch; and the counts of all batches.

        Raises:
            ValueError: As for `upsert_posts`.
            PhoenixClientError: As for `upsert_posts`.
        """
        requests = map(corpus_messages.stream_upsert_request, batches)
        reply = self._send("StreamUpsertPosts", requests, timeout_s)
        return corpus_messages.read_upserted(reply)

    def delete_posts(
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
        return self._call(corpus_messages.delete(post_ids), timeout_s)

    def get_posts(self, post_ids: Iterable[int], *, timeout_s: float | None = None) -> FoundPosts:
        """Look up from 1 post to the server's limit (`Model.max_candidates`) in the corpus."""
        return self._call(corpus_messages.get_posts(post_ids), timeout_s)

    def get_corpus(self, *, timeout_s: float | None = None) -> CorpusState:
        """Describe the current state of the corpus."""
        return self._call(corpus_messages.GET_CORPUS, timeout_s)

    def create_snapshot(self, *, timeout_s: float | None = None) -> Snapshot:
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
        return self._call(corpus_messages.CREATE_SNAPSHOT, timeout_s)

    def list_snapshots(self, *, timeout_s: float | None = None) -> tuple[Snapshot, ...]:
        """List the snapshots, oldest first. The corpus as it was built is one of them."""
        return self._call(corpus_messages.LIST_SNAPSHOTS, timeout_s)
