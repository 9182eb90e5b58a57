from __future__ import annotations

import dataclasses
from array import array
from datetime import UTC, datetime, timedelta

import pytest

from client.conftest import Ask
from fake_server.server import (
    EMBEDDING_SIZE,
    GENERATION,
    MAX_TOP_K,
    POSTS,
    REPRESENTATION,
    STATS,
    FakeServer,
)
from phoenix_client import (
    Action,
    Engagement,
    Filter,
    History,
    InvalidArgumentError,
    MalformedReplyError,
    Model,
    RetrieveQuery,
    User,
)
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb2
from phoenix_retrieval.v1 import user_pb2

USER = User(2**64 - 1, History.from_engagements([Engagement(2**63, 5, {Action.REPLY}, 3)]))


USER_MESSAGE = user_pb2.User(
    user_id=2**64 - 1,
    post_ids=[2**63],
    author_ids=[5],
    action_masks=[1 << user_pb2.ACTION_REPLY],
    product_surfaces=[3],
)


FLOAT32 = 2**-24  # relative error of rounding to float32


def test_retrieve_returns_all_that_was_asked_for(server: FakeServer, ask: Ask) -> None:
    result = ask(
        "retrieve",
        USER,
        top_k=2,
        with_author_ids=True,
        with_labels=True,
        with_created_at=True,
        with_representation=True,
    )
    assert server.requests == [
        retrieval_pb2.RetrieveRequest(
            user=USER_MESSAGE,
            top_k=2,
            return_user_representation=True,
            return_author_ids=True,
            return_labels=True,
            return_created_at=True,
        )
    ]
    assert (result.generation, result.rows_scanned, result.rows_eligible) == (GENERATION, 1234, 3)
    assert result.user_representation == pytest.approx(REPRESENTATION, rel=FLOAT32)
    first, second = result.candidates
    assert first.post_id == 2**64 - 1
    assert first.author_id == 2**53 + 1
    assert first.score == pytest.approx(0.1, rel=FLOAT32)
    assert first.labels == ("football", "news")
    assert first.created_at == datetime.fromtimestamp(1_700_000_000, UTC) + timedelta(
        milliseconds=123
    )
    assert (second.post_id, second.labels, second.created_at) == (2**63 + 1, (), None)


def test_retrieve_asks_for_no_more_than_it_is_told(server: FakeServer, ask: Ask) -> None:
    result = ask("retrieve", USER, top_k=9)
    assert server.requests == [retrieval_pb2.RetrieveRequest(user=USER_MESSAGE, top_k=9)]
    assert result.candidates.post_ids == tuple(post.post_id for post in POSTS)
    assert result.user_representation is None


def test_retrieve_waits_for_a_change_and_says_which_it_saw(server: FakeServer, ask: Ask) -> None:
    server.sequence = 2**64 - 1
    assert ask("retrieve", USER, top_k=1, min_sequence=2**63).sequence == 2**64 - 1
    queries = [RetrieveQuery(user=USER, top_k=1, min_sequence=n) for n in (0, 7)]
    assert [result.sequence for result in ask("batch_retrieve", queries)] == [2**64 - 1] * 2
    alone, batch = server.requests
    assert isinstance(alone, retrieval_pb2.RetrieveRequest)
    assert isinstance(batch, retrieval_pb2.BatchRetrieveRequest)
    assert alone.min_sequence == 2**63
    assert [request.min_sequence for request in batch.requests] == [0, 7]


def test_a_batch_has_a_result_or_an_exception_for_each_query(ask: Ask) -> None:
    queries = (RetrieveQuery(user=USER, top_k=top_k) for top_k in (1, 0, 3))
    one, failed, three = ask("batch_retrieve", queries)
    assert [len(one.candidates), len(three.candidates)] == [1, 3]
    assert isinstance(failed, InvalidArgumentError)
    assert failed.field_violations == (("top_k", "must be from 1 to 100"),)


def test_search_sends_vectors_and_all_that_is_asked_for(server: FakeServer, ask: Ask) -> None:
    server.sequence = 9
    one, other = ask(
        "search",
        vectors=[REPRESENTATION, array("f", [0, 1, 0])],
        top_k=2,
        with_author_ids=True,
        with_labels=True,
        with_created_at=True,
        with_representation=True,
        min_sequence=7,
        filter=Filter(any_labels=["news"]),
    )
    assert server.requests == [
        retrieval_pb2.SearchRequest(
            vectors=[*REPRESENTATION, 0, 1, 0],
            top_k=2,
            return_user_representation=True,
            return_author_ids=True,
            return_labels=True,
            return_created_at=True,
            min_sequence=7,
            filter=retrieval_pb2.Filter(any_labels=["news"]),
        )
    ]
    assert one == other
    assert one.candidates[0].labels == ("football", "news")
    assert one.user_representation == pytest.approx(REPRESENTATION, rel=FLOAT32)
    assert one.sequence == 9


