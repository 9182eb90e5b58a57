"""Validate posts to write and turn them into numpy; every violation names its field.

Shapes:
    n  posts of a request        D  width of a vector        L  distinct labels of a request
"""

from collections.abc import Iterator, Sequence

import numpy as np

from phoenix_retrieval.v1.corpus_service_pb2 import UpsertPostsRequest
from phoenix_server.corpus.changes import Labels, Posts
from phoenix_server.corpus.disk.snapshot import find_odd_vectors
from phoenix_server.corpus.post_rules import (
    MAX_FAULTS,
    carried_times,
    find_bad_labels,
    find_bad_times,
)
from phoenix_server.errors import Violation
from phoenix_server.runtime.arrays import I64
from phoenix_server.service.columns import (
    find_zeros,
    first_indices,
    name_faults,
    raise_any,
    to_u64,
)
from phoenix_server.service.requests import read_distinct_ids


def read_posts(
    request: UpsertPostsRequest, *, limit: int, max_labels: int, width: int, now_ms: int
) -> Posts:
    """Return posts to write; without vectors in the request, theirs are empty.

    Args:
        request: The message.
        limit: Maximum number of posts.
        max_labels: Maximum number of distinct labels.
        width: D.
        now_ms: The current time, in milliseconds since 1970 UTC.

    Raises:
        InvalidRequestError: There are none or too many posts, one is repeated, columns differ in
            length, `post_rules` refuse an id, a time or a label, labels are inconsistent, or a
            vector is not finite or not of unit length.
    """
    post_ids = read_distinct_ids(request.post_ids, limit)
    count = len(post_ids)
    raise_any(_wrong_lengths(request, count, max_labels, width))  # before the contents are read
    author_ids = to_u64(request.author_ids)
    created_at = to_u64(request.created_at_unix_ms)
    counts = np.array(request.label_counts, np.int64)
    indices = np.array(request.label_indices, np.int64)
    vectors = np.array(request.vectors, np.float32)
    violations = list(find_zeros("author_ids", author_ids))
    violations += name_faults("created_at_unix_ms", find_bad_times(created_at, now_ms))
    violations += name_faults("label_names", find_bad_labels(request.label_names))
    violations += _inconsistent_labels(request.label_names, counts, indices)
    if len(vectors):
        vectors = vectors.reshape(count, width)
        violations += [
            Violation(f"vectors[{i * width}:{(i + 1) * width}]", what)
            for i, what in find_odd_vectors(vectors)[:MAX_FAULTS]
        ]
    raise_any(violations)
    labels = Labels.none(count)
    if len(counts):
        names = tuple(request.label_names)
        labels = Labels(names, counts.astype(np.int32), indices.astype(np.int32)).without_unused()
    times = created_at.astype(np.int64) if len(created_at) else carried_times(post_ids, now_ms)
    return Posts(
        post_ids=post_ids,
        author_ids=author_ids,
        created_at_unix_ms=times,
        labels=labels,
        vectors=vectors,
    )


def _wrong_lengths(
    request: UpsertPostsRequest, count: int, max_labels: int, width: int
) -> Iterator[Violation]:
    for field in ("author_ids", "created_at_unix_ms", "label_counts"):
        length = len(getattr(request, field))
        if length != count and (length or field == "author_ids"):  # the others may be empty
            yield Violation(field, f"has {length} entries, post_ids has {count}")
    if (length := len(request.label_names)) > max_labels:
        yield Violation(
            "label_names", f"has {length} entries, the corpus has room for {max_labels}"
        )
    if (length := len(request.label_indices)) > (most := count * max_labels):
        yield Violation("label_indices", f"has {length} entries, must have at most {most}")
    if (length := len(request.vectors)) not in (0, count * width):
        what = f"has {length} entries, must have none or {width} for each of {count} posts"
        yield Violation("vectors", what)


def _inconsistent_labels(names: Sequence[str], counts: I64, indices: I64) -> Iterator[Violation]:
    """Check label names [L], their counts by post [n], and their indices [sum of counts]."""
    if len(set(names)) != len(names):
        yield Violation("label_names", "has a name twice")
    if counts.sum() != len(indices):
        what = f"has {len(indices)} entries, label_counts says {counts.sum()}"
        yield Violation("label_indices", what)
        return
    for i in first_indices(indices >= len(names)):
        what = f"is {indices[i]}, label_names has {len(names)} entries"
        yield Violation(f"label_indices[{i}]", what)
