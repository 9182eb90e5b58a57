"""Validate the queries of a search and turn them into numpy; every violation names its field.

Shapes:
    n  queries        D  width of a vector
"""

from collections.abc import Sequence

import numpy as np

from phoenix_retrieval.v1.retrieval_service_pb2 import SearchRequest
from phoenix_server.corpus.disk.snapshot import find_odd_vectors
from phoenix_server.corpus.post_rules import MAX_FAULTS
from phoenix_server.engine.query import EncodedUser, LikePost
from phoenix_server.errors import InvalidRequestError, Violation
from phoenix_server.runtime.arrays import F32
from phoenix_server.service.columns import raise_any, read_ids

EXCLUSIONS_SHARE = 16
"""A search may exclude so many times what a query may, all queries together."""


def read_queries(request: SearchRequest, limit: int, width: int) -> list[EncodedUser | LikePost]:
    """Return what to search by, [n].

    Args:
        request: The message.
        limit: Maximum n.
        width: D.

    Raises:
        InvalidRequestError: There are both vectors and posts, none or too many of them, the vectors
            are of another width, one is not finite or not of unit length, or an id is 0.
    """
    if request.vectors and request.post_ids:
        what = f"has {len(request.post_ids)} entries, vectors are given too"
        raise InvalidRequestError([Violation("post_ids", what)])
    if request.post_ids:
        post_ids = read_ids("post_ids", request.post_ids, limit)
        return [LikePost(post_id, request.include_query_posts) for post_id in post_ids.tolist()]
    return [EncodedUser(vector, 1.0) for vector in _read_vectors(request.vectors, limit, width)]


def check_exclusions(request: SearchRequest, queries: int, max_excluded: int) -> None:
    """Check what a search excludes: each query costs all exclusions, which the request holds once.

    Raises:
        InvalidRequestError: The product is more than `EXCLUSIONS_SHARE` times the limit of a query.
    """
    conditions = request.filter
    count = len(conditions.excluded_post_ids) + len(conditions.excluded_author_ids)
    limit = EXCLUSIONS_SHARE * max_excluded
    if queries * count > limit:
        what = (
            f"excludes {count} posts and authors for each of {queries} queries; the product must "
            f"not exceed {limit}"
        )
        raise InvalidRequestError([Violation("filter", what)])


def _read_vectors(floats: Sequence[float], limit: int, width: int) -> F32:
    """Return vectors, [n, D]."""
    if not 1 <= len(floats) <= limit * width or len(floats) % width:
        what = f"has {len(floats)} entries, must have {width} for each of 1 to {limit} vectors"
        raise InvalidRequestError([Violation("vectors", what)])
    vectors = np.array(floats, np.float32).reshape(-1, width)
    raise_any(
        Violation(f"vectors[{i * width}:{(i + 1) * width}]", f"vector {i} {what}")
        for i, what in find_odd_vectors(vectors)[:MAX_FAULTS]
    )
    return vectors
