"""How near a list of results comes to the exact one.

Lists hold scores, best first, for posts of equal score are interchangeable: the first post of a
score in one list stands for the first of that score in the other, the second for the second.

Shapes:
    K  exact results        n  results of an index, at most K
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import TypeAlias

_Item: TypeAlias = tuple[float, int]


def recall(exact: Sequence[float], found: Sequence[float]) -> float:
    """Return the share of the exact results that were found.

    Where several posts tie for the last places, any of them is as good.

    Args:
        exact: [K] the scores of the exact results; at least one.
        found: [n] the exact scores of what was found.
    """
    common = Counter(exact) & Counter(found)
    return common.total() / len(exact)


def rank_biased_overlap(exact: Sequence[float], found: Sequence[float], p: float) -> float:
    """Return the extrapolated rank-biased overlap of two lists, 0 to 1.

    Webber, Moffat and Zobel, "A similarity measure for indefinite rankings", ACM TOIS 28 (4), 2010,
    equation 23: the lists' agreement A_d, the share of the first d places that they have in common,
    averaged with the weights (1 - p) p^(d-1) for d = 1 to K; beyond K, where weights of p^K are
    left, it is taken to stay as A_K. Places that an index left empty have nothing in common with
    any.

    Args:
        exact: [K] the scores of the exact results, descending; at least one.
        found: [n] the exact scores of what was found, in the order in which it was found.
        p: Persistence, above 0 and below 1: of readers at one place, the share that go on to the
            next.
    """
    total = weights = agreement = 0.0
    weight = 1 - p
    common = 0
    seen_exact: set[_Item] = set()
    seen_found: set[_Item] = set()
    places = zip_longest(_numbered(exact), _numbered(found))
    for depth, (right, given) in enumerate(places, start=1):
        assert right is not None  # an index gives no more than it is asked for
        seen_exact.add(right)
        common += right in seen_found
        if given is not None:
            seen_found.add(given)
            common += given in seen_exact
        agreement = common / depth
        total += weight * agreement
        weights += weight
        weight *= p
    rest = p ** len(exact)
    # The weights are 1 together, but for rounding: lists that agree have 1 exactly.
    return (total + rest * agreement) / (weights + rest)


def percentile(values: Iterable[float], percent: int) -> float:
    """Return the least value that so many in 100 of all values, 1 to 100, do not exceed."""
    ordered = sorted(values)
    return ordered[-(-percent * len(ordered) // 100) - 1]


def _numbered(scores: Sequence[float]) -> list[_Item]:
    """Return scores as distinct items: each with how many of the same came before."""
    before: Counter[float] = Counter()
    items: list[_Item] = []
    for score in scores:
        items.append((score, before[score]))
        before[score] += 1
    return items
