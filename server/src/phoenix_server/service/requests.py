"""Requests to numpy, checked: every fault names its field.

Shapes:
    n  engagements of a history, or posts of a request
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from phoenix_retrieval.v1.corpus_service_pb2 import UpsertPostsRequest
from phoenix_retrieval.v1.manifest_pb2 import ModelSizes
from phoenix_retrieval.v1.retrieval_service_pb2 import Filter as FilterMessage
from phoenix_retrieval.v1.user_pb2 import User
from phoenix_server.bundle.features import UserColumns
from phoenix_server.corpus.changes import Labels, Posts
from phoenix_server.corpus.disk.snapshot import odd_vectors
from phoenix_server.corpus.snowflake import carried_times
from phoenix_server.engine.filters import Filter
from phoenix_server.errors import InvalidRequestError, Violation
from phoenix_server.search.eligibility import MAX_LABELS_PER_KIND

_MOST_PER_COLUMN = 4  # faults that are listed; the first few tell the story
_DAY_MS = 24 * 60 * 60 * 1000

Ids = npt.NDArray[np.uint64]


def read_user(user: User, model: ModelSizes, field: str = "user") -> UserColumns:
    """Return a user's columns.

    Args:
        user: As it came.
        model: The sizes that it must fit.
        field: The user's path in the request.

    Raises:
        InvalidRequestError: Columns of unequal length, an id 0, an action or a surface that the
            model does not have, or a user with neither id nor history.
    """
    count = len(user.post_ids)
    columns = UserColumns(
        user_id=user.user_id,
        post_ids=_u64(user.post_ids),
        author_ids=_u64(user.author_ids),
        action_masks=_u64(user.action_masks),
        product_surfaces=(
            np.array(user.product_surfaces, np.uint32)
            if user.product_surfaces
            else np.zeros(count, np.uint32)
        ),
    )
    violations = [
        Violation(f"{field}.{name}", f"has {len(column)} entries, {field}.post_ids has {count}")
        for name, column in columns._asdict().items()
        if name not in ("user_id", "post_ids") and len(column) != count
    ]
    violations += _zeros(f"{field}.post_ids", columns.post_ids)
    violations += _zeros(f"{field}.author_ids", columns.author_ids)
    violations += _unknown_actions(f"{field}.action_masks", columns.action_masks, model.num_actions)
    violations += _unknown_surfaces(
        f"{field}.product_surfaces", columns.product_surfaces, model.product_surface_vocab_size
    )
    if not user.user_id and not count:
        violations.append(Violation(field, "has neither a user_id nor a history"))
    if violations:
        raise InvalidRequestError(violations)
    return columns


def read_top_k(top_k: int, limit: int) -> int:
    """Return `top_k`.

    Raises:
        InvalidRequestError: It is 0 or above the server's limit.
    """
    if not 1 <= top_k <= limit:
        raise InvalidRequestError([Violation("top_k", f"is {top_k}, must be from 1 to {limit}")])
    return top_k


def read_post_ids(post_ids: Sequence[int], limit: int) -> Ids:
    """Return posts of a request, [n].

    Raises:
        InvalidRequestError: There are none or too many, or one is 0.
    """
    return _checked("post_ids", post_ids, limit)


def read_candidates(
    post_ids: Sequence[int], author_ids: Sequence[int], limit: int
) -> tuple[Ids, Ids]:
    """Return posts and their authors, [n] each.

    Raises:
        InvalidRequestError: There are none or too many, one is 0, or the columns differ in length.
    """
    posts = _checked("post_ids", post_ids, limit)
    if len(author_ids) != len(posts):
        raise InvalidRequestError(
            [Violation("author_ids", f"has {len(author_ids)} entries, post_ids has {len(posts)}")]
        )
    return posts, _checked("author_ids", author_ids, limit)


def read_distinct_ids(post_ids: Sequence[int], limit: int) -> Ids:
    """Return posts of a request, [n], each once.

    Raises:
        InvalidRequestError: There are none or too many, one is 0, or one comes twice.
    """
    ids = _checked("post_ids", post_ids, limit)
    if violations := list(_repeated("post_ids", ids)):
        raise InvalidRequestError(violations)
    return ids


def read_posts(request: UpsertPostsRequest, *, limit: int, width: int, now_ms: int) -> Posts:
    """Return posts to write; their vectors are empty if the candidate tower is to make them.

    Args:
        request: As it came.
        limit: Most posts.
        width: D.
        now_ms: The time, in milliseconds since 1970 UTC.

    Raises:
        InvalidRequestError: There are none or too many posts, one comes twice, a column does not
            fit the others, an id is 0, a time is in the future, a label is odd, or a vector is not
            finite or not of unit length.
    """
    post_ids = read_distinct_ids(request.post_ids, limit)
    count = len(post_ids)
    author_ids = _u64(request.author_ids)
    created_at = _u64(request.created_at_unix_ms)
    counts = np.array(request.label_counts, np.int64)
    indices = np.array(request.label_indices, np.int64)
    vectors = np.array(request.vectors, np.float32)
    violations: list[Violation] = []
    for field, column, may_be_empty in (
        ("author_ids", author_ids, False),
        ("created_at_unix_ms", created_at, True),
        ("label_counts", counts, True),
    ):
        if len(column) != count and (len(column) or not may_be_empty):
            what = f"has {len(column)} entries, post_ids has {count}"
            violations.append(Violation(field, what))
    violations += _zeros("author_ids", author_ids)
    violations += _too_late("created_at_unix_ms", created_at, now_ms + _DAY_MS)
    violations += _odd_labels(request.label_names, counts, indices)
    if len(vectors) not in (0, count * width):
        what = f"has {len(vectors)} entries, must have none or {width} for each of {count} posts"
        violations.append(Violation("vectors", what))
    elif len(vectors):
        vectors = vectors.reshape(count, width)
        violations += _odd_vectors("vectors", vectors)
    if violations:
        raise InvalidRequestError(violations)
    return Posts(
        post_ids=post_ids,
        author_ids=author_ids,
        created_at_unix_ms=(
            created_at.astype(np.int64) if len(created_at) else carried_times(post_ids)
        ),
        labels=(
            Labels(tuple(request.label_names), counts.astype(np.int32), indices.astype(np.int32))
            if len(counts)
            else Labels.none(count)
        ),
        vectors=vectors,
    )


def read_filter(message: FilterMessage, limit: int, known: Callable[[str], bool]) -> Filter:
    """Return what posts must be.

    Args:
        message: As it came.
        limit: Most exclusions.
        known: Whether the corpus knows a label.

    Raises:
        InvalidRequestError: A label is unknown, there are too many labels or exclusions, an id is
            0, or the least score is not a number.
    """
    violations: list[Violation] = []
    labels: list[tuple[str, ...]] = []
    for field in ("any_labels", "all_labels", "none_labels"):
        names = tuple(dict.fromkeys(getattr(message, field)))
        labels.append(names)
        if len(names) > MAX_LABELS_PER_KIND:
            what = f"has {len(names)} labels, at most {MAX_LABELS_PER_KIND} are taken"
            violations.append(Violation(f"filter.{field}", what))
        unknown = [name for name in names if not known(name)]
        violations += [
            Violation(f"filter.{field}", f"no post has ever had the label {name!r}")
            for name in unknown[:_MOST_PER_COLUMN]
        ]
    posts, authors = _u64(message.excluded_post_ids), _u64(message.excluded_author_ids)
    if len(posts) + len(authors) > limit:
        what = f"{len(posts) + len(authors)} posts and authors, at most {limit} can be excluded"
        violations.append(Violation("filter.excluded_post_ids", what))
    violations += _zeros("filter.excluded_post_ids", posts)
    violations += _zeros("filter.excluded_author_ids", authors)
    if math.isnan(message.min_score):
        violations.append(Violation("filter.min_score", "is not a number"))
    if violations:
        raise InvalidRequestError(violations)
    timed = ("created_since_unix_ms", "created_before_unix_ms")
    since, before = (getattr(message, f) if message.HasField(f) else None for f in timed)
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


def read_batch_size(size: int, limit: int) -> None:
    """Check how many requests a batch has.

    Raises:
        InvalidRequestError: None, or too many.
    """
    if not 1 <= size <= limit:
        what = f"has {size} entries, must have from 1 to {limit}"
        raise InvalidRequestError([Violation("requests", what)])


def _checked(field: str, ids: Sequence[int], limit: int) -> Ids:
    if not 1 <= len(ids) <= limit:
        what = f"has {len(ids)} entries, must have from 1 to {limit}"
        raise InvalidRequestError([Violation(field, what)])
    column = _u64(ids)
    if violations := list(_zeros(field, column)):
        raise InvalidRequestError(violations)
    return column


def _u64(ids: Sequence[int]) -> Ids:
    return np.array(ids, np.uint64)  # 2.5 us for 127 of a message; `fromiter` takes 5.8


def _zeros(field: str, ids: Ids) -> Iterator[Violation]:
    if ids.all():
        return
    for i in np.flatnonzero(ids == 0)[:_MOST_PER_COLUMN]:
        yield Violation(f"{field}[{i}]", "is 0, which is no id")


def _repeated(field: str, ids: Ids) -> Iterator[Violation]:
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[inverse] != np.arange(len(ids)))
    for i in again[:_MOST_PER_COLUMN]:
        yield Violation(f"{field}[{i}]", f"is {ids[i]}, as {field}[{first[inverse[i]]}]")


def _too_late(field: str, times: npt.NDArray[np.uint64], latest_ms: int) -> Iterator[Violation]:
    for i in np.flatnonzero(times > latest_ms)[:_MOST_PER_COLUMN]:
        what = f"is {times[i]}, more than a day from now; it is in milliseconds since 1970"
        yield Violation(f"{field}[{i}]", what)


def _odd_labels(
    names: Sequence[str], counts: npt.NDArray[np.int64], indices: npt.NDArray[np.int64]
) -> Iterator[Violation]:
    for i, name in enumerate(names):
        if not name:
            yield Violation(f"label_names[{i}]", "is empty")
    if len(set(names)) != len(names):
        yield Violation("label_names", "has a name twice")
    if counts.sum() != len(indices):
        what = f"has {len(indices)} entries, label_counts says {counts.sum()}"
        yield Violation("label_indices", what)
        return
    for i in np.flatnonzero(indices >= len(names))[:_MOST_PER_COLUMN]:
        what = f"is {indices[i]}, label_names has {len(names)} entries"
        yield Violation(f"label_indices[{i}]", what)
    posts = np.repeat(np.arange(len(counts)), counts)
    if len(np.unique(posts * len(names) + indices)) != len(indices):
        yield Violation("label_indices", "gives a post the same label twice")


def _odd_vectors(field: str, vectors: npt.NDArray[np.float32]) -> Iterator[Violation]:
    width = vectors.shape[1]
    squares = np.einsum("nd,nd->n", vectors, vectors)
    for i in odd_vectors(squares)[:_MOST_PER_COLUMN]:
        here = f"{field}[{i * width}:{(i + 1) * width}]"
        if np.isfinite(squares[i]):
            yield Violation(here, f"has length {float(squares[i]) ** 0.5:.6g}, not 1")
        else:
            yield Violation(here, "is not finite")


def _unknown_actions(field: str, masks: Ids, num_actions: int) -> Iterator[Violation]:
    if num_actions == 64:
        return
    unknown = masks >> np.uint64(num_actions)
    if not unknown.any():
        return
    for i in np.flatnonzero(unknown)[:_MOST_PER_COLUMN]:
        bit = num_actions + int(unknown[i]).bit_length() - 1
        has = f"the model has actions 0 to {num_actions - 1}"
        yield Violation(f"{field}[{i}]", f"bit {bit} is set, {has}")


def _unknown_surfaces(
    field: str, surfaces: npt.NDArray[np.uint32], vocab_size: int
) -> Iterator[Violation]:
    for i in np.flatnonzero(surfaces >= vocab_size)[:_MOST_PER_COLUMN]:
        has = f"the model has surfaces 0 to {vocab_size - 1}"
        yield Violation(f"{field}[{i}]", f"is {surfaces[i]}, {has}")
