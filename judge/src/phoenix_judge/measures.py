"""Measure how close a list of results is to the exact one.

Lists hold scores, best first, because posts of equal score are interchangeable: the first post of a
score in one list matches the first of that score in the other, the second the second.

Shapes:
    K  exact results        n  results of an index, at most K
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import TypeAlias

_Item: TypeAlias = tuple[float, int]


def recall(exact: Sequence[float], found: Sequence[float]) -> float:
    """Return the share of the exact results that were found.

    Of several posts that tie for the last places, any counts.

    Args:
        exact: [K] the scores of the exact results; at least one.
        found: [n] the exact scores of the results.
    """
    common = Counter(exact) & Counter(found)
    return common.total() / len(exact)


def rank_biased_overlap(exact: Sequence[float], found: Sequence[float], p: float) -> float:
    """Return the extrapolated rank-biased overlap of two lists, 0 to 1.

    Webber, Moffat and Zobel, "A similarity measure for indefinite rankings", ACM TOIS 28 (4), 2010,
    equation 23: RBO = sum over d = 1 to K of (1 - p) p^(d-1) A_d, plus p^K A_K, where the agreement
    A_d is the share of the first d ranks that the lists have in common. Ranks that an index leaves
    empty agree with nothing.

    Args:
        exact: [K] the scores of the exact results, descending; at least one.
        found: [n] the exact scores of the results, in their order.
        p: Persistence, above 0 and below 1: the probability that a reader of one rank continues
            with the next.
    """
    total = weights = agreement = 0.0
    weight = 1 - p
    common = 0
    seen_exact: set[_Item] = set()
    seen_found: set[_Item] = set()
    places = zip_longest(_numbered(exact), _numbered(found))
    for depth, (right, given) in enumerate(places, start=1):
        assert right is not None  # an index returns at most K results
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
    # The weights sum to 1 except for rounding; the division makes equal lists exactly 1.
    return (total + rest * agreement) / (weights + rest)


def percentile(values: Iterable[float], percent: int) -> float:
    """Return the smallest value that `percent` (1 to 100) of 100 values do not exceed."""
    ordered = sorted(values)
    return ordered[-(-percent * len(ordered) // 100) - 1]


def _numbered(scores: Sequence[float]) -> list[_Item]:
    """Return scores as distinct items: each with the number of equal ones before it."""
    before: Counter[float] = Counter()
    items: list[_Item] = []
    for score in scores:
        items.append((score, before[score]))
        before[score] += 1
    return items
