"""Builds requests and reads replies: all that the sync and the async client have in common.

`corpus_messages` does it for `CorpusService`, `generation_messages` for generations.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from itertools import accumulate, pairwise

from phoenix_client.errors import MalformedReplyError, PhoenixClientError
from phoenix_client.types.columns import u64_column
from phoenix_client.types.filters import Filter
from phoenix_client.types.model import Model
from phoenix_client.types.queries import RetrieveQuery
from phoenix_client.types.results import (
    Candidates,
    EncodedCandidates,
    EncodedUser,
    RetrieveResult,
    ScoredPosts,
    ScoreResult,
)
from phoenix_client.types.stats import ServingStats
from phoenix_client.types.times import LAST_UNIX_MS, bound_to_unix_ms
from phoenix_client.types.users import User
from phoenix_client.wire.statuses import from_request_status
from phoenix_retrieval.v1 import model_service_pb2 as model_pb2
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb2
from phoenix_retrieval.v1 import user_pb2


def user_message(user: User) -> user_pb2.User:
    """Write a user."""
    return user_pb2.User(
        user_id=user.user_id,
        post_ids=user.history.post_ids,
        author_ids=user.history.author_ids,
        action_masks=user.history.action_masks,
        product_surfaces=user.history.product_surfaces,
    )


def retrieve_request(query: RetrieveQuery) -> retrieval_pb2.RetrieveRequest:
    """Write a query."""
    return retrieval_pb2.RetrieveRequest(
        user=user_message(query.user),
        top_k=query.top_k,
        return_user_representation=query.with_representation,
        return_author_ids=query.with_author_ids,
        return_labels=query.with_labels,
        return_created_at=query.with_created_at,
        min_sequence=query.min_sequence,
        filter=None if query.filter is None else filter_message(query.filter),
    )


def filter_message(filter: Filter) -> retrieval_pb2.Filter:
    """Write conditions. Those that are None stay unset; 0 is a value."""
    return retrieval_pb2.Filter(
        created_since_unix_ms=_bound(filter.created_since),
        created_before_unix_ms=_bound(filter.created_before),
        any_labels=filter.any_labels,
        all_labels=filter.all_labels,
        none_labels=filter.none_labels,
        excluded_post_ids=filter.excluded_post_ids,
        excluded_author_ids=filter.excluded_author_ids,
        min_score=filter.min_score,
    )


def _bound(moment: datetime | None) -> int | None:
    return None if moment is None else bound_to_unix_ms(moment)


def batch_retrieve_request(queries: Iterable[RetrieveQuery]) -> retrieval_pb2.BatchRetrieveRequest:
    """Write many queries."""
    return retrieval_pb2.BatchRetrieveRequest(requests=map(retrieve_request, queries))


def encode_user_request(user: User) -> retrieval_pb2.EncodeUserRequest:
    """Write a request for a user's representation."""
    return retrieval_pb2.EncodeUserRequest(user=user_message(user))


def encode_candidates_request(
    post_ids: Iterable[int], author_ids: Iterable[int]
) -> retrieval_pb2.EncodeCandidatesRequest:
    """Write a request for posts' vectors.

    Raises:
        ValueError: An id is no unsigned 64-bit integer, or there are not as many authors as posts.
    """
    posts, authors = u64_column("post_ids", post_ids), u64_column("author_ids", author_ids)
    if len(posts) != len(authors):
        raise ValueError(f"author_ids: has {len(authors)} entries where post_ids has {len(posts)}")
    return retrieval_pb2.EncodeCandidatesRequest(post_ids=posts, author_ids=authors)


def score_posts_request(user: User, post_ids: Iterable[int]) -> retrieval_pb2.ScorePostsRequest:
    """Write a request for scores and ranks.

    Raises:
        ValueError: An id is no unsigned 64-bit integer.
    """
    return retrieval_pb2.ScorePostsRequest(
        user=user_message(user), post_ids=u64_column("post_ids", post_ids)
    )


def read_retrieve(reply: retrieval_pb2.RetrieveResponse) -> RetrieveResult:
    """Read the top k.

    Raises:
        MalformedReplyError: The reply contradicts itself.
    """
    check_times("created_at_unix_ms", reply.created_at_unix_ms)
    try:
        candidates = Candidates(
            post_ids=tuple(reply.post_ids),
            scores=tuple(reply.scores),
            author_ids=tuple(reply.author_ids),
            created_at_unix_ms=tuple(reply.created_at_unix_ms),
            labels=read_labels(reply.label_names, reply.label_counts, reply.label_indices),
        )
    except ValueError as error:
        raise MalformedReplyError(str(error)) from error
    return RetrieveResult(
        generation=reply.generation,
        rows_scanned=reply.rows_scanned,
        rows_eligible=reply.rows_eligible,
        candidates=candidates,
        user_representation=tuple(reply.user_representation) or None,
        sequence=reply.sequence,
    )


