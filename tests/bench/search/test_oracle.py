"""N 600, D 12, Q 5, K 7 and 50."""

import numpy as np
import pytest

from phoenix_bench.search.dataset import Dataset, draw_dataset
from phoenix_bench.search.oracle import (
    SearchResult,
    Truth,
    count_missing,
    find_mistakes,
    find_truth,
)

K = 50


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return draw_dataset(
        rows=600, width=12, queries=5, group_sizes=[75, 4, 4], dtype="float32", seed=3
    )


@pytest.fixture(scope="module")
def truth(dataset: Dataset) -> Truth:
    return find_truth(dataset.corpus, dataset.probes, K)


@pytest.fixture
def right(dataset: Dataset) -> SearchResult:
    """Return right answers, by sorting all."""
    scores = dataset.probes.astype(np.float64) @ dataset.corpus.astype(np.float64).T
    scores = scores.round(12)  # so that equal vectors have equal scores
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    return SearchResult(np.take_along_axis(scores, rows, axis=1).astype(np.float32), rows)


def mistakes(found: SearchResult, truth: Truth, dataset: Dataset) -> str:
    return "; ".join(find_mistakes(found, truth, dataset, dataset.probes))


def test_right_answers_pass(right: SearchResult, truth: Truth, dataset: Dataset) -> None:
    assert mistakes(right, truth, dataset) == ""
    assert count_missing(right, truth) == 0


def test_the_truth_is_what_sorting_all_gives(truth: Truth, dataset: Dataset) -> None:
    scores = dataset.probes.astype(np.float64) @ dataset.corpus.astype(np.float64).T
    assert np.allclose(truth.scores, -np.sort(-scores)[:, :K], rtol=0, atol=1e-12)
    assert np.allclose(np.take_along_axis(scores, truth.rows, axis=1), truth.scores)
    assert all(len(set(rows)) == K for rows in truth.rows)


def test_a_large_corpus_is_searched_in_pieces() -> None:
    large = draw_dataset(rows=70_000, width=3, queries=2, group_sizes=[4], dtype="float32")
    truth = find_truth(large.corpus, large.queries, 7)
    scores = large.queries.astype(np.float64) @ large.corpus.astype(np.float64).T
    assert np.allclose(truth.scores, -np.sort(-scores, axis=1)[:, :7], rtol=0, atol=1e-12)
    assert np.allclose(np.take_along_axis(scores, truth.rows, axis=1), truth.scores)


def test_the_first_of_the_truth_is_the_truth_of_less(truth: Truth, dataset: Dataset) -> None:
    less = find_truth(dataset.corpus, dataset.probes[:2], 7)
    assert np.allclose(truth.cut(7).first(2).scores, less.scores)
    assert np.array_equal(truth.cut(7).first(2).rows[1], less.rows[1])


def test_rows_whose_scores_float32_cannot_tell_may_swap() -> None:
    corpus = np.eye(3, dtype=np.float32)
    corpus[1] = [0.6, 0.8, 0]
    corpus[2] = [0.6, 0.8 * (1 - 1e-7), 0]
    close = Dataset(corpus, corpus[:1], np.array([[0.6, 0.8, 0]], np.float32), [])
    truth = find_truth(corpus, close.probes, 2)
    swapped = SearchResult(truth.scores.astype(np.float32), np.array([[2, 1]]))
    assert mistakes(swapped, truth, close) == ""


def test_equal_vectors_may_not_swap(right: SearchResult, truth: Truth, dataset: Dataset) -> None:
    right.rows[0, [3, 4]] = right.rows[0, [4, 3]]
    assert mistakes(right, truth, dataset) == (
        "query 0: equal vectors are not the lowest rows, ascending"
    )


def test_of_equal_vectors_only_the_lowest_may_be_there(
    right: SearchResult, truth: Truth, dataset: Dataset
) -> None:
    right.rows[0, K - 1] = dataset.copies[0][K]  # as good a score, but K rows come before it
    assert "not the lowest rows" in mistakes(right, truth, dataset)
    assert count_missing(right, truth) == 0


def test_a_better_row_may_not_come_later(
    right: SearchResult, truth: Truth, dataset: Dataset
) -> None:
    for column in (right.rows, right.scores):
        column[4, [5, 6]] = column[4, [6, 5]]
    assert mistakes(right, truth, dataset) == "query 4: a better row comes after a worse one"


def test_a_score_must_be_of_its_row(right: SearchResult, truth: Truth, dataset: Dataset) -> None:
    right.scores[3, 2] += 1e-5
    assert mistakes(right, truth, dataset).startswith("query 3: a score is off by 1e-05")


def test_a_row_must_not_come_twice(right: SearchResult, truth: Truth, dataset: Dataset) -> None:
    right.rows[4, 1] = right.rows[4, 0]
    assert mistakes(right, truth, dataset) == "query 4: a row comes twice or does not exist"


def test_a_row_must_exist(right: SearchResult, truth: Truth, dataset: Dataset) -> None:
    right.rows[4, 1] = 600
    assert mistakes(right, truth, dataset) == "query 4: a row comes twice or does not exist"


def test_a_row_that_is_left_out_is_missed(
    right: SearchResult, truth: Truth, dataset: Dataset
) -> None:
    worst = np.argmin(dataset.corpus @ dataset.probes[4])
    right.rows[4, 0] = worst
    found = mistakes(right, truth, dataset)
    assert "query 4: a row does not belong" in found and "query 4: 1 rows are missing" in found
    assert count_missing(right, truth) == 1


def test_answers_of_another_shape_are_refused(
    right: SearchResult, truth: Truth, dataset: Dataset
) -> None:
    assert "expected (5, 7)" in mistakes(right, truth.cut(7), dataset)
