"""The async client. What its methods take, return and raise is said at `PhoenixClient`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Iterable
from contextlib import aclosing
from pathlib import PurePath

from phoenix_client.errors import PhoenixClientError
from phoenix_client.transport.aio_connection import AsyncConnection
from phoenix_client.transport.defaults import DEFAULT_LOAD_TIMEOUT_S
from phoenix_client.types.corpus import CorpusState, Deleted, FoundPosts, Snapshot, Upserted
from phoenix_client.types.filters import Filter
from phoenix_client.types.generations import Generation
from phoenix_client.types.model import Model
from phoenix_client.types.posts import Post
from phoenix_client.types.queries import RetrieveQuery
from phoenix_client.types.results import (
    EncodedCandidates,
    EncodedUser,
    RetrieveResult,
    ScoreResult,
)
from phoenix_client.types.stats import ServingStats
from phoenix_client.types.users import User
from phoenix_client.wire import corpus_messages, generation_messages, messages
from phoenix_retrieval.v1 import corpus_service_pb2 as corpus_pb2
from phoenix_retrieval.v1 import model_service_pb2 as model_pb2


class AsyncPhoenixClient(AsyncConnection):
    """A connection to a retrieval server, for the event loop in which it is made.

    Every call ends within its time limit and raises a `PhoenixClientError` if it fails. Values that
    cannot be sent raise `ValueError` first. Cancelling a task that awaits a call cancels the call.
    Use it as an async context manager, or await `close`.
    """

    async def retrieve(
        self,
        user: User,
        *,
        top_k: int,
        with_author_ids: bool = False,
        with_labels: bool = False,
        with_created_at: bool = False,
        with_representation: bool = False,
        min_sequence: int = 0,
        filter: Filter | None = None,
        timeout_s: float | None = None,
    ) -> RetrieveResult:
        """Return the posts of highest score for a user: the exact top k."""
        query = RetrieveQuery(
            user=user,
            top_k=top_k,
            with_author_ids=with_author_ids,
            with_labels=with_labels,
            with_created_at=with_created_at,
            with_representation=with_representation,
            min_sequence=min_sequence,
            filter=filter,
        )
        request = messages.retrieve_request(query)
        reply = await self._call(self._retrieval.Retrieve, request, timeout_s)
        return messages.read_retrieve(reply)

    async def batch_retrieve(
        self, queries: Iterable[RetrieveQuery], *, timeout_s: float | None = None
    ) -> list[RetrieveResult | PhoenixClientError]:
        """Answer many queries at once; a query that failed has its exception for a result."""
        request = messages.batch_retrieve_request(queries)
        reply = await self._call(self._retrieval.BatchRetrieve, request, timeout_s)
        return messages.read_batch_retrieve(reply, len(request.requests))

    async def encode_user(self, user: User, *, timeout_s: float | None = None) -> EncodedUser:
        """Return a user's representation."""
        request = messages.encode_user_request(user)
        reply = await self._call(self._retrieval.EncodeUser, request, timeout_s)
        return messages.read_encode_user(reply)

    async def encode_candidates(
        self,
        post_ids: Iterable[int],
        author_ids: Iterable[int],
        *,
        timeout_s: float | None = None,
    ) -> EncodedCandidates:
        """Return the unit vectors of posts, in the corpus or not."""
        request = messages.encode_candidates_request(post_ids, author_ids)
        reply = await self._call(self._retrieval.EncodeCandidates, request, timeout_s)
        return messages.read_encode_candidates(reply, len(request.post_ids))

    async def score_posts(
        self, user: User, post_ids: Iterable[int], *, timeout_s: float | None = None
    ) -> ScoreResult:
        """Return exact scores and ranks of posts in the corpus."""
        request = messages.score_posts_request(user, post_ids)
        reply = await self._call(self._retrieval.ScorePosts, request, timeout_s)
        return messages.read_score_posts(reply, request.post_ids)

    async def get_model(self, *, timeout_s: float | None = None) -> Model:
        """Describe the model and the corpus that answer now."""
        reply = await self._call(self._model.GetModel, model_pb2.GetModelRequest(), timeout_s)
        return messages.read_model(reply)

    async def get_serving_stats(self, *, timeout_s: float | None = None) -> ServingStats:
        """Tell what waits for the device, and what has become of the calls so far."""
        request = model_pb2.GetServingStatsRequest()
        reply = await self._call(self._model.GetServingStats, request, timeout_s)
        return messages.read_serving_stats(reply)

    async def load_generation(
        self,
        bundle: str | PurePath | None = None,
        corpus: str | PurePath | None = None,
        *,
        activate: bool = False,
        timeout_s: float | None = DEFAULT_LOAD_TIMEOUT_S,
    ) -> Generation:
        """Have the server load a bundle, a corpus or both beside what answers."""
        request = generation_messages.load_request(bundle, corpus, activate)
        reply = await self._call(self._model.LoadGeneration, request, timeout_s)
        return generation_messages.read_generation(reply)

    async def activate_generation(
        self, number: int, *, timeout_s: float | None = None
    ) -> Generation:
        """Have a generation answer that is ready. What was changed before is in it."""
        request = generation_messages.activate_request(number)
        reply = await self._call(self._model.ActivateGeneration, request, timeout_s)
        return generation_messages.read_generation(reply)

    async def roll_back_generation(self, *, timeout_s: float | None = None) -> Generation:
        """Have the generation answer that did before."""
        request = model_pb2.RollbackGenerationRequest()
        reply = await self._call(self._model.RollbackGeneration, request, timeout_s)
        return generation_messages.read_generation(reply)

    async def list_generations(self, *, timeout_s: float | None = None) -> tuple[Generation, ...]:
        """List the generations that are loaded, being loaded or failed last, by number."""
        request = model_pb2.ListGenerationsRequest()
        reply = await self._call(self._model.ListGenerations, request, timeout_s)
        return generation_messages.read_generations(reply)

    async def upsert_posts(
        self, posts: Iterable[Post], *, timeout_s: float | None = None
    ) -> Upserted:
        """Write posts to the corpus: new ones, or others in place of those with the same ids."""
        request = corpus_messages.upsert_request(posts)
        reply = await self._call(self._corpus.UpsertPosts, request, timeout_s)
        return corpus_messages.read_upserted(reply)

    async def stream_upsert_posts(
        self,
        batches: Iterable[Iterable[Post]] | AsyncIterable[Iterable[Post]],
        *,
        timeout_s: float | None = None,
    ) -> Upserted:
        """Write many posts in one call.

        The batches may come from an async iterable; it is cancelled if the call ends before it.
        """
        async with aclosing(_upsert_requests(batches)) as requests:
            reply = await self._send(self._corpus.StreamUpsertPosts, requests, timeout_s)
        return corpus_messages.read_upserted(reply)

    async def delete_posts(
        self, post_ids: Iterable[int], *, timeout_s: float | None = None
    ) -> Deleted:
        """Delete posts from the corpus: all or none. Ids that it does not hold are ignored."""
        request = corpus_messages.delete_request(post_ids)
        reply = await self._call(self._corpus.DeletePosts, request, timeout_s)
        return corpus_messages.read_deleted(reply)

    async def get_posts(
        self, post_ids: Iterable[int], *, timeout_s: float | None = None
    ) -> FoundPosts:
        """Look up posts of the corpus."""
        request = corpus_messages.get_posts_request(post_ids)
        reply = await self._call(self._corpus.GetPosts, request, timeout_s)
        return corpus_messages.read_found_posts(reply, len(request.post_ids))

    async def get_corpus(self, *, timeout_s: float | None = None) -> CorpusState:
        """Describe the corpus as it is now."""
        reply = await self._call(self._corpus.GetCorpus, corpus_pb2.GetCorpusRequest(), timeout_s)
        return corpus_messages.read_corpus(reply)

    async def create_snapshot(self, *, timeout_s: float | None = None) -> Snapshot:
        """Write a snapshot of all changes so far, with which a restart would begin."""
        request = corpus_pb2.CreateSnapshotRequest()
        reply = await self._call(self._corpus.CreateSnapshot, request, timeout_s)
        return corpus_messages.read_created_snapshot(reply)

    async def list_snapshots(self, *, timeout_s: float | None = None) -> tuple[Snapshot, ...]:
        """List the snapshots there are, the oldest first."""
        request = corpus_pb2.ListSnapshotsRequest()
        reply = await self._call(self._corpus.ListSnapshots, request, timeout_s)
        return corpus_messages.read_snapshots(reply)


async def _upsert_requests(
    batches: Iterable[Iterable[Post]] | AsyncIterable[Iterable[Post]],
) -> AsyncGenerator[corpus_pb2.StreamUpsertPostsRequest, None]:
    if isinstance(batches, AsyncIterable):
        async for posts in batches:
            yield corpus_messages.stream_upsert_request(posts)
    else:
        for posts in batches:
            yield corpus_messages.stream_upsert_request(posts)
