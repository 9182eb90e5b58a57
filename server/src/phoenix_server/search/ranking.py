"""Ranks of rows among all scores.

Shapes:
    R  rows of the corpus in memory        n  rows to rank
"""

import numpy as np
import numpy.typing as npt


def exact_ranks(
    scores: npt.NDArray[np.float32], ids: npt.NDArray[np.uint64], rows: npt.NDArray[np.int32]
) -> npt.NDArray[np.int64]:
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
