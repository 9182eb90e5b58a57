from __future__ import annotations

import asyncio
import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from client.conftest import Ask
from client.servicer import (
    EMBEDDING_SIZE,
    GENERATION,
    MAX_TOP_K,
    POSTS,
    REPRESENTATION,
    STATS,
    Failure,
    FakeServer,
    run_fake_server,
)
from phoenix_client import (
    Action,
    AsyncPhoenixClient,
    CallCancelledError,
    DeadlineExceededError,
    Engagement,
    History,
    InvalidArgumentError,
    MalformedReplyError,
    Model,
    PhoenixClient,
    Post,
    RetrieveQuery,
    UnavailableError,
    UnimplementedError,
    User,
)
from phoenix_client.transport.channels import read_health_reply, write_health_request
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
        server_version="0.1.0",
    )


def test_get_serving_stats_has_every_field_of_the_reply(ask: Ask) -> None:
    stats = dataclasses.asdict(ask("get_serving_stats"))
    assert stats == {field.name: getattr(STATS, field.name) for field in STATS.DESCRIPTOR.fields}


def test_a_reply_that_contradicts_itself_raises(server: FakeServer, ask: Ask) -> None:
    server.replies = [retrieval_pb2.RetrieveResponse(post_ids=[1], scores=[])]
    with pytest.raises(MalformedReplyError):
        ask("retrieve", USER, top_k=1)


CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("retrieve", (USER,), {"top_k": 1}),
    ("batch_retrieve", ([],), {}),
    ("encode_user", (USER,), {}),
    ("encode_candidates", ([1], [2]), {}),
    ("score_posts", (USER, [POSTS[0].post_id]), {}),
    ("get_model", (), {}),
    ("get_serving_stats", (), {}),
    ("activate_generation", (1,), {}),
    ("list_generations", (), {}),
    ("upsert_posts", ([Post(1, 2)],), {}),
    ("stream_upsert_posts", ([[Post(1, 2)]],), {}),
    ("delete_posts", ([1],), {}),
    ("get_posts", ([1],), {}),
    ("get_corpus", (), {}),
    ("create_snapshot", (), {}),
    ("list_snapshots", (), {}),
]


@pytest.mark.parametrize(("method", "arguments", "options"), CALLS)
def test_every_call_ends_at_its_own_time_limit(
    server: FakeServer, ask: Ask, method: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    server.hangs = True
    with pytest.raises(DeadlineExceededError):
        ask(method, *arguments, **options, timeout_s=0.05)


def test_a_call_without_a_time_limit_has_the_clients(server: FakeServer, ask: Ask) -> None:
    server.hangs = True
    ask.client_options = {"timeout_s": 0.05}
    with pytest.raises(DeadlineExceededError):
        ask("get_model")


@pytest.mark.parametrize("timeout_s", [0, -1, math.nan, math.inf])
def test_a_time_limit_that_is_none_is_refused(ask: Ask, timeout_s: float) -> None:
    with pytest.raises(ValueError, match="timeout_s: must be above 0 and finite"):
        ask("get_model", timeout_s=timeout_s)
    ask.client_options = {"timeout_s": timeout_s}
    with pytest.raises(ValueError, match="timeout_s: must be above 0 and finite"):
        ask("get_model")


@pytest.mark.parametrize(("method", "arguments", "options"), CALLS)
def test_a_server_that_is_unavailable_for_a_moment_is_asked_again(
    server: FakeServer, ask: Ask, method: str, arguments: tuple[Any, ...], options: dict[str, Any]
) -> None:
    server.failures = [Failure(grpc.StatusCode.UNAVAILABLE)] * 2
    ask(method, *arguments, **options)
    first, second, third = server.requests
    assert first == second == third


def test_no_other_failure_is_asked_again(server: FakeServer, ask: Ask) -> None:
    server.failures = [Failure(grpc.StatusCode.UNIMPLEMENTED)]
    with pytest.raises(UnimplementedError):
        ask("get_model")
    assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with run_fake_server() as gone:
        pass
    with PhoenixClient(gone.target) as client, pytest.raises(UnavailableError):
        client.get_model()


async def test_cancelling_a_task_cancels_its_call(server: FakeServer) -> None:
    server.hangs = True
    async with AsyncPhoenixClient(server.target) as client:
        task = asyncio.create_task(client.get_model(timeout_s=60))
        assert await asyncio.to_thread(server.called.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await asyncio.to_thread(server.given_up.wait, 10)


def test_closing_the_client_cancels_its_calls(server: FakeServer) -> None:
    server.hangs = True
    with ThreadPoolExecutor(1) as pool, PhoenixClient(server.target) as client:
        call = pool.submit(client.get_model, timeout_s=60)
        server.called.wait()
        client.close()
        with pytest.raises(CallCancelledError):
            call.result()


def test_a_channel_that_was_given_stays_open(server: FakeServer) -> None:
    with grpc.insecure_channel(server.target) as channel:
        for _ in range(2):
            with PhoenixClient(channel=channel) as client:
                assert client.get_model().generation == GENERATION


async def test_a_channel_that_was_given_stays_open_async(server: FakeServer) -> None:
    async with grpc.aio.insecure_channel(server.target) as channel:
        for _ in range(2):
            async with AsyncPhoenixClient(channel=channel) as client:
                assert (await client.get_model()).generation == GENERATION


def test_credentials_encrypt(tls_files: tuple[Path, Path]) -> None:
    key, certificate = (file.read_bytes() for file in tls_files)
    with run_fake_server(grpc.ssl_server_credentials([(key, certificate)])) as server:
        credentials = grpc.ssl_channel_credentials(certificate)
        with PhoenixClient(server.target, credentials=credentials) as client:
            assert client.get_model().generation == GENERATION
        with PhoenixClient(server.target) as client, pytest.raises(UnavailableError):
            client.get_model()


def test_is_serving_says_what_the_health_check_says(server: FakeServer, ask: Ask) -> None:
    assert ask("is_serving") is False
    server.serving.set()
    assert ask("is_serving") is True


def test_a_server_that_is_not_there_is_not_serving() -> None:
    with run_fake_server() as gone:
        pass
    with PhoenixClient(gone.target) as client:
        assert client.is_serving(timeout_s=0.2) is False


def test_wait_until_ready_returns_when_the_server_is_serving(server: FakeServer, ask: Ask) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, "wait_until_ready", timeout_s=60)
        try:
            server.watched.wait()
            assert not waiting.done()
        finally:
            server.serving.set()
        waiting.result()


def test_wait_until_ready_ends_at_its_time_limit(ask: Ask) -> None:
    with pytest.raises(DeadlineExceededError):
        ask("wait_until_ready", timeout_s=0.05)


def test_a_health_check_that_ends_early_is_unavailable(server: FakeServer, ask: Ask) -> None:
    server.watch_ends = True
    with pytest.raises(UnavailableError, match="ended before the server was serving"):
        ask("wait_until_ready")


def test_the_health_check_speaks_the_standard_messages() -> None:
    health_pb2 = pytest.importorskip("grpc_health.v1.health_pb2")
    for service in ("", "phoenix_retrieval.v1.RetrievalService"):
        expected = health_pb2.HealthCheckRequest(service=service)
        assert health_pb2.HealthCheckRequest.FromString(write_health_request(service)) == expected
    for status in health_pb2.HealthCheckResponse.ServingStatus.values():
        reply = health_pb2.HealthCheckResponse(status=status).SerializeToString()
        assert read_health_reply(reply) is (status == health_pb2.HealthCheckResponse.SERVING)
