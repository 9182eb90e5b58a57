"""Validate requests and turn them into numpy; every violation names its field.

Shapes:
    n  posts of a request        H  engagements of a history
"""

from collections.abc import Iterator, Sequence

import numpy as np

from phoenix_retrieval.v1.manifest_pb2 import ModelSizes
from phoenix_retrieval.v1.user_pb2 import User
from phoenix_server.bundle.features import UserColumns
from phoenix_server.corpus.changes import Ids
from phoenix_server.errors import InvalidRequestError, Violation
from phoenix_server.runtime.arrays import U32
from phoenix_server.service.columns import find_zeros, first_indices, raise_any, read_ids, to_u64


def read_user(user: User, model: ModelSizes, max_history: int, field: str = "user") -> UserColumns:
    """Return a user's columns, [H] each.

    Args:
        user: The message.
        model: Sizes of the model.
        max_history: Maximum number of engagements.
        field: Path of the user in the request.

    Raises:
        InvalidRequestError: A column is too long, columns differ in length, an id is 0, the model
            does not have an action or a surface, or the user has neither an id nor a history.
    """
    count = len(user.post_ids)
    raise_any(  # before the contents are read
        Violation(f"{field}.{name}", f"has {length} entries, at most {max_history} are accepted")
        for name in ("post_ids", "author_ids", "action_masks", "product_surfaces")
        if (length := len(getattr(user, name))) > max_history
    )
    columns = UserColumns(
        user_id=user.user_id,
        post_ids=to_u64(user.post_ids),
        author_ids=to_u64(user.author_ids),
        action_masks=to_u64(user.action_masks),
        product_surfaces=np.array(user.product_surfaces, np.uint32)
        if user.product_surfaces
        else np.zeros(count, np.uint32),
    )
    violations = [
        Violation(f"{field}.{name}", f"has {len(column)} entries, {field}.post_ids has {count}")
        for name, column in columns._asdict().items()
        if name not in ("user_id", "post_ids") and len(column) != count
    ]
    violations += find_zeros(f"{field}.post_ids", columns.post_ids)
    violations += find_zeros(f"{field}.author_ids", columns.author_ids)
    violations += _unknown_actions(f"{field}.action_masks", columns.action_masks, model.num_actions)
    violations += _unknown_surfaces(
        f"{field}.product_surfaces", columns.product_surfaces, model.product_surface_vocab_size
    )
    if not user.user_id and not count:
        violations.append(Violation(field, "has neither a user_id nor a history"))
    raise_any(violations)
    return columns


def read_top_k(top_k: int, limit: int) -> int:
    """Return `top_k`.

    Raises:
        InvalidRequestError: It is 0 or above the server's limit.
    """
    if not 1 <= top_k <= limit:
        raise InvalidRequestError([Violation("top_k", f"is {top_k}, must be from 1 to {limit}")])
    return top_k


def read_candidates(
    post_ids: Sequence[int], author_ids: Sequence[int], limit: int
) -> tuple[Ids, Ids]:
    """Return posts and their authors, [n] each.

    Raises:
        InvalidRequestError: There are none or too many, one is 0, or the columns differ in length.
    """
    posts = read_ids("post_ids", post_ids, limit)
    if len(author_ids) != len(posts):
        what = f"has {len(author_ids)} entries, post_ids has {len(posts)}"
        raise InvalidRequestError([Violation("author_ids", what)])
    return posts, read_ids("author_ids", author_ids, limit)


def read_distinct_ids(post_ids: Sequence[int], limit: int) -> Ids:
    """Return the posts of a request, [n], each of them once.

    Raises:
        InvalidRequestError: There are none or too many, one is 0, or one is repeated.
    """
    ids = read_ids("post_ids", post_ids, limit)
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    first = first[inverse]  # [n], index of the first occurrence of each
    raise_any(
        Violation(f"post_ids[{i}]", f"is {ids[i]}, as post_ids[{first[i]}]")
        for i in first_indices(first != np.arange(len(ids)))
    )
    return ids


def _unknown_actions(field: str, masks: Ids, num_actions: int) -> Iterator[Violation]:
    if num_actions == 64:
        return
    unknown = masks >> np.uint64(num_actions)
    if not unknown.any():
        return
    for i in first_indices(unknown != 0):
        bit = num_actions + int(unknown[i]).bit_length() - 1
        has = f"the model has actions 0 to {num_actions - 1}"
        yield Violation(f"{field}[{i}]", f"bit {bit} is set, {has}")


def _unknown_surfaces(field: str, surfaces: U32, vocab_size: int) -> Iterator[Violation]:
    for i in first_indices(surfaces >= vocab_size):
        has = f"the model has surfaces 0 to {vocab_size - 1}"
        yield Violation(f"{field}[{i}]", f"is {surfaces[i]}, {has}")
