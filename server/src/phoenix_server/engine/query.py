"""Queries and their answers, as numpy arrays on the host.

Shapes:
    K  results of an answer        D  width of a representation
    n  posts of a ranking
"""

import math
from typing import NamedTuple

from phoenix_server.bundle.features import UserColumns
from phoenix_server.corpus.changes import Labels
from phoenix_server.engine.filters import Filter
from phoenix_server.runtime.arrays import F32, I64, U64


class EncodedUser(NamedTuple):
    """A user as the user tower encodes them.

    Attributes:
        representation: [D] f32, a unit vector.
        norm: The length of the vector before normalisation.
    """

    representation: F32
    norm: float


class LikePost(NamedTuple):
    """A post of the corpus in place of a user: its vector is the query.

    The vector is the one that the corpus holds when the query is launched.

    Attributes:
        post_id: The post.
        itself: Whether the post itself may be found.
    """

    post_id: int
    itself: bool = False


class Query(NamedTuple):
    """A user, and how many posts to retrieve; with `top_k` 0 the user is only encoded.

    Attributes:
        user: The user. One that is encoded costs no tower; the vector is of the engine's tower. A
            post may stand in place of a user.
        top_k: The number of posts wanted.
        labels: Whether the answer holds the labels of its posts.
        filter: The conditions that posts must meet. None: there are none.
    """

    user: UserColumns | EncodedUser | LikePost
    top_k: int
    labels: bool = False
    filter: Filter | None = None

    @property
    def conditions(self) -> Filter | None:
        """All conditions that posts must meet: `filter`, and not to be the post of the query."""
        if not isinstance(self.user, LikePost) or self.user.itself:
            return self.filter
        return (self.filter or Filter()).without_post(self.user.post_id)


class Answer(NamedTuple):
    """The exact top k of one user.

    Attributes:
        post_ids: [K] u64, best first. K = min(top_k, eligible), or less with a `min_score`.
        scores: [K] f32.
        author_ids: [K] u64.
        created_at_unix_ms: [K] i64, milliseconds since 1970 UTC; 0 where unknown.
        labels: Of the posts, if the query asked for them.
        eligible: The number of posts that could have been returned.
        scanned: The number of posts in the corpus.
        sequence: The number of the last change of the corpus that was seen.
        representation: [D] f32, the user's unit vector.
        norm: The length of the user's vector before normalisation.
        missing: Whether the corpus did not hold the post of a `LikePost`; then nothing is found.
    """

    post_ids: U64
    scores: F32
    author_ids: U64
    created_at_unix_ms: I64
    labels: Labels | None
    eligible: int
    scanned: int
    sequence: int
    representation: F32
    norm: float
    missing: bool = False

    @property
    def has_direction(self) -> bool:
        """Whether the user tower returned a vector that can be normalised."""
        return math.isfinite(self.norm) and self.norm > 0


class Ranking(NamedTuple):
    """Scores of posts, and their ranks among all posts.

    Attributes:
        scores: [n] f32.
        ranks: [n] i64, from 1.
        scanned: The number of posts in the corpus.
        sequence: The number of the last change of the corpus that was seen.
    """

    scores: F32
    ranks: I64
    scanned: int
    sequence: int
