"""Ranks of rows among all scores.

Shapes:
    R  rows of the corpus in memory        n  rows to rank
"""

import numpy as np

from phoenix_server.runtime.arrays import F32, I32, I64, U64


def exact_ranks(scores: F32, ids: U64, rows: I32) -> I64:
    """Return the ranks of rows, [n], from 1, by score descending, then id ascending.

    Args:
        scores: [R], all scores; -inf where not eligible.
        ids: [R], the ids of all posts.
        rows: [n], the rows to rank.
    """
    ascending = np.sort(scores)
    targets = scores[rows]
    after = np.searchsorted(ascending, targets, side="right")
    ties = after - np.searchsorted(ascending, targets, side="left")
    ranks = len(scores) - after + 1
    for score in np.unique(targets[ties > 1]):
        here = targets == score
        ranks[here] += np.searchsorted(np.sort(ids[scores == score]), ids[rows[here]])
    return ranks
