"""The sync client."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

from phoenix_client.errors import PhoenixClientError
from phoenix_client.transport.connection import Connection
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


class PhoenixClient(Connection):
    """A connection to a retrieval server. Threads may share it.

    Every call ends within its time limit and raises a `PhoenixClientError` if it fails. Values that
    cannot be sent raise `ValueError` first. Use it as a context manager, or call `close`.

    A call that finds no server at work (UNAVAILABLE) is made again, twice at most. To write or
    delete the same posts again changes nothing more, but the counts are those of the last time.
    Calls to load a generation and to roll back are made once: twice would do something else.
    """

    def retrieve(
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
        """Return the posts of highest score for a user: the exact top k.

        Args:
            user: The user.
            top_k: How many posts, from 1 to the server's limit (`Model.max_top_k`).
            with_author_ids: Return the posts' authors.
            with_labels: Return the posts' labels.
            with_created_at: Return when the posts were created.
            with_representation: Return the user's representation.
            min_sequence: Answer over a corpus that holds at least the change of this number
                (`Upserted.sequence`, `Deleted.sequence`); wait for it until the time limit.
            filter: What posts must be to be returned; None: any.
            timeout_s: Time limit of this call.

        Raises:
            InvalidArgumentError: The server does not take the query: its filter names a label that
                no post has ever had, for example.
            PhoenixClientError: The call failed in another way.
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
        return messages.read_retrieve(self._call(self._retrieval.Retrieve, request, timeout_s))

    def batch_retrieve(
        self, queries: Iterable[RetrieveQuery], *, timeout_s: float | None = None
    ) -> list[RetrieveResult | PhoenixClientError]:
        """Answer many queries at once.

        Returns:
            As many results as queries, in their order. A query that failed has its exception, not
            raised, for a result.

        Raises:
            PhoenixClientError: The call failed as a whole.
        """
        request = messages.batch_retrieve_request(queries)
        reply = self._call(self._retrieval.BatchRetrieve, request, timeout_s)
        return messages.read_batch_retrieve(reply, len(request.requests))

    def encode_user(self, user: User, *, timeout_s: float | None = None) -> EncodedUser:
        """Return a user's representation.

        Raises:
            PhoenixClientError: The call failed.
        """
        request = messages.encode_user_request(user)
        reply = self._call(self._retrieval.EncodeUser, request, timeout_s)
        return messages.read_encode_user(reply)

    def encode_candidates(
        self,
        post_ids: Iterable[int],
        author_ids: Iterable[int],
        *,
        timeout_s: float | None = None,
    ) -> EncodedCandidates:
        """Return the unit vectors of posts, in the corpus or not.

        Args:
            post_ids: The posts; never 0.
            author_ids: Their authors; never 0.
            timeout_s: Time limit of this call.

        Raises:
            PhoenixClientError: The call failed.
        """
        request = messages.encode_candidates_request(post_ids, author_ids)
        reply = self._call(self._retrieval.EncodeCandidates, request, timeout_s)
        return messages.read_encode_candidates(reply, len(request.post_ids))

    def score_posts(
        self, user: User, post_ids: Iterable[int], *, timeout_s: float | None = None
    ) -> ScoreResult:
        """Return exact scores and ranks of posts in the corpus.

        Raises:
            NotFoundError: The corpus does not hold all of them.
            PhoenixClientError: The call failed.
        """
        request = messages.score_posts_request(user, post_ids)
        reply = self._call(self._retrieval.ScorePosts, request, timeout_s)
        return messages.read_score_posts(reply, request.post_ids)

    def get_model(self, *, timeout_s: float | None = None) -> Model:
        """Describe the model and the corpus that answer now.

        Raises:
            PhoenixClientError: The call failed.
        """
        reply = self._call(self._model.GetModel, model_pb2.GetModelRequest(), timeout_s)
        return messages.read_model(reply)

    def get_serving_stats(self, *, timeout_s: float | None = None) -> ServingStats:
        """Tell what waits for the device, and what has become of the calls so far.

        Raises:
            PhoenixClientError: The call failed.
        """
        request = model_pb2.GetServingStatsRequest()
        reply = self._call(self._model.GetServingStats, request, timeout_s)
        return messages.read_serving_stats(reply)

    def load_generation(
        self,
        bundle: str | PurePath | None = None,
        corpus: str | PurePath | None = None,
        *,
        activate: bool = False,
        timeout_s: float | None = DEFAULT_LOAD_TIMEOUT_S,
    ) -> Generation:
        """Have the server load a bundle, a corpus or both beside what answers.

        It returns when they are ready. With a bundle alone, the vectors of the corpus are made
        anew. Whatever fails, the generation that answered goes on. The directories are of the
        server and go as they are given: a relative one is of the server's working directory.

        Args:
            bundle: Directory of a bundle. None: that of the generation that answers.
            corpus: Directory of a corpus. None: that of the generation that answers, with all
                changes.
            activate: Have it answer once it is ready.
            timeout_s: Time limit of this call; None: the client's.

        Raises:
            ValueError: Neither is given, or one is empty or no text.
            PermissionDeniedError: The server was not started to load from there (`--allow-load`).
            FailedPreconditionError: It cannot be used, fails its self-test, or another is being
                loaded.
            ResourceExhaustedError: It does not fit in memory.
            DeadlineExceededError: No answer came in time; the server goes on loading, and
                `list_generations` says what comes of it.
            PhoenixClientError: The call failed in another way.
        """
        request = generation_messages.load_request(bundle, corpus, activate)
        reply = self._call(self._model.LoadGeneration, request, timeout_s)
        return generation_messages.read_generation(reply)

    def activate_generation(self, number: int, *, timeout_s: float | None = None) -> Generation:
        """Have a generation answer that is ready. What was changed before is in it.

        Args:
            number: `Generation.number`.
            timeout_s: Time limit of this call. A generation that is far behind may take longer than
                the client's default.

        Raises:
            ValueError: `number` is no unsigned 32-bit integer.
            NotFoundError: No generation of this number is ready.
            FailedPreconditionError: It cannot be brought up to date, or another is being loaded.
            DeadlineExceededError: No answer came in time; it may be activated even so.
            PhoenixClientError: The call failed in another way.
        """
        request = generation_messages.activate_request(number)
        reply = self._call(self._model.ActivateGeneration, request, timeout_s)
        return generation_messages.read_generation(reply)

    def roll_back_generation(self, *, timeout_s: float | None = None) -> Generation:
        """Have the generation answer that did before; done twice, the first answers again.

        Args:
            timeout_s: Time limit of this call, as by `activate_generation`.

        Raises:
            FailedPreconditionError: There is none to go back to, or as by `activate_generation`.
            DeadlineExceededError: No answer came in time; it may be activated even so.
            PhoenixClientError: The call failed in another way.
        """
        request = model_pb2.RollbackGenerationRequest()
        reply = self._call(self._model.RollbackGeneration, request, timeout_s)
        return generation_messages.read_generation(reply)

    def list_generations(self, *, timeout_s: float | None = None) -> tuple[Generation, ...]:
        """List the generations that are loaded, being loaded or failed last, by number.

        Raises:
            PhoenixClientError: The call failed.
        """
        request = model_pb2.ListGenerationsRequest()
        reply = self._call(self._model.ListGenerations, request, timeout_s)
        return generation_messages.read_generations(reply)

    def upsert_posts(self, posts: Iterable[Post], *, timeout_s: float | None = None) -> Upserted:
        """Write posts to the corpus: new ones, or others in place of those with the same ids.

        All of them are written, or none; each id may come once. Every call that begins after the
        answer sees them.

        Args:
            posts: From 1 post to the server's limit (`Model.max_candidates`).
            timeout_s: Time limit of this call.

        Raises:
            ValueError: A post cannot be sent, or some posts have vectors and others have none.
            InvalidArgumentError: The server does not take a post as it is.
            FailedPreconditionError: The server serves its corpus read-only.
            ResourceExhaustedError: The corpus or the disk is full, or too many changes wait.
            DeadlineExceededError: No answer came in time; the posts may be written even so.
            PhoenixClientError: The call failed in another way.
        """
        request = corpus_messages.upsert_request(posts)
        return corpus_messages.read_upserted(
            self._call(self._corpus.UpsertPosts, request, timeout_s)
        )

    def stream_upsert_posts(
        self, batches: Iterable[Iterable[Post]], *, timeout_s: float | None = None
    ) -> Upserted:
        """Write many posts in one call. Every batch is a change of its own, as by `upsert_posts`.

        The first batch that fails ends the call; those before it stay written, none after it is. An
        exception that `batches` raises comes out of this call; the last batches before it may not
        be written.

        Args:
            batches: Iterated in this thread, as fast as the server takes them. An end of the call
                is noticed when the next batch comes.
            timeout_s: Time limit of the whole call.

        Returns:
            The number of the last change, 0 if there was no batch; and what all of them did.

        Raises:
            ValueError: As by `upsert_posts`.
            PhoenixClientError: As by `upsert_posts`.
        """
        requests = map(corpus_messages.stream_upsert_request, batches)
        reply = self._send(self._corpus.StreamUpsertPosts, requests, timeout_s)
        return corpus_messages.read_upserted(reply)

    def delete_posts(self, post_ids: Iterable[int], *, timeout_s: float | None = None) -> Deleted:
        """Delete posts from the corpus: all or none. Ids that it does not hold are ignored.

        Args:
            post_ids: From 1 post to the server's limit (`Model.max_candidates`), each once.
            timeout_s: Time limit of this call.

        Raises:
            FailedPreconditionError: The server serves its corpus read-only.
            DeadlineExceededError: No answer came in time; the posts may be deleted even so.
            PhoenixClientError: The call failed in another way.
        """
        request = corpus_messages.delete_request(post_ids)
        return corpus_messages.read_deleted(
            self._call(self._corpus.DeletePosts, request, timeout_s)
        )

    def get_posts(self, post_ids: Iterable[int], *, timeout_s: float | None = None) -> FoundPosts:
        """Look up posts of the corpus.

        Args:
            post_ids: From 1 post to the server's limit (`Model.max_candidates`).
            timeout_s: Time limit of this call.

        Raises:
            PhoenixClientError: The call failed.
        """
        request = corpus_messages.get_posts_request(post_ids)
        reply = self._call(self._corpus.GetPosts, request, timeout_s)
        return corpus_messages.read_found_posts(reply, len(request.post_ids))

    def get_corpus(self, *, timeout_s: float | None = None) -> CorpusState:
        """Describe the corpus as it is now.

        Raises:
            PhoenixClientError: The call failed.
        """
        reply = self._call(self._corpus.GetCorpus, corpus_pb2.GetCorpusRequest(), timeout_s)
        return corpus_messages.read_corpus(reply)

    def create_snapshot(self, *, timeout_s: float | None = None) -> Snapshot:
        """Write a snapshot of all changes so far, with which a restart of the server would begin.

        The server does so by itself from time to time.

        Args:
            timeout_s: Time limit of this call. A large corpus may take longer than the client's
                default.

        Returns:
            The snapshot, or the last one if nothing has changed since.

        Raises:
            FailedPreconditionError: The server serves its corpus read-only.
            ResourceExhaustedError: The disk is full.
            DeadlineExceededError: No answer came in time; the snapshot may be written even so.
            PhoenixClientError: The call failed in another way.
        """
        request = corpus_pb2.CreateSnapshotRequest()
        reply = self._call(self._corpus.CreateSnapshot, request, timeout_s)
        return corpus_messages.read_created_snapshot(reply)

    def list_snapshots(self, *, timeout_s: float | None = None) -> tuple[Snapshot, ...]:
        """List the snapshots there are, the oldest first; the corpus as it was built is one.

        Raises:
            PhoenixClientError: The call failed.
        """
        request = corpus_pb2.ListSnapshotsRequest()
        reply = self._call(self._corpus.ListSnapshots, request, timeout_s)
        return corpus_messages.read_snapshots(reply)