def check_times(name: str, times_unix_ms: Iterable[int]) -> None:
    """Check that times, in milliseconds since 1970, fit a datetime.

    Raises:
        MalformedReplyError: One does not. The message starts with `name`.
    """
    if max(times_unix_ms, default=0) > LAST_UNIX_MS:
        raise MalformedReplyError(f"{name}: lies after the year 9999")


def read_labels(
    names: Sequence[str], counts: Sequence[int], indices: Sequence[int]
) -> tuple[tuple[str, ...], ...]:
    """Read the labels of posts, as all replies write them.

    Raises:
        ValueError: The columns do not fit together.
    """
    ends = list(accumulate(counts, initial=0))
    if ends[-1] != len(indices) or max(indices, default=-1) >= len(names):
        raise ValueError("label_indices: do not fit label_counts and label_names")
    flat = [names[index] for index in indices]
    return tuple(tuple(flat[start:end]) for start, end in pairwise(ends))


def read_batch_retrieve(
    reply: retrieval_pb2.BatchRetrieveResponse, num_queries: int
) -> list[RetrieveResult | PhoenixClientError]:
    """Read the results of a batch: one a query, in order, an exception where a query failed.

    Raises:
        MalformedReplyError: There are not as many results as queries.
    """
    if len(reply.results) != num_queries:
        raise MalformedReplyError(f"results: has {len(reply.results)} entries, not {num_queries}")
    return [_read_batch_result(result) for result in reply.results]


def _read_batch_result(
    result: retrieval_pb2.RetrieveResult,
) -> RetrieveResult | PhoenixClientError:
    if result.status.code != 0:
        return from_request_status(result.status)
    try:
        return read_retrieve(result.response)
    except MalformedReplyError as error:
        return error


def read_encode_user(reply: retrieval_pb2.EncodeUserResponse) -> EncodedUser:
    """Read a user's representation."""
    return EncodedUser(reply.generation, tuple(reply.user_representation), reply.user_norm)


def read_encode_candidates(
    reply: retrieval_pb2.EncodeCandidatesResponse, num_posts: int
) -> EncodedCandidates:
    """Read posts' vectors.

    Raises:
        MalformedReplyError: There are not as many vectors as posts.
    """
    floats = reply.candidate_representations
    if reply.embedding_size == 0 or len(floats) != num_posts * reply.embedding_size:
        raise MalformedReplyError(
            f"candidate_representations: has {len(floats)} floats,"
            f" not {num_posts} vectors of {reply.embedding_size}"
        )
    values = memoryview(array("f", floats)).toreadonly()
    return EncodedCandidates(reply.generation, reply.embedding_size, values)


def read_score_posts(
    reply: retrieval_pb2.ScorePostsResponse, post_ids: Iterable[int]
) -> ScoreResult:
    """Read scores and ranks.

    Raises:
        MalformedReplyError: There are not as many of them as posts.
    """
    try:
        posts = ScoredPosts(tuple(post_ids), tuple(reply.scores), tuple(reply.ranks))
    except ValueError as error:
        raise MalformedReplyError(str(error)) from error
    return ScoreResult(
        generation=reply.generation,
        rows_scanned=reply.rows_scanned,
        rows_eligible=reply.rows_eligible,
        posts=posts,
        sequence=reply.sequence,
    )


def read_model(reply: model_pb2.GetModelResponse) -> Model:
    """Read the description of the model and the corpus."""
    return Model(
        generation=reply.generation,
        tower_fingerprint=reply.bundle.tower_fingerprint,
        embedding_size=reply.bundle.model.embedding_size,
        history_length=reply.bundle.model.history_length,
        num_actions=reply.bundle.model.num_actions,
        product_surface_vocab_size=reply.bundle.model.product_surface_vocab_size,
        compute_dtype=reply.bundle.compute_dtype,
        corpus_rows=reply.corpus_rows,
        corpus_dtype=reply.corpus.dtype,
        label_names=tuple(reply.corpus.label_names),
        shards=reply.shards,
        devices=tuple(reply.devices),
        max_top_k=reply.max_top_k,
        max_batch_users=reply.max_batch_users,
        max_candidates=reply.max_candidates,
        max_request_bytes=reply.max_request_bytes,
        max_excluded=reply.max_excluded,
        server_version=reply.server_version,
    )


def read_serving_stats(reply: model_pb2.GetServingStatsResponse) -> ServingStats:
    """Read the queue's state and counts."""
    # The message and the class name their fields alike.
    return ServingStats(
        **{field.name: getattr(reply, field.name) for field in fields(ServingStats)}
    )
