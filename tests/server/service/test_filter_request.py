"""Filters of requests: what they become, and which are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest

from phoenix_retrieval.v1.retrieval_service_pb2 import Filter as FilterMessage
from phoenix_server.engine.filters import Filter
from phoenix_server.errors import InvalidRequestError
from phoenix_server.search.eligibility import MAX_LABELS_PER_KIND
from phoenix_server.service.filter_request import read_filter

_LABELS = {f"label {n}" for n in range(100)}


def _read(**fields: Any) -> Filter:
    return read_filter(FilterMessage(**fields), 5, _LABELS.__contains__)


def test_an_empty_message_has_no_conditions() -> None:
    wanted = _read()
    assert (wanted.since_unix_ms, wanted.before_unix_ms, wanted.min_score) == (None, None, None)
    assert (wanted.any_labels, wanted.all_labels, wanted.none_labels) == ((), (), ())
    assert not wanted.excludes


def test_every_condition_is_read_and_repeated_labels_count_once() -> None:
    wanted = _read(
        created_since_unix_ms=0,
        created_before_unix_ms=2**63,
        any_labels=["label 2", "label 1", "label 2"],
        all_labels=["label 3"],
        none_labels=["label 4"],
        excluded_post_ids=[2**64 - 1, 5],
        excluded_author_ids=[7],
        min_score=-0.5,
    )
    assert (wanted.since_unix_ms, wanted.before_unix_ms, wanted.min_score) == (0, 2**63, -0.5)
    assert wanted.any_labels == ("label 2", "label 1")
    assert (wanted.all_labels, wanted.none_labels) == (("label 3",), ("label 4",))
    assert wanted.excluded_post_ids.tolist() == [2**64 - 1, 5]
    assert wanted.excluded_author_ids.tolist() == [7]


@pytest.mark.parametrize("field", ["any_labels", "all_labels", "none_labels"])
def test_unknown_labels_and_too_many_labels_are_named(field: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        _read(**{field: ["red", "label 1", "blue"]})
    assert caught.value.violations == (
        (f"filter.{field}", "the corpus does not know the label 'red'"),
        (f"filter.{field}", "the corpus does not know the label 'blue'"),
    )
    most = sorted(_LABELS)[:MAX_LABELS_PER_KIND]
    assert getattr(_read(**{field: most}), field) == tuple(most)
    with pytest.raises(InvalidRequestError, match=f"has {MAX_LABELS_PER_KIND + 1} labels"):
        _read(**{field: sorted(_LABELS)[: MAX_LABELS_PER_KIND + 1]})


def test_exclusions_are_limited_together_and_zeros_are_named() -> None:
    assert _read(excluded_post_ids=[1, 2, 3], excluded_author_ids=[4, 5]).excludes
    with pytest.raises(InvalidRequestError, match="6 posts and authors, at most 5 can be excluded"):
        _read(excluded_post_ids=[1, 2, 3], excluded_author_ids=[4, 5, 6])
    with pytest.raises(InvalidRequestError) as caught:
        _read(excluded_post_ids=[1, 0], excluded_author_ids=[0])
    assert [violation.field for violation in caught.value.violations] == [
        "filter.excluded_post_ids[1]",
        "filter.excluded_author_ids[0]",
    ]


def test_a_minimum_score_must_be_a_number() -> None:
    assert _read(min_score=math.inf).min_score == math.inf
    with pytest.raises(InvalidRequestError, match=r"filter\.min_score: is not a number"):
        _read(min_score=math.nan)
