"""Measures of lists, against their definitions written out."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_judge.measures import percentile, rank_biased_overlap, recall

lists = st.lists(st.integers(0, 12), min_size=1, max_size=9, unique=True)


persistences = st.integers(1, 99).map(lambda n: Fraction(n, 100))


def overlap_by_definition(first: list[int], second: list[int], p: Fraction) -> Fraction:
    """Return RBO_EXT of two lists of equal length: X_k/k p^k + (1-p)/p sum of X_d/d p^d."""

    def common(depth: int) -> int:
        return len(set(first[:depth]) & set(second[:depth]))

    k = len(first)
    total = sum(Fraction(common(d), d) * p**d for d in range(1, k + 1))
    return Fraction(common(k), k) * p**k + (1 - p) / p * total


def descending(items: list[int], best_first: list[int]) -> list[float]:
    """Return scores of items that are all different; those of `best_first` descend."""
    scores = {item: 1.0 - rank / 100 for rank, item in enumerate(best_first)}
    return [scores.get(item, -1.0 - item) for item in items]


@given(exact=lists, found=lists, p=persistences)
def test_rbo_is_what_its_definition_says(exact: list[int], found: list[int], p: Fraction) -> None:
    found = found[: len(exact)]
    missing = [-1 - place for place in range(len(exact) - len(found))]  # no item of either list
    expected = overlap_by_definition(exact, found + missing, p)
    given = rank_biased_overlap(descending(exact, exact), descending(found, exact), float(p))
    assert given == pytest.approx(float(expected), abs=1e-12)


def test_rbo_of_a_worked_example() -> None:
    # A_1 = 0, A_2 = 1, A_3 = 2/3; p = 1/2: 0/2 + 1/4 + (2/3)/8 + (2/3)/8
    assert rank_biased_overlap([3.0, 2.0, 1.0], [2.0, 3.0, 0.5], 0.5) == pytest.approx(5 / 12)


@given(exact=lists, p=persistences)
def test_equal_lists_agree_exactly(exact: list[int], p: Fraction) -> None:
    scores = descending(exact, exact)
    assert rank_biased_overlap(scores, scores, float(p)) == 1.0
    assert recall(scores, scores) == 1.0


@given(exact=lists, found=lists)
def test_recall_without_ties_is_the_share_in_common(exact: list[int], found: list[int]) -> None:
    found = found[: len(exact)]
    expected = len(set(exact) & set(found)) / len(exact)
    assert recall(descending(exact, exact), descending(found, exact)) == expected


@given(lists, persistences)
def test_nothing_found_is_nothing_in_common(exact: list[int], p: Fraction) -> None:
    scores = descending(exact, exact)
    assert recall(scores, []) == rank_biased_overlap(scores, [], float(p)) == 0.0


def test_posts_that_tie_for_the_last_places_are_as_good_as_each_other() -> None:
    exact = [0.9, 0.5, 0.5]  # a third post of score 0.5 was left out
    assert recall(exact, [0.9, 0.5, 0.5]) == 1.0
    assert rank_biased_overlap(exact, [0.9, 0.5, 0.5], 0.9) == 1.0
    assert recall(exact, [0.5, 0.5, 0.5]) == pytest.approx(2 / 3)
    assert recall(exact, [0.9, 0.5, 0.4]) == pytest.approx(2 / 3)


@given(st.lists(st.floats(0, 1), min_size=1), st.integers(1, 100))
def test_a_percentile_is_the_least_that_so_many_do_not_exceed(values: list[float], n: int) -> None:
    found = percentile(values, n)
    enough = [v for v in values if 100 * sum(w <= v for w in values) >= n * len(values)]
    assert found == min(enough)
