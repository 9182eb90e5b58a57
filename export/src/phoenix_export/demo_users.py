"""Draw users of a demo, each of whom engaged with posts of one to three topics.

Shapes:
    N  posts        H  engagements of a user
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_MAX_TOPICS = 3
_FAVORITE, _REPLY, _DWELL = "1", "4", "11"
_ACTIONS = (
    {_FAVORITE: 1.0},
    {_FAVORITE: 1.0, _DWELL: 1.0},
    {_FAVORITE: 1.0, _REPLY: 1.0, _DWELL: 1.0},
    {_DWELL: 1.0},
)

Sequence = dict[str, object]
"""A user and their history, in the format of `example_sequence.json`."""


class Posts(NamedTuple):
    """Posts of a demo, oldest first.

    Attributes:
        post_ids: [N] u64, ascending.
        author_ids: [N] u64.
        topics: [N], the topic of each post.
    """

    post_ids: npt.NDArray[np.uint64]
    author_ids: npt.NDArray[np.uint64]
    topics: npt.NDArray[np.intp]


def draw_users(count: int, posts: Posts, longest: int, rng: np.random.Generator) -> list[Sequence]:
    """Draw users who engaged with posts of the corpus.

    Args:
        count: Number of users.
        posts: The corpus.
        longest: Maximum history length; lengths are uniform from 1 to it.
        rng: Random generator.
    """
    rows_of = [np.flatnonzero(posts.topics == topic) for topic in np.unique(posts.topics)]
    users: list[Sequence] = []
    for user_id in rng.integers(1 << 55, 1 << 61, count).tolist():
        liked = rng.choice(
            len(rows_of), rng.integers(1, min(_MAX_TOPICS, len(rows_of)) + 1), replace=False
        )
        rows = np.concatenate([rows_of[topic] for topic in liked])
        length = min(int(rng.integers(1, longest + 1)), len(rows))
        chosen = np.sort(rng.choice(rows, length, replace=False))
        kinds = rng.integers(0, len(_ACTIONS), length)
        ids = (posts.post_ids[chosen], posts.author_ids[chosen])
        users.append(user_sequence(user_id, *ids, kinds))
    return users


def user_sequence(
    user_id: int,
    post_ids: npt.NDArray[np.uint64],
    author_ids: npt.NDArray[np.uint64],
    kinds: npt.NDArray[np.intp],
) -> Sequence:
    """Return a user with a history, oldest first.

    Args:
        user_id: Id of the user.
        post_ids: [H] u64, the posts of the engagements.
        author_ids: [H] u64, the authors of these posts.
        kinds: [H], indices into `_ACTIONS`.
    """
    columns = zip(post_ids.tolist(), author_ids.tolist(), kinds.tolist(), strict=True)
    return {
        "user_id": user_id,
        "history": [
            {"post_id": post_id, "author_id": author_id, "actions": _ACTIONS[kind]}
            for post_id, author_id, kind in columns
        ],
    }
