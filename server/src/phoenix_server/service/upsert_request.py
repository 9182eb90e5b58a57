"""Validate posts to write and turn them into numpy; every violation names its field.

Shapes:
    n  posts of a request        D  width of a vector        L  distinct labels of a request
"""

from collections.abc import Iterator, Sequence

import numpy as np

from phoenix_retrieval.v1.corpus_service_pb2 import UpsertPostsRequest
from phoenix_server.corpus.changes import Labels, Posts
from phoenix_server.corpus.disk.snapshot import find_odd_vectors
from phoenix_server.corpus.snowflake import carried_times
from phoenix_server.errors import Violation
from phoenix_server.runtime.arrays import I64, U64
from phoenix_server.service.columns import (
    MAX_PER_COLUMN,
    find_zeros,
    first_indices,
    raise_any,
    to_u64,
)
from phoenix_server.service.requests import read_distinct_ids

_DAY_MS = 24 * 60 * 60 * 1000


def read_posts(request: UpsertPostsRequest, *, limit: int, width: int, now_ms: int) -> Posts:
    """Return posts to write; without vectors in the request, theirs are empty.

    Args:
        request: The message.
        limit: Maximum number of posts.
        width: D.
        now_ms: The current time, in milliseconds since 1970 UTC.

    Raises:
        InvalidRequestError: There are none or too many posts, one is repeated, columns differ in
            length, an id is 0, a time is more than a day from now, labels are inconsistent, or a
            vector is not finite or not of unit length.
    """
    post_ids = read_distinct_ids(request.post_ids, limit)
    count = len(post_ids)
    author_ids = to_u64(request.author_ids)
    created_at = to_u64(request.created_at_unix_ms)
    counts = np.array(request.label_counts, np.int64)
    indices = np.array(request.label_indices, np.int64)
    vectors = np.array(request.vectors, np.float32)
    violations: list[Violation] = []
    lengths = {"author_ids": len(author_ids), "created_at_unix_ms": len(created_at)}
    for field, length in (lengths | {"label_counts": len(counts)}).items():
        if length != count and (length or field == "author_ids"):  # the others may be empty
            violations.append(Violation(field, f"has {length} entries, post_ids has {count}"))
    violations += find_zeros("author_ids", author_ids)
    violations += _late_times(created_at, now_ms + _DAY_MS)
    violations += _inconsistent_labels(request.label_names, counts, indices)
    if len(vectors) not in (0, count * width):
        what = f"has {len(vectors)} entries, must have none or {width} for each of {count} posts"
        violations.append(Violation("vectors", what))
    elif len(vectors):
        vectors = vectors.reshape(count, width)
        violations += [
            Violation(f"vectors[{i * width}:{(i + 1) * width}]", what)
            for i, what in find_odd_vectors(vectors)[:MAX_PER_COLUMN]
        ]
    raise_any(violations)
    labels = Labels.none(count)
    if len(counts):
        names = tuple(request.label_names)
        labels = Labels(names, counts.astype(np.int32), indices.astype(np.int32))
    times = created_at.astype(np.int64) if len(created_at) else carried_times(post_ids)
    return Posts(
        post_ids=post_ids,
        author_ids=author_ids,
        created_at_unix_ms=times,
        labels=labels,
        vectors=vectors,
    )


def _late_times(times: U64, latest_ms: int) -> Iterator[Violation]:
    for i in first_indices(times > latest_ms):
        what = f"is {times[i]}, more than a day from now; it is in milliseconds since 1970"
        yield Violation(f"created_at_unix_ms[{i}]", what)


def _inconsistent_labels(names: Sequence[str], counts: I64, indices: I64) -> Iterator[Violation]:
    """Check label names [L], their counts by post [n], and their indices [sum of counts]."""
    for i, name in enumerate(names):
        if not name:
            yield Violation(f"label_names[{i}]", "is empty")
    if len(set(names)) != len(names):
        yield Violation("label_names", "has a name twice")
    if counts.sum() != len(indices):
        what = f"has {len(indices)} entries, label_counts says {counts.sum()}"
        yield Violation("label_indices", what)
        return
    for i in first_indices(indices >= len(names)):
        what = f"is {indices[i]}, label_names has {len(names)} entries"
        yield Violation(f"label_indices[{i}]", what)
    posts = np.repeat(np.arange(len(counts)), counts)
    if len(np.unique(posts * len(names) + indices)) != len(indices):
        yield Violation("label_indices", "gives a post the same label twice")
