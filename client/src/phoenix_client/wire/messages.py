"""Build requests and read replies of `RetrievalService` and `ModelService`.

The sync and the async client share these pure functions. `search_messages` has those of `Search`,
`corpus_messages` those of `CorpusService`, `generation_messages` those of generations.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from functools import partial
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import Message

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
from phoenix_client.wire.call import Call
from phoenix_client.wire.statuses import from_request_status
from phoenix_retrieval.v1 import corpus_service_pb2 as corpus_pb2
from phoenix_retrieval.v1 import model_service_pb2 as model_pb2
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb2
from phoenix_retrieval.v1 import user_pb2

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Value = TypeVar("_Value", bound="DataclassInstance")


def user_message(user: User) -> user_pb2.User:
    """Write a user."""
    return user_pb2.User(user_id=user.user_id, **vars(user.history))


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
    """Write a filter. Conditions that are None stay unset; 0 is a value."""
    conditions = dict(vars(filter))
    for name in ("created_since", "created_before"):
        moment: datetime | None = conditions.pop(name)
        conditions[f"{name}_unix_ms"] = None if moment is None else bound_to_unix_ms(moment)
    return retrieval_pb2.Filter(**conditions)


def retrieve(query: RetrieveQuery) -> Call[RetrieveResult]:
    """Return the call of one query."""
    return Call("Retrieve", retrieve_request(query), read_retrieve)


def batch_retrieve(
    queries: Iterable[RetrieveQuery],
) -> Call[list[RetrieveResult | PhoenixClientError]]:
    """Return the call of many queries."""
    requests = list(map(retrieve_request, queries))
    request = retrieval_pb2.BatchRetrieveRequest(requests=requests)
    return Call("BatchRetrieve", request, partial(read_batch_retrieve, num_queries=len(requests)))


def encode_user(user: User) -> Call[EncodedUser]:
    """Return the call for a user's representation."""
    request = retrieval_pb2.EncodeUserRequest(user=user_message(user))
    return Call("EncodeUser", request, read_encode_user)


def encode_candidates(
    post_ids: Iterable[int], author_ids: Iterable[int]
) -> Call[EncodedCandidates]:
    """Return the call for posts' vectors.

    Raises:
        ValueError: An id is not an unsigned 64-bit integer, or there are more or fewer authors than
            posts.
    """
    posts, authors = u64_column("post_ids", post_ids), u64_column("author_ids", author_ids)
    if len(posts) != len(authors):
        raise ValueError(f"author_ids: has {len(authors)} entries where post_ids has {len(posts)}")
    request = retrieval_pb2.EncodeCandidatesRequest(post_ids=posts, author_ids=authors)
    return Call("EncodeCandidates", request, partial(read_encode_candidates, num_posts=len(posts)))


def score_posts(user: User, post_ids: Iterable[int]) -> Call[ScoreResult]:
    """Return the call for scores and ranks.

    Raises:
        ValueError: An id is not an unsigned 64-bit integer.
    """
    posts = u64_column("post_ids", post_ids)
    request = retrieval_pb2.ScorePostsRequest(user=user_message(user), post_ids=posts)
    return Call("ScorePosts", request, partial(read_score_posts, post_ids=posts))


def read_retrieve(reply: retrieval_pb2.RetrieveResponse) -> RetrieveResult:
    """Read the top k.

    Raises:
        MalformedReplyError: The reply contradicts itself.
    """
    candidates = read_columns(Candidates, reply)
    representation = tuple(reply.user_representation) or None
    return same_fields(
        RetrieveResult, reply, candidates=candidates, user_representation=representation
    )


def read_columns(
    kind: type[_Value], reply: retrieval_pb2.RetrieveResponse | corpus_pb2.GetPostsResponse
) -> _Value:
    """Read posts whose columns the reply names alike.

    Raises:
        MalformedReplyError: The columns do not fit together, or a time is after the year 9999.
    """
    check_times("created_at_unix_ms", reply.created_at_unix_ms)
    names = {field.name for field in fields(kind)} - {"labels"}
    with malformed_reply():
        columns: dict[str, Any] = {name: tuple(getattr(reply, name)) for name in names}
        return kind(**columns, **{"labels": read_labels(reply)})


def check_times(name: str, times_unix_ms: Iterable[int]) -> None:
    """Check that times, in milliseconds since 1970, are not after the year 9999.

    Raises:
        MalformedReplyError: A time is later than a datetime can hold. The message starts with
            `name`.
    """
    if max(times_unix_ms, default=0) > LAST_UNIX_MS:
        raise MalformedReplyError(f"{name}: lies after the year 9999")


def read_labels(
    reply: retrieval_pb2.RetrieveResponse | corpus_pb2.GetPostsResponse,
) -> tuple[tuple[str, ...], ...]:
    """Read the labels of posts.

    Raises:
        ValueError: The columns do not fit together.
    """
    names, indices = reply.label_names, reply.label_indices
    ends = list(accumulate(reply.label_counts, initial=0))
    if ends[-1] != len(indices) or max(indices, default=-1) >= len(names):
        raise ValueError("label_indices: do not fit label_counts and label_names")
    flat = [names[index] for index in indices]
    return tuple(tuple(flat[start:end]) for start, end in pairwise(ends))


@contextmanager
def malformed_reply() -> Generator[None, None, None]:
    """Raise `MalformedReplyError` where the values of a reply do not fit together (ValueError)."""
    try:
        yield
    except ValueError as error:
        raise MalformedReplyError(str(error)) from error


def read_batch_retrieve(
    reply: retrieval_pb2.BatchRetrieveResponse | retrieval_pb2.SearchResponse, num_queries: int
) -> list[RetrieveResult | PhoenixClientError]:
    """Read the results of a batch or of a search.

    Returns:
        One per query, in order; an exception where a query failed.

    Raises:
        MalformedReplyError: There are not as many results as queries.
    """
    if len(reply.results) != num_queries:
        raise MalformedReplyError(f"results: has {len(reply.results)} entries, not {num_queries}")
    return [_read_batch_result(result) for result in reply.results]


def _read_batch_result(result: retrieval_pb2.RetrieveResult) -> RetrieveResult | PhoenixClientError:
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
    with malformed_reply():
        posts = ScoredPosts(tuple(post_ids), tuple(reply.scores), tuple(reply.ranks))
    return same_fields(ScoreResult, reply, posts=posts)


def read_model(reply: model_pb2.GetModelResponse) -> Model:
    """Read the description of the model and the corpus."""
    return same_fields(
        Model,
        *(reply, reply.bundle, reply.bundle.model),
        corpus_dtype=reply.corpus.dtype,
        label_names=tuple(reply.corpus.label_names),
        devices=tuple(reply.devices),
    )


def same_fields(kind: type[_Value], *messages: Message, **others: object) -> _Value:
    """Build a dataclass from `others`, and from the first message that names a field alike."""
    for message in messages:
        names = [field.name for field in fields(kind) if hasattr(message, field.name)]
        others = {name: getattr(message, name) for name in names} | others
    return kind(**others)


GET_MODEL = Call("GetModel", model_pb2.GetModelRequest(), read_model)
GET_SERVING_STATS = Call(
    "GetServingStats", model_pb2.GetServingStatsRequest(), partial(same_fields, ServingStats)
)
