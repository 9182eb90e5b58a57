from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fake_server.server import top_k
from phoenix_client import (
    Candidate,
    FailedPreconditionError,
    History,
    InvalidArgumentError,
    MalformedReplyError,
    NotFoundError,
    ResourceExhaustedError,
    RetrieveQuery,
    UnavailableError,
    UnknownStatusError,
    User,
)
from phoenix_client.errors import PhoenixClientError
from phoenix_client.wire import messages
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb2

U64 = st.integers(0, 2**64 - 1)


@given(U64, st.lists(st.tuples(U64, U64, U64, st.integers(0, 2**32 - 1))))
def test_a_user_arrives_as_it_was(user_id: int, rows: list[tuple[int, int, int, int]]) -> None:
    user = User(user_id, History(*zip(*rows, strict=True)) if rows else History())
    sent = messages.user_message(user)
    received = type(sent).FromString(sent.SerializeToString())
    history = History(
        received.post_ids, received.author_ids, received.action_masks, received.product_surfaces
    )
    assert User(received.user_id, history) == user


CANDIDATES = st.lists(
    st.builds(
        Candidate,
        post_id=U64,
        score=st.floats(-1, 1, width=32),
        author_id=U64,
        labels=st.lists(st.text(), max_size=3).map(tuple),
        created_at=st.none()
        | st.datetimes(min_value=datetime(1970, 1, 2), timezones=st.just(UTC)).map(
            lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000)
        ),
    )
)


@given(CANDIDATES)
def test_candidates_arrive_as_they_were(candidates: list[Candidate]) -> None:
    names = sorted({label for candidate in candidates for label in candidate.labels})
    reply = retrieval_pb2.RetrieveResponse(
        post_ids=[candidate.post_id for candidate in candidates],
        scores=[candidate.score for candidate in candidates],
        author_ids=[candidate.author_id or 0 for candidate in candidates],
        created_at_unix_ms=[
            0 if candidate.created_at is None else round(candidate.created_at.timestamp() * 1000)
            for candidate in candidates
        ],
        label_names=names,
        label_counts=[len(candidate.labels) for candidate in candidates],
        label_indices=[names.index(name) for candidate in candidates for name in candidate.labels],
    )
    assert list(messages.read_retrieve(reply).candidates) == candidates


def test_columns_not_asked_for_stay_unknown() -> None:
    request = messages.retrieve_request(RetrieveQuery(user=User(1), top_k=2))
    result = messages.read_retrieve(top_k(request))
    assert [candidate[2:] for candidate in result.candidates] == [(None, (), None)] * 2
    assert result.user_representation is None
    assert result.candidates[1:][0] == result.candidates[1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"scores": [0.5]}, "scores: has 1"),
        ({"author_ids": [1, 2, 3]}, "author_ids: has 3"),
        ({"created_at_unix_ms": [2**63, 0]}, "after the year 9999"),
        ({"label_counts": [1, 0]}, "label_indices"),
        ({"label_counts": [1, 0], "label_indices": [0]}, "label_indices"),
        ({"label_counts": [1], "label_indices": [0], "label_names": ["a"]}, "labels: has 1"),
    ],
)
def test_a_reply_that_contradicts_itself_is_refused(
    columns: dict[str, list[int]], message: str
) -> None:
    reply = retrieval_pb2.RetrieveResponse(post_ids=[1, 2])
    reply.scores.extend(columns.pop("scores", [0.5, 0.25]))
    reply.MergeFrom(retrieval_pb2.RetrieveResponse(**columns))  # pyright: ignore[reportArgumentType]
    with pytest.raises(MalformedReplyError, match=message):
        messages.read_retrieve(reply)


def test_a_batch_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(MalformedReplyError, match="has 0 entries, not 2"):
        messages.read_batch_retrieve(retrieval_pb2.BatchRetrieveResponse(), 2)


def test_a_malformed_result_of_a_batch_spares_the_others() -> None:
    reply = retrieval_pb2.BatchRetrieveResponse()
    reply.results.add().response.post_ids.append(1)
    reply.results.add().response.generation = "g"
    malformed, right = messages.read_batch_retrieve(reply, 2)
    assert isinstance(malformed, MalformedReplyError)
    assert not isinstance(right, Exception) and right.generation == "g"


@pytest.mark.parametrize(
    ("code", "expected", "retryable"),
    [
        (3, InvalidArgumentError, False),
        (5, NotFoundError, False),
        (8, ResourceExhaustedError, False),
        (9, FailedPreconditionError, False),
        (10, UnknownStatusError, False),
        (14, UnavailableError, True),
        (99, UnknownStatusError, False),
    ],
)
def test_a_failed_request_of_a_batch_has_the_exception_of_its_status(
    code: int, expected: type[PhoenixClientError], retryable: bool
) -> None:
    reply = retrieval_pb2.BatchRetrieveResponse()
    reply.results.add().status.MergeFrom(retrieval_pb2.RequestStatus(code=code, message="why"))
    (error,) = messages.read_batch_retrieve(reply, 1)
    assert type(error) is expected
    assert isinstance(error, PhoenixClientError)
    assert error.message == "why"
    assert error.retryable is retryable


@pytest.mark.parametrize("embedding_size", [0, 2, 3])
def test_vectors_that_do_not_fit_the_posts_are_refused(embedding_size: int) -> None:
    reply = retrieval_pb2.EncodeCandidatesResponse(
        embedding_size=embedding_size, candidate_representations=[0.5] * 5
    )
    with pytest.raises(MalformedReplyError, match="candidate_representations"):
        messages.read_encode_candidates(reply, 2)


def test_scores_that_do_not_fit_the_posts_are_refused() -> None:
    reply = retrieval_pb2.ScorePostsResponse(scores=[0.5], ranks=[1, 2])
    with pytest.raises(MalformedReplyError, match="scores: has 1"):
        messages.read_score_posts(reply, [7, 8])


def test_requests_that_cannot_be_sent_are_refused() -> None:
    with pytest.raises(ValueError, match="author_ids: has 1 entries where post_ids has 2"):
        messages.encode_candidates([1, 2], [3])
    with pytest.raises(ValueError, match="post_ids: must be"):
        messages.score_posts(User(1), [-1])
    with pytest.raises(ValueError, match="top_k: must be"):
        RetrieveQuery(user=User(1), top_k=-1)
    with pytest.raises(ValueError, match="min_sequence: must be"):
        RetrieveQuery(user=User(1), top_k=1, min_sequence=2**64)
