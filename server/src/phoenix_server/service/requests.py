"""Requests to numpy, checked: every fault names its field.

Shapes:
    n  engagements of a history, or posts of a request
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from phoenix_retrieval.v1.manifest_pb2 import ModelSizes
from phoenix_retrieval.v1.user_pb2 import User
from phoenix_server.errors import InvalidRequestError, Violation
from phoenix_server.features import UserColumns

_MOST_PER_COLUMN = 4  # faults that are listed; the first few tell the story

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
