from __future__ import annotations

from array import array
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phoenix_client import MalformedReplyError, Post
from phoenix_client.wire import corpus_messages
from phoenix_retrieval.v1 import corpus_service_pb2 as corpus_pb2

U64 = st.integers(0, 2**64 - 1)
MOMENT = datetime(2026, 5, 1, tzinfo=UTC)

POSTS = st.lists(
    st.builds(
        Post,
        post_id=U64,
        author_id=U64,
        created_at=st.none()
        | st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.just(UTC)).map(
            lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
        ),
        labels=st.lists(st.text(), max_size=3, unique=True).map(tuple),
        vector=st.none(),
    )
)


@given(POSTS)
def test_posts_arrive_as_they_were(posts: list[Post]) -> None:
    request = corpus_messages.upsert_request(posts)
    received = type(request).FromString(request.SerializeToString())
    reply = corpus_pb2.GetPostsResponse(
        post_ids=received.post_ids,
        author_ids=received.author_ids,
        created_at_unix_ms=received.created_at_unix_ms or [0] * len(posts),
        label_names=received.label_names,
        label_counts=received.label_counts or [0] * len(posts),
        label_indices=received.label_indices,
    )
    assert list(corpus_messages.read_found_posts(reply, len(posts)).posts) == posts
    assert len(set(received.label_names)) == len(received.label_names)


def test_columns_of_which_nothing_is_known_are_empty() -> None:
    request = corpus_messages.upsert_request([Post(1, 2), Post(3, 4)])
    assert request == corpus_pb2.UpsertPostsRequest(post_ids=[1, 3], author_ids=[2, 4])


def test_a_time_is_0_where_only_other_posts_have_one() -> None:
    request = corpus_messages.upsert_request([Post(1, 2), Post(3, 4, MOMENT)])
    assert list(request.created_at_unix_ms) == [0, MOMENT.timestamp() * 1000]


@pytest.mark.parametrize(
    "microseconds", [1_000, 1_001, 1_999], ids=["whole", "little more", "almost the next"]
)
def test_a_time_is_the_millisecond_in_which_it_lies(microseconds: int) -> None:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    request = corpus_messages.upsert_request([Post(1, 2, moment)])
    assert list(request.created_at_unix_ms) == [1]


@pytest.mark.parametrize(
    "kind", [list, tuple, lambda floats: array("f", floats), lambda floats: array("d", floats)]
)
def test_vectors_of_any_kind_are_sent(kind: Any) -> None:
    posts = [
        Post(1, 2, vector=kind([0.5, -1.0])),
        Post(3, 4, vector=memoryview(array("d", [0, 1]))),
    ]
    assert list(corpus_messages.upsert_request(posts).vectors) == [0.5, -1.0, 0.0, 1.0]


RIGHT: dict[str, Any] = {"post_id": 1, "author_id": 2}


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({}, {"post_id": -1}, "post_ids: must be integers from 0"),
        ({}, {"post_id": None}, "post_ids: must be integers from 0"),
        ({}, {"author_id": 2**64}, "author_ids: must be integers from 0"),
        (
            {},
            {"created_at": datetime(2026, 5, 1)},
            r"posts\[1\]\.created_at: must have a time zone",
        ),
        (
            {"created_at": datetime(1970, 1, 1, tzinfo=UTC)},
            {},
            r"posts\[0\]\.created_at: must lie after the start of 1970",
        ),
        (
            {},
            {"created_at": datetime(1969, 12, 31, tzinfo=UTC)},
            r"posts\[1\]\.created_at: must lie after the start of 1970",
        ),
        ({}, {"labels": "news"}, r"posts\[1\]\.labels: must be a sequence of strings, is one"),
        ({}, {"labels": [7]}, r"posts\[1\]\.labels: must be strings, has 7"),
        ({"labels": ["\ud800"]}, {}, r"posts\[0\]\.labels: '\\ud800' is not valid text"),
        ({}, {"vector": [1.0]}, r"posts\[1\]\.vector: all posts have vectors or none has"),
        ({"vector": [1.0]}, {}, r"posts\[1\]\.vector: all posts have vectors or none has"),
        (
            {"vector": [0.0, 1.0]},
            {"vector": [1.0]},
            r"posts\[1\]\.vector: has 1 floats where posts\[0\]\.vector has 2",
        ),
        ({"vector": []}, {"vector": []}, r"posts\[0\]\.vector: is empty"),
        ({"vector": ["1"]}, {"vector": [1.0]}, r"posts\[0\]\.vector: must be floats"),
    ],
)
def test_posts_that_cannot_be_sent_are_named(
    first: dict[str, Any], second: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        corpus_messages.upsert_request([Post(**RIGHT | first), Post(**RIGHT | second)])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"author_ids": [1]}, "author_ids: has 1"),
        ({"created_at_unix_ms": []}, "created_at_unix_ms: has 0"),
        ({"created_at_unix_ms": [2**63, 0]}, "created_at_unix_ms: lies after the year 9999"),
        ({"label_counts": [1]}, "label_indices"),
        ({"label_counts": []}, "labels: has 0"),
        ({"post_ids": [1]}, "post_ids: has 1 entries and missing_post_ids 0, not 2"),
        ({"missing_post_ids": [3]}, "post_ids: has 2 entries and missing_post_ids 1, not 2"),
    ],
)
def test_a_reply_that_contradicts_itself_is_refused(
    columns: dict[str, list[int]], message: str
) -> None:
    right = {
        "post_ids": [1, 2],
        "author_ids": [3, 4],
        "created_at_unix_ms": [0, 0],
        "label_counts": [0, 0],
    }
    reply = corpus_pb2.GetPostsResponse(**right | columns)  # pyright: ignore[reportArgumentType]
    with pytest.raises(MalformedReplyError, match=message):
        corpus_messages.read_found_posts(reply, 2)


def test_a_corpus_of_the_far_future_is_refused() -> None:
    reply = corpus_pb2.GetCorpusResponse(newest_created_at_unix_ms=2**63)
    with pytest.raises(MalformedReplyError, match="newest_created_at_unix_ms: lies after"):
        corpus_messages.read_corpus(reply)
