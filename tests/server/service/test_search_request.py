from typing import Any

import numpy as np
import pytest

from phoenix_retrieval.v1.retrieval_service_pb2 import SearchRequest
from phoenix_server.engine.query import EncodedUser, LikePost
from phoenix_server.errors import InvalidRequestError, Violation
from phoenix_server.service.search_request import check_exclusions, read_queries

_WIDTH = 3
_ONE = [0.6, 0.0, -0.8]
_OTHER = [0.0, 1.0, 0.0]


def _violations(**fields: Any) -> tuple[Violation, ...]:
    with pytest.raises(InvalidRequestError) as caught:
        read_queries(SearchRequest(**fields), 5, _WIDTH)
    return caught.value.violations


def test_vectors_are_cut_from_one_column() -> None:
    users = read_queries(SearchRequest(vectors=_ONE + _OTHER), 2, _WIDTH)
    for user, vector in zip(users, (_ONE, _OTHER), strict=True):
        assert isinstance(user, EncodedUser)
        assert user.representation.dtype == np.float32
        assert user.representation.tolist() == np.array(vector, np.float32).tolist()
        assert user.norm == 1


@pytest.mark.parametrize("itself", [False, True])
def test_posts_are_kept_in_order_and_may_occur_twice(itself: bool) -> None:
    request = SearchRequest(post_ids=[7, 2**64 - 1, 7], include_query_posts=itself)
    assert read_queries(request, 3, _WIDTH) == [
        LikePost(7, itself),
        LikePost(2**64 - 1, itself),
        LikePost(7, itself),
    ]


@pytest.mark.parametrize("count", [0, 1, 2, 4, 8, 16, 18])
def test_vectors_of_another_width_or_number_are_refused(count: int) -> None:
    what = f"has {count} entries, must have 3 for each of 1 to 5 vectors"
    assert _violations(vectors=[1.0] * count) == (("vectors", what),)


@pytest.mark.parametrize(
    ("vector", "what"),
    [
        ([0.0, 0.0, 0.0], "vector 1 has length 0, not 1"),
        ([0.0, 1.0011, 0.0], "vector 1 has length 1.0011, not 1"),
        ([3e38, 3e38, 0.0], "vector 1 has length 4.24264e+38, not 1"),
        ([float("nan"), 1.0, 0.0], "vector 1 is not finite"),
        ([0.0, float("-inf"), 0.0], "vector 1 is not finite"),
    ],
)
def test_a_vector_that_is_no_unit_vector_is_named(vector: list[float], what: str) -> None:
    assert _violations(vectors=_ONE + vector + _OTHER) == (("vectors[3:6]", what),)


def test_rounding_of_a_unit_vector_is_no_fault() -> None:
    for length in (0.9991, 1.0009):
        assert len(read_queries(SearchRequest(vectors=[0.0, length, 0.0]), 5, _WIDTH)) == 1


def test_at_most_four_vectors_are_named() -> None:
    assert [field for field, _ in _violations(vectors=[2.0, 0.0, 0.0] * 5)] == [
        "vectors[0:3]",
        "vectors[3:6]",
        "vectors[6:9]",
        "vectors[9:12]",
    ]


def test_too_many_posts_and_an_id_zero_are_named() -> None:
    assert _violations(post_ids=[1] * 6) == (("post_ids", "has 6 entries, must have from 1 to 5"),)
    assert _violations(post_ids=[1, 0]) == (("post_ids[1]", "is 0, which is no id"),)


def test_vectors_and_posts_together_are_refused() -> None:
    assert _violations(vectors=_ONE, post_ids=[1, 2]) == (
        ("post_ids", "has 2 entries, vectors are given too"),
    )


def test_exclusions_are_bounded_for_all_queries_together() -> None:
    request = SearchRequest(filter={"excluded_post_ids": [1, 2, 3], "excluded_author_ids": [4]})
    check_exclusions(request, 20, max_excluded=5)
    with pytest.raises(InvalidRequestError) as caught:
        check_exclusions(request, 21, max_excluded=5)
    what = "excludes 4 posts and authors for each of 21 queries; the product must not exceed 80"
    assert caught.value.violations == (("filter", what),)
    check_exclusions(SearchRequest(), 256, max_excluded=1)
