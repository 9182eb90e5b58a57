"""The async client. The sync one, in `client`, has the same methods."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

from phoenix_client.aio_corpus_calls import AsyncCorpusCalls
from phoenix_client.errors import PhoenixClientError
from phoenix_client.transport.defaults import DEFAULT_LOAD_TIMEOUT_S
from phoenix_client.types.filters import Filter
from phoenix_client.types.generations import Generation
from phoenix_client.types.model import Model
from phoenix_client.types.queries import RetrieveQuery
from phoenix_client.types.results import (
    EncodedCandidates,
    EncodedUser,
    RetrieveResult,
    ScoreResult,
)
from phoenix_client.types.stats import ServingStats
from phoenix_client.types.users import User
from phoenix_client.wire import generation_messages, messages
from phoenix_retrieval.v1 import model_service_pb2 as model_pb2


class AsyncPhoenixClient(AsyncCorpusCalls):
    """A connection to a retrieval server, for the event loop in which it is created.

    Use it as an async context manager, or await `close`. Every method raises a `PhoenixClientError`
    if its call fails, and `ValueError`, before any call, for values that cannot be sent. Every call
    ends within `timeout_s`, its own or, if that is None, the client's. Cancelling a task that
    awaits a call cancels the call.

    gRPC repeats a call that is UNAVAILABLE up to twice. Writing or deleting the same posts again
    changes nothing more, but the counts returned are those of the last attempt. Calls that load a
    generation or roll back are never repeated: twice would have another effect.
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
        """Return the posts with the highest scores for a user: the exact top k.

        Args:
            user: The user.
            top_k: Number of posts, from 1 to the server's limit (`Model.max_top_k`).
            with_author_ids: Return the posts' authors.
            with_labels: Return the posts' labels.
            with_created_at: Return when the posts were created.
            with_representation: Return the user's representation.
            min_sequence: Wait, within the time limit, until the corpus holds the change of this
                number (`Upserted.sequence`, `Deleted.sequence`).
            filter: Conditions that the posts must meet. None: all posts are eligible.
            timeout_s: Time limit of this call.

        Raises:
            InvalidArgumentError: The server rejects the query; for example, its filter names a
                label that no post has ever had.
        """
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
        """Answer many queries in one call.

        Returns:
            One result per query, in order. The result of a query that failed is its exception,
            which is not raised.
        """
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
        """Return the unit vectors of posts, whether or not the corpus holds them.

        Args:
            post_ids: The posts; never 0.
            author_ids: Their authors, one per post; never 0.
            timeout_s: Time limit of this call.
        """
        request = messages.encode_candidates_request(post_ids, author_ids)
        reply = await self._call(self._retrieval.EncodeCandidates, request, timeout_s)
        return messages.read_encode_candidates(reply, len(request.post_ids))

    async def score_posts(
        self, user: User, post_ids: Iterable[int], *, timeout_s: float | None = None
    ) -> ScoreResult:
        """Return exact scores and ranks of posts in the corpus.

        Raises:
            NotFoundError: The corpus does not hold all of them.
        """
        request = messages.score_posts_request(user, post_ids)
        reply = await self._call(self._retrieval.ScorePosts, request, timeout_s)
        return messages.read_score_posts(reply, request.post_ids)

    async def get_model(self, *, timeout_s: float | None = None) -> Model:
        """Describe the active generation's model and corpus, and the server's limits."""
        reply = await self._call(self._model.GetModel, model_pb2.GetModelRequest(), timeout_s)
        return messages.read_model(reply)

    async def get_serving_stats(self, *, timeout_s: float | None = None) -> ServingStats:
        """Return the state of the request queue, and counts of how requests ended so far."""
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
        """Load a bundle, a corpus or both beside the active generation, and wait until READY.

        With a bundle alone, the server re-encodes the vectors of the corpus. If loading fails, the
        active generation goes on serving. The directories are sent unchanged and name the server's;
        a relative one is relative to its working directory.

        Args:
            bundle: Directory of a bundle. None: the active generation's.
            corpus: Directory of a corpus. None: the active generation's, with all changes.
            activate: Activate the generation once it is READY.
            timeout_s: Time limit of this call; None: the client's.

        Raises:
            ValueError: Neither directory is given, or one is empty or not valid text.
            PermissionDeniedError: The server may not load from there (`--allow-load`).
            FailedPreconditionError: It cannot be used, its self-test fails, or another generation
                is being loaded.
            ResourceExhaustedError: It does not fit in memory.
            DeadlineExceededError: The time limit passed. The server goes on loading;
                `list_generations` shows the outcome.
        """
        request = generation_messages.load_request(bundle, corpus, activate)
        reply = await self._call(self._model.LoadGeneration, request, timeout_s)
        return generation_messages.read_generation(reply)

    async def activate_generation(
        self, number: int, *, timeout_s: float | None = None
    ) -> Generation:
        """Activate a READY generation. It includes every change acknowledged before.

        Args:
            number: `Generation.number`.
            timeout_s: Time limit of this call. A generation with many changes to replay may need
                more than the client's default.

        Raises:
            ValueError: `number` is not an unsigned 32-bit integer.
            NotFoundError: No generation of this number is READY.
            FailedPreconditionError: Replaying the changes fails, or another generation is being
                loaded.
            DeadlineExceededError: The time limit passed; the server may activate it even so.
        """
        request = generation_messages.activate_request(number)
        reply = await self._call(self._model.ActivateGeneration, request, timeout_s)
        return generation_messages.read_generation(reply)

    async def roll_back_generation(self, *, timeout_s: float | None = None) -> Generation:
        """Activate the rollback generation: the one that was active before.

        The generation that was active becomes the rollback generation, so a second call undoes the
        first. `timeout_s` is as for `activate_generation`.

        Raises:
            FailedPreconditionError: There is no rollback generation, or as for
                `activate_generation`.
            DeadlineExceededError: The time limit passed; the server may roll back even so.
        """
        request = model_pb2.RollbackGenerationRequest()
        reply = await self._call(self._model.RollbackGeneration, request, timeout_s)
        return generation_messages.read_generation(reply)

    async def list_generations(self, *, timeout_s: float | None = None) -> tuple[Generation, ...]:
        """List the generations that are loaded, being loaded or failed last, by number."""
        request = model_pb2.ListGenerationsRequest()
        reply = await self._call(self._model.ListGenerations, request, timeout_s)
        return generation_messages.read_generations(reply)
