"""A batch of queries on its way: prepared on the host, launched on the device, answered.

Shapes:
    B  users of the search's batch        K  results of the search
    n  users of a chunk                   D  width of a representation
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np

from phoenix_server.bundle.buckets import plan_users
from phoenix_server.bundle.features import FeatureBuilder, HostArrays, UserColumns
from phoenix_server.bundle.towers import EncodedUsers
from phoenix_server.corpus.memory.index import CorpusIndex, Exclusions
from phoenix_server.engine.filters import Filter
from phoenix_server.engine.query import Answer, EncodedUser, LikePost, Query
from phoenix_server.runtime.arrays import F32, I32
from phoenix_server.search.sharded import TopK


class HostUsers(NamedTuple):
    """The users of a batch that came encoded; zeros at the places of the others.

    Attributes:
        representations: [B, D] f32.
        norms: [B] f32.
    """

    representations: F32
    norms: F32


class PreparedBatch(NamedTuple):
    """A batch on the host, ready for the device.

    Attributes:
        queries: The queries.
        encoded: Its users that came encoded.
        chunks: For each run of the user tower its inputs, and [n] i32, the places of its users in
            the batch; places from B on are padding. Empty if all users came encoded.
        filters: The conditions of each query.
        excluded: The posts that each query may not find, as of the time of their look-up.
    """

    queries: tuple[Query, ...]
    encoded: HostUsers
    chunks: tuple[tuple[HostArrays, I32], ...]
    filters: Sequence[Filter | None]
    excluded: Sequence[Exclusions | None]

    @property
    def batch_size(self) -> int:
        """B."""
        return len(self.encoded.norms)

    @property
    def is_in_place(self) -> bool:
        """Whether one run of the user tower returns the batch, each user at their place."""
        if len(self.chunks) != 1 or len(self.chunks[0][1]) != self.batch_size:
            return False
        count = len(self.queries)
        return np.array_equal(self.chunks[0][1][:count], np.arange(count))


class LaunchedBatch(NamedTuple):
    """A batch on the device, perhaps still running.

    Attributes:
        queries: The queries.
        users: The users, encoded now or before.
        found: The results of the search; None if no query wants posts.
        missing: The places of queries whose post the corpus does not hold.
    """

    queries: tuple[Query, ...]
    users: EncodedUsers
    found: TopK | None
    missing: frozenset[int] = frozenset()


def place_encoded(queries: Sequence[Query], batch_size: int, width: int) -> HostUsers:
    """Write the users that came encoded to their places in a batch of B users, D wide.

    The vectors of posts follow at the launch; their length is 1.
    """
    users = HostUsers(np.zeros((batch_size, width), np.float32), np.zeros(batch_size, np.float32))
    for place, query in enumerate(queries):
        if isinstance(query.user, EncodedUser):
            users.representations[place], users.norms[place] = query.user
        elif isinstance(query.user, LikePost):
            users.norms[place] = 1
    return users


def plan_chunks(
    queries: Sequence[Query],
    batch_size: int,
    features: FeatureBuilder,
    sizes: Collection[tuple[int, int]],
    lanes: int,
) -> tuple[tuple[HostArrays, I32], ...]:
    """Return the runs of the user tower for the users with columns, as `PreparedBatch.chunks`.

    Args:
        queries: Those of the batch.
        batch_size: B.
        features: Builds the tower's inputs.
        sizes: The users and engagements that the tower is compiled for.
        lanes: How many runs of the tower go on at once.
    """
    users = [(i, q.user) for i, q in enumerate(queries) if isinstance(q.user, UserColumns)]
    lengths = [min(len(user.post_ids), features.history_length) for _, user in users]
    chunks: list[tuple[HostArrays, I32]] = []
    for members, size, length in plan_users(lengths, sizes, lanes):
        chunk = [users[member] for member in members]
        places = np.full(size, batch_size, np.int32)
        places[: len(chunk)] = [place for place, _ in chunk]
        chunks.append((features.users([user for _, user in chunk], size, length), places))
    return tuple(chunks)


def collect_answers(launched: LaunchedBatch, corpus: CorpusIndex) -> list[Answer]:
    """Wait for a batch, and return its answers in the order of its queries.

    The corpus must not have changed since the launch: rows are looked up in it.
    """
    representations, norms = map(np.asarray, launched.users)
    if launched.found is None:
        scores = np.empty((len(norms), 0), np.float32)
        rows, eligible = np.empty(scores.shape, np.int32), np.zeros(1, np.int32)
    else:
        most = max(query.top_k for query in launched.queries)
        scores, rows, eligible = map(np.asarray, launched.found[:3])
        scores, rows = scores[:, :most], rows[:, :most]
    post_ids, author_ids = corpus.post_ids[rows], corpus.author_ids[rows]
    created_at = corpus.created_at_unix_ms[rows]
    answers: list[Answer] = []
    for i, query in enumerate(launched.queries):
        finds = query.top_k and i not in launched.missing
        count_eligible = int(eligible[i % len(eligible)]) if finds else 0
        count = min(query.top_k, count_eligible)
        if query.filter is not None and query.filter.min_score is not None:
            count = int(np.count_nonzero(scores[i, :count] >= query.filter.min_score))
        best = i, slice(count)
        # Copies: a view would keep the arrays of the whole batch alive as long as one answer.
        answers.append(
            Answer(
                post_ids=post_ids[best].copy(),
                scores=scores[best].copy(),
                author_ids=author_ids[best].copy(),
                created_at_unix_ms=created_at[best].copy(),
                labels=corpus.labels.at(rows[best]) if query.labels else None,
                eligible=count_eligible,
                scanned=len(corpus),
                sequence=corpus.sequence,
                representation=representations[i].copy(),
                norm=float(norms[i]),
                missing=i in launched.missing,
            )
        )
    return answers
