"""A batch of queries on its way: prepared on the host, launched on the device, answered.

Shapes:
    B  users of the search's batch        K  results of the search
    n  users of a chunk
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from phoenix_server.bundle.features import HostArrays
from phoenix_server.bundle.towers import EncodedUsers
from phoenix_server.corpus.memory.index import CorpusIndex, Exclusions
from phoenix_server.engine.query import Answer, Query
from phoenix_server.runtime.arrays import I32
from phoenix_server.search.sharded import TopK


class PreparedBatch(NamedTuple):
    """A batch on the host, ready for the device.

    Attributes:
        queries: The queries.
        batch_size: B.
        chunks: For each run of the user tower its inputs, and [n] i32, the places of its users in
            the batch; places from B on are padding.
        excluded: The posts that each query may not find, as of the time of their look-up.
    """

    queries: tuple[Query, ...]
    batch_size: int
    chunks: tuple[tuple[HostArrays, I32], ...]
    excluded: Sequence[Exclusions | None]


class LaunchedBatch(NamedTuple):
    """A batch on the device, perhaps still running.

    Attributes:
        queries: The queries.
        users: The results of the user tower.
        found: The results of the search; None if no query wants posts.
    """

    queries: tuple[Query, ...]
    users: EncodedUsers
    found: TopK | None


def collect_answers(launched: LaunchedBatch, corpus: CorpusIndex) -> list[Answer]:
    """Wait for a batch, and return its answers in the order of its queries.

    The corpus must not have changed since the launch: rows are looked up in it.
    """
    representations, norms = map(np.asarray, launched.users)
    if launched.found is None:
        scores = np.empty((len(norms), 0), np.float32)
        rows, eligible = np.empty(scores.shape, np.int32), np.zeros(1, np.int32)
    else:
        scores, rows, eligible = map(np.asarray, launched.found[:3])
    post_ids, author_ids = corpus.post_ids[rows], corpus.author_ids[rows]
    created_at = corpus.created_at_unix_ms[rows]
    answers: list[Answer] = []
    for i, query in enumerate(launched.queries):
        count_eligible = int(eligible[i % len(eligible)]) if query.top_k else 0
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
            )
        )
    return answers