def test_search_sends_posts(server: FakeServer, ask: Ask) -> None:
    (found,) = ask("search", post_ids=[2**64 - 1], top_k=9)
    assert found.candidates.post_ids == tuple(post.post_id for post in POSTS)
    ask("search", post_ids=iter([3, 3]), top_k=1, include_query_posts=True)
    assert server.requests == [
        retrieval_pb2.SearchRequest(post_ids=[2**64 - 1], top_k=9),
        retrieval_pb2.SearchRequest(post_ids=[3, 3], include_query_posts=True, top_k=1),
    ]


def test_a_query_of_a_search_that_fails_has_its_exception(ask: Ask) -> None:
    failed, _ = ask("search", post_ids=[1, 2], top_k=0)
    assert isinstance(failed, InvalidArgumentError)


def test_what_encode_returns_can_be_searched_by(server: FakeServer, ask: Ask) -> None:
    encoded = ask("encode_candidates", [1, 2], [3, 4])
    assert len(ask("search", vectors=encoded, top_k=1)) == 2
    request = server.requests[-1]
    assert isinstance(request, retrieval_pb2.SearchRequest)
    assert request.vectors == [1, 3, -1, 2, 4, -1]


def test_encode_user(server: FakeServer, ask: Ask) -> None:
    encoded = ask("encode_user", USER)
    assert server.requests == [retrieval_pb2.EncodeUserRequest(user=USER_MESSAGE)]
    assert encoded.generation == GENERATION
    assert encoded.user_representation == pytest.approx(REPRESENTATION, rel=FLOAT32)
    assert encoded.user_norm == 2.5


def test_encode_candidates_gives_a_vector_a_post(ask: Ask) -> None:
    encoded = ask("encode_candidates", [1, 2], [3, 4])
    assert (encoded.generation, encoded.embedding_size) == (GENERATION, EMBEDDING_SIZE)
    assert len(encoded) == 2
    assert [vector.tolist() for vector in encoded] == [[1, 3, -1], [2, 4, -1]]
    assert encoded[-1].tolist() == [2, 4, -1]
    assert encoded.values.readonly and encoded.values.format == "f"
    with pytest.raises(IndexError):
        encoded[2]


def test_score_posts_keeps_the_order_of_the_request(server: FakeServer, ask: Ask) -> None:
    server.sequence = 5
    result = ask("score_posts", USER, [POSTS[2].post_id, POSTS[0].post_id])
    assert (result.generation, result.rows_scanned, result.rows_eligible) == (GENERATION, 3, 3)
    assert result.sequence == 5
    assert [(post.post_id, post.rank) for post in result.posts] == [
        (POSTS[2].post_id, 3),
        (POSTS[0].post_id, 1),
    ]
    assert result.posts.scores == pytest.approx((-0.25, 0.1), rel=FLOAT32)


def test_get_model(ask: Ask) -> None:
    assert ask("get_model") == Model(
        generation=GENERATION,
        tower_fingerprint="f00d",
        embedding_size=EMBEDDING_SIZE,
        history_length=127,
        num_actions=19,
        product_surface_vocab_size=16,
        compute_dtype="bfloat16",
        corpus_rows=2**40,
        corpus_dtype="float32",
        label_names=("football", "news"),
        shards=2,
        devices=("cpu:0", "cpu:1"),
        max_top_k=MAX_TOP_K,
        max_batch_users=5,
        max_candidates=7,
        max_request_bytes=2**20,
        max_excluded=11,
        max_history=13,
        server_version="0.1.0",
        search="native (portable)",
        search_lack="",
    )


def test_get_serving_stats_has_every_field_of_the_reply(ask: Ask) -> None:
    stats = dataclasses.asdict(ask("get_serving_stats"))
    assert stats == {field.name: getattr(STATS, field.name) for field in STATS.DESCRIPTOR.fields}


def test_a_reply_that_contradicts_itself_raises(server: FakeServer, ask: Ask) -> None:
    server.replies = [retrieval_pb2.RetrieveResponse(post_ids=[1], scores=[])]
    with pytest.raises(MalformedReplyError):
        ask("retrieve", USER, top_k=1)
