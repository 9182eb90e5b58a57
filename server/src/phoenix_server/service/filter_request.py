"""Validate a filter; every violation names its field."""

import math
from collections.abc import Callable

from phoenix_retrieval.v1.retrieval_service_pb2 import Filter as FilterMessage
from phoenix_server.corpus.post_rules import MAX_FAULTS
from phoenix_server.engine.filters import Filter
from phoenix_server.errors import Violation
from phoenix_server.search.eligibility import MAX_LABELS_PER_KIND
from phoenix_server.service.columns import find_zeros, raise_any, to_u64


def read_filter(message: FilterMessage, limit: int, known: Callable[[str], bool]) -> Filter:
    """Return the conditions that results must satisfy.

    Args:
        message: The message.
        limit: Maximum number of excluded posts and authors.
        known: Whether the corpus knows a label.

    Raises:
        InvalidRequestError: A label is unknown, there are too many labels or exclusions, an id is
            0, or the minimum score is not a number.
    """
    violations: list[Violation] = []
    labels: list[tuple[str, ...]] = []
    for field in ("any_labels", "all_labels", "none_labels"):
        if (count := len(getattr(message, field))) > MAX_LABELS_PER_KIND:
            what = f"has {count} labels, at most {MAX_LABELS_PER_KIND} are accepted"
            violations.append(Violation(f"filter.{field}", what))
            continue
        names = tuple(dict.fromkeys(getattr(message, field)))
        labels.append(names)
        unknown = [name for name in names if not known(name)]
        violations += [
            Violation(f"filter.{field}", f"the corpus does not know the label {name!r}")
            for name in unknown[:MAX_FAULTS]
        ]
    excluded = len(message.excluded_post_ids) + len(message.excluded_author_ids)
    if excluded > limit:
        what = f"{excluded} posts and authors, at most {limit} can be excluded"
        violations.append(Violation("filter.excluded_post_ids", what))
    raise_any(violations)  # before the ids are looked at
    posts, authors = to_u64(message.excluded_post_ids), to_u64(message.excluded_author_ids)
    violations += find_zeros("filter.excluded_post_ids", posts)
    violations += find_zeros("filter.excluded_author_ids", authors)
    if math.isnan(message.min_score):
        violations.append(Violation("filter.min_score", "is not a number"))
    raise_any(violations)
    times = ("created_since_unix_ms", "created_before_unix_ms")
    since, before = (getattr(message, f) if message.HasField(f) else None for f in times)
    return Filter(
        since_unix_ms=since,
        before_unix_ms=before,
        any_labels=labels[0],
        all_labels=labels[1],
        none_labels=labels[2],
        excluded_post_ids=posts,
        excluded_author_ids=authors,
        min_score=message.min_score if message.HasField("min_score") else None,
    )
