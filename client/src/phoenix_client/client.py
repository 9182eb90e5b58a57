"""The sync client. The async one, in `aio`, has the same methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePath

from phoenix_client.corpus_calls import CorpusCalls
from phoenix_client.errors import PhoenixClientError
from phoenix_client.transport.defaults import DEFAULT_LOAD_TIMEOUT_S
from phoenix_client.types.filters import Filter
from phoenix_client.types.generations import Generation
from phoenix_client.types.model import Model
from phoenix_client.types.queries import RetrieveQuery, SearchQueries
from phoenix_client.types.results import EncodedCandidates, EncodedUser, RetrieveResult, ScoreResult
from phoenix_client.types.stats import ServingStats
from phoenix_client.types.users import User
from phoenix_client.wire import generation_messages, messages, search_messages


class PhoenixClient(CorpusCalls):
    """A connection to a retrieval server. Threads may share it.

    Use it as a context manager, or call `close`. Every method raises a `PhoenixClientError` if its
    call fails, and `ValueError`, before any call, for values that cannot be sent. Every call ends
    within `timeout_s`, its own or, if that is None, the client's.

    gRPC repeats a call that is UNAVAILABLE up to twice. Writing or deleting the same posts again
    changes nothing more, but the counts returned are those of the last attempt. Calls that load a
    generation or roll back are never repeated: twice would have another effect.
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
        """Return the posts with the highest scores for a user: the exact top k.

        Args:
            user: The user.
            top_k: Number of posts, from 1 to the server's limit (`Model.max_top_k`).
            with_author_ids: Return the posts' authors.
            with_labels: Return the posts' labels.
            with_created_at: Return when the posts were created.
            with_representation: Return the user's representation.
            min_sequence: Wait, within the time limit, until the corpus holds the change of this
                number (`UpsertResult.sequence`, `DeleteResult.sequence`).
            filter: Conditions that the posts must meet. None: all posts are eligible.
            timeout_s: Time limit of this call.

        Raises:
            InvalidArgumentError: The server rejects the query; for example, its filter names a
                label that the corpus does not know.
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
        return self._call(messages.retrieve(query), timeout_s)

    def batch_retrieve(
        self, queries: Iterable[RetrieveQuery], *, timeout_s: float | None = None
    ) -> list[RetrieveResult | PhoenixClientError]:
        """Answer many queries in one call.

        Returns:
            One result per query, in order. The result of a query that failed is its exception,
            which is not raised.
        """
        return self._call(messages.batch_retrieve(queries), timeout_s)

    def search(
        self,
        *,
        vectors: Iterable[Sequence[float]] | None = None,
        post_ids: Iterable[int] | None = None,
        include_query_posts: bool = False,
        top_k: int,
        with_author_ids: bool = False,
        with_labels: bool = False,
        with_created_at: bool = False,
        with_representation: bool = False,
        min_sequence: int = 0,
        filter: Filter | None = None,
        timeout_s: float | None = None,
    ) -> list[RetrieveResult | PhoenixClientError]:
        """Return the exact top k for vectors, or for posts: posts like this post.

        Give either `vectors` or `post_ids`; all else holds for each of these queries.

        Args:
            vectors: Unit vectors of `Model.embedding_size` floats each, for example
                `EncodedUser.user_representation`, or the rows of an array.
            post_ids: Posts of the corpus; their own vectors are the queries.
            include_query_posts: Let a post of `post_ids` be in its own result. By default it is
                not, and does not count in `rows_eligible`.
            top_k: Number of posts for each query, from 1 to the server's limit (`Model.max_top_k`).
            with_author_ids: Return the posts' authors.
            with_labels: Return the posts' labels.
            with_created_at: Return when the posts were created.
            with_representation: Return the queries' vectors, as `user_representation`.
            min_sequence: Wait, within the time limit, until the corpus holds the change of this
                number (`UpsertResult.sequence`, `DeleteResult.sequence`).
            filter: Conditions that the returned posts must meet. None: all posts are eligible.
            timeout_s: Time limit of this call.

        Returns:
            One result per query, in order. The result of a query that failed by itself, for example
            because the queue was full, is its exception, which is not raised.

        Raises:
            ValueError: Both or none of `vectors` and `post_ids` are given.
            InvalidArgumentError: The server rejects the request; for example, a vector is not of
                unit length.
            NotFoundError: The corpus does not hold all of `post_ids`.
        """
        queries = SearchQueries(
            vectors=vectors,
            post_ids=post_ids,
            include_query_posts=include_query_posts,
            top_k=top_k,
            with_author_ids=with_author_ids,
            with_labels=with_labels,
            with_created_at=with_created_at,
            with_representation=with_representation,
            min_sequence=min_sequence,
            filter=filter,
        )
        return self._call(search_messages.search(queries), timeout_s)

    def encode_user(self, user: User, *, timeout_s: float | None = None) -> EncodedUser:
        """Return a user's representation."""
        return self._call(messages.encode_user(user), timeout_s)

    def encode_candidates(
        self, post_ids: Iterable[int], author_ids: Iterable[int], *, timeout_s: float | None = None
    ) -> EncodedCandidates:
        """Return the unit vectors of posts, whether or not the corpus holds them.

        Args:
            post_ids: The posts; never 0.
            author_ids: Their authors, one per post; never 0.
            timeout_s: Time limit of this call.
        """
        return self._call(messages.encode_candidates(post_ids, author_ids), timeout_s)

    def score_posts(
        self, user: User, post_ids: Iterable[int], *, timeout_s: float | None = None
    ) -> ScoreResult:
        """Return exact scores and ranks of posts in the corpus.

        Raises:
            NotFoundError: The corpus does not hold all of them.
        """
        return self._call(messages.score_posts(user, post_ids), timeout_s)

    def get_model(self, *, timeout_s: float | None = None) -> Model:
        """Describe the active generation's model and corpus, and the server's limits."""
        return self._call(messages.GET_MODEL, timeout_s)

    def get_serving_stats(self, *, timeout_s: float | None = None) -> ServingStats:
        """Return the state of the request queue, and counts of how requests ended so far."""
        return self._call(messages.GET_SERVING_STATS, timeout_s)

    def load_generation(
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
        return self._call(generation_messages.load(bundle, corpus, activate), timeout_s)

    def activate_generation(self, number: int, *, timeout_s: float | None = None) -> Generation:
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
        return self._call(generation_messages.activate(number), timeout_s)

    def roll_back_generation(self, *, timeout_s: float | None = None) -> Generation:
        """Activate the rollback generation: the one that was active before.

        The generation that was active becomes the rollback generation, so a second call undoes the
        first. `timeout_s` is as for `activate_generation`.

        Raises:
            FailedPreconditionError: There is no rollback generation, or as for
                `activate_generation`.
            DeadlineExceededError: The time limit passed; the server may roll back even so.
        """
        return self._call(generation_messages.ROLL_BACK, timeout_s)

    def list_generations(self, *, timeout_s: float | None = None) -> tuple[Generation, ...]:
        """List the generations that are loaded, being loaded or failed last, by number."""
        return self._call(generation_messages.LIST_GENERATIONS, timeout_s)
