"""Build requests of `Search` and read its replies, for the sync and the async client."""

from __future__ import annotations

from functools import partial

from phoenix_client.errors import PhoenixClientError
from phoenix_client.types.columns import u64_column, vectors_column
from phoenix_client.types.queries import SearchQueries
from phoenix_client.types.results import RetrieveResult
from phoenix_client.wire.call import Call
from phoenix_client.wire.messages import filter_message, read_batch_retrieve
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb2


def search(queries: SearchQueries) -> Call[list[RetrieveResult | PhoenixClientError]]:
    """Return the call that searches.

    Raises:
        ValueError: A vector is empty, not of the width of the first, or does not hold floats, or an
            id is not an unsigned 64-bit integer. The message starts with the field.
    """
    vectors = [] if queries.vectors is None else list(queries.vectors)
    post_ids = () if queries.post_ids is None else u64_column("post_ids", queries.post_ids)
    request = retrieval_pb2.SearchRequest(
        vectors=vectors_column((f"vectors[{i}]", vector) for i, vector in enumerate(vectors)),
        post_ids=post_ids,
        include_query_posts=queries.include_query_posts,
        top_k=queries.top_k,
        return_user_representation=queries.with_representation,
        return_author_ids=queries.with_author_ids,
        return_labels=queries.with_labels,
        return_created_at=queries.with_created_at,
        min_sequence=queries.min_sequence,
        filter=None if queries.filter is None else filter_message(queries.filter),
    )
    num_queries = len(vectors) + len(post_ids)
    return Call("Search", request, partial(read_batch_retrieve, num_queries=num_queries))
