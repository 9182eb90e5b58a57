"""Valid and invalid requests over the wire."""

import threading
from collections import Counter
from collections.abc import Callable, Generator
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from integration.wire import PATIENCE_S, failure, user, violations
from phoenix_retrieval.v1 import retrieval_service_pb2 as pb
from phoenix_retrieval.v1.model_service_pb2 import GetModelRequest
from phoenix_retrieval.v1.model_service_pb2_grpc import ModelServiceStub
from phoenix_retrieval.v1.retrieval_service_pb2_grpc import RetrievalServiceStub
from phoenix_retrieval.v1.user_pb2 import User

SERVICES = tuple(
    f"phoenix_retrieval.v1.{name}" for name in ("RetrievalService", "ModelService", "CorpusService")
)


@pytest.fixture(scope="module")
def channel(server_f32: str) -> Generator[grpc.Channel, None, None]:
    with grpc.insecure_channel(server_f32) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> RetrievalServiceStub:
    return RetrievalServiceStub(channel)


@pytest.mark.parametrize(
    ("changes", "field", "description"),
    [
        ({"author_ids": [21]}, "user.author_ids", "has 1 entries, user.post_ids has 3"),
        ({"action_masks": []}, "user.action_masks", "has 0 entries, user.post_ids has 3"),
        ({"product_surfaces": [1]}, "user.product_surfaces", "has 1 entries"),
        ({"post_ids": []}, "user.author_ids", "has 3 entries, user.post_ids has 0"),
        ({"post_ids": [11, 0, 13]}, "user.post_ids[1]", "is 0"),
        ({"author_ids": [21, 22, 0]}, "user.author_ids[2]", "is 0"),
        ({"action_masks": [0, 1 << 19, 0]}, "user.action_masks[1]", "bit 19 is set"),
        ({"action_masks": [0, 0, 1 << 63]}, "user.action_masks[2]", "bit 63 is set"),
        ({"product_surfaces": [0, 15, 16]}, "user.product_surfaces[2]", "is 16"),
    ],
)
def test_a_bad_user_is_refused_by_field_in_every_call(
    changes: dict[str, Any], field: str, description: str, stub: RetrievalServiceStub
) -> None:
    bad = user(**changes)
    calls: list[Callable[[], Any]] = [
        lambda: stub.Retrieve(pb.RetrieveRequest(user=bad, top_k=5)),
        lambda: stub.EncodeUser(pb.EncodeUserRequest(user=bad)),
        lambda: stub.ScorePosts(pb.ScorePostsRequest(user=bad, post_ids=[1])),
    ]
    for call in calls:
        assert description in violations(call)[field]


@pytest.mark.parametrize(
    "request_", [pb.RetrieveRequest(top_k=5), pb.RetrieveRequest(user=User(), top_k=5)]
)
def test_a_user_with_neither_id_nor_history_is_refused(
    request_: pb.RetrieveRequest, stub: RetrievalServiceStub
) -> None:
    assert violations(lambda: stub.Retrieve(request_)) == {
        "user": "has neither a user_id nor a history"
    }


@pytest.mark.parametrize("top_k", [0, 4001, 2**32 - 1])
def test_top_k_out_of_range_is_refused_and_the_limit_named(
    top_k: int, stub: RetrievalServiceStub
) -> None:
    request = pb.RetrieveRequest(user=user(), top_k=top_k)
    assert violations(lambda: stub.Retrieve(request)) == {
        "top_k": f"is {top_k}, must be from 1 to 4000"
    }


def test_top_k_above_the_corpus_returns_all_posts(stub: RetrievalServiceStub) -> None:
    response = stub.Retrieve(pb.RetrieveRequest(user=user(), top_k=4000))
    assert len(response.post_ids) == response.rows_eligible == response.rows_scanned == 3000
    assert len(set(response.post_ids)) == 3000
    assert list(response.scores) == sorted(response.scores, reverse=True)


def test_a_request_above_the_size_limit_is_refused(stub: RetrievalServiceStub) -> None:
    many = 4000  # 96 kB; the limit is 64 KiB
    large = user(post_ids=[1] * many, author_ids=[1] * many, action_masks=[0] * many)
    status = failure(lambda: stub.Retrieve(pb.RetrieveRequest(user=large, top_k=1)))
    assert status.code == code_pb2.RESOURCE_EXHAUSTED
    assert "vs. 65536)" in status.message


def test_bytes_that_are_not_a_message_are_refused_by_name(channel: grpc.Channel) -> None:
    method: Any = channel.unary_unary("/phoenix_retrieval.v1.RetrievalService/Retrieve")
    assert "is not a message" in violations(lambda: method(b"\x0a\xff\xff"))["request"]


def test_more_calls_than_the_queue_holds_are_answered_or_refused(
    server_f32: str,
) -> None:
    calls = 1200  # the queue holds 64; gRPC by itself would cancel calls beyond 1000
    codes: Counter[grpc.StatusCode] = Counter()
    all_done = threading.Event()

    def count(future: Any) -> None:
        codes[future.code()] += 1  # on gRPC's own thread, one at a time
        if codes.total() == calls:
            all_done.set()

    with grpc.insecure_channel(server_f32) as channel:
        stub: Any = RetrievalServiceStub(channel)
        request = pb.RetrieveRequest(user=user(), top_k=5)
        futures = [stub.Retrieve.future(request, timeout=PATIENCE_S) for _ in range(calls)]
        for future in futures:
            future.add_done_callback(count)
        assert all_done.wait(PATIENCE_S)
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert codes[grpc.StatusCode.OK] > 0


def test_of_a_long_history_the_newest_engagements_count(stub: RetrievalServiceStub) -> None:
    count, kept = 500, 127
    columns = {
        "post_ids": list(range(1, count + 1)),
        "author_ids": list(range(1001, 1001 + count)),
        "action_masks": [2] * count,
        "product_surfaces": [i % 16 for i in range(count)],
    }
    newest = {name: values[-kept:] for name, values in columns.items()}
    whole = stub.EncodeUser(pb.EncodeUserRequest(user=User(user_id=7, **columns)))
    cut = stub.EncodeUser(pb.EncodeUserRequest(user=User(user_id=7, **newest)))
    assert whole == cut


def test_missing_product_surfaces_mean_zeros(stub: RetrievalServiceStub) -> None:
    absent = stub.EncodeUser(pb.EncodeUserRequest(user=user()))
    zeros = stub.EncodeUser(pb.EncodeUserRequest(user=user(product_surfaces=[0, 0, 0])))
    others = stub.EncodeUser(pb.EncodeUserRequest(user=user(product_surfaces=[0, 3, 0])))
    assert absent == zeros
    assert absent != others


def test_optional_columns_are_returned_only_when_asked_for(stub: RetrievalServiceStub) -> None:
    bare = stub.Retrieve(pb.RetrieveRequest(user=user(), top_k=3))
    optional = (
        "author_ids",
        "created_at_unix_ms",
        "label_names",
        "label_counts",
        "label_indices",
        "user_representation",
    )
    assert all(not getattr(bare, name) for name in optional)
    full = stub.Retrieve(
        pb.RetrieveRequest(
            user=user(),
            top_k=3,
            return_author_ids=True,
            return_created_at=True,
            return_labels=True,
            return_user_representation=True,
        )
    )
    assert full.post_ids == bare.post_ids
    assert len(full.author_ids) == len(full.created_at_unix_ms) == len(full.label_counts) == 3
    assert [id_ >> 22 for id_ in full.post_ids] == [
        milliseconds - 1_288_834_974_657 for milliseconds in full.created_at_unix_ms
    ]
    assert sum(full.label_counts) == len(full.label_indices)
    assert len(full.user_representation) == 128


def test_a_batch_is_answered_in_order_and_only_invalid_requests_fail(
    stub: RetrievalServiceStub,
) -> None:
    good = [pb.RetrieveRequest(user=user(user_id=i + 1), top_k=i + 1) for i in range(5)]
    bad = pb.RetrieveRequest(user=user(author_ids=[]), top_k=3)
    response = stub.BatchRetrieve(pb.BatchRetrieveRequest(requests=[*good[:2], bad, *good[2:]]))
    results = list(response.results)
    failed = results.pop(2)
    assert failed.status.code == code_pb2.INVALID_ARGUMENT
    assert [violation.field for violation in failed.status.field_violations] == ["user.author_ids"]
    assert not failed.HasField("response")
    for request, result in zip(good, results, strict=True):
        alone = stub.Retrieve(request)
        assert result.status.code == 0
        assert result.response.post_ids == alone.post_ids
        assert result.response.scores == pytest.approx(list(alone.scores), abs=1e-6)


@pytest.mark.parametrize("count", [0, 9])
def test_a_batch_of_no_or_too_many_users_is_refused(count: int, stub: RetrievalServiceStub) -> None:
    requests = [pb.RetrieveRequest(user=user(), top_k=1)] * count
    found = violations(lambda: stub.BatchRetrieve(pb.BatchRetrieveRequest(requests=requests)))
    assert found == {"requests": f"has {count} entries, must have from 1 to 8"}


@pytest.mark.parametrize(
    ("posts", "authors", "field", "description"),
    [
        ([], [], "post_ids", "has 0 entries, must have from 1 to 64"),
        ([1] * 65, [1] * 65, "post_ids", "has 65 entries, must have from 1 to 64"),
        ([1, 2], [1], "author_ids", "has 1 entries, post_ids has 2"),
        ([1, 0], [1, 2], "post_ids[1]", "is 0, which is no id"),
        ([1, 2], [0, 2], "author_ids[0]", "is 0, which is no id"),
    ],
)
def test_bad_candidates_are_refused(
    posts: list[int], authors: list[int], field: str, description: str, stub: RetrievalServiceStub
) -> None:
    request = pb.EncodeCandidatesRequest(post_ids=posts, author_ids=authors)
    assert violations(lambda: stub.EncodeCandidates(request)) == {field: description}


def test_posts_that_the_corpus_does_not_hold_are_named(stub: RetrievalServiceStub) -> None:
    held = stub.Retrieve(pb.RetrieveRequest(user=user(), top_k=2)).post_ids
    request = pb.ScorePostsRequest(user=user(), post_ids=[5, *held, 2**64 - 1])
    status = failure(lambda: stub.ScorePosts(request))
    assert status.code == code_pb2.NOT_FOUND
    missing = [error_details_pb2.ResourceInfo() for _ in status.details]
    for detail, resource in zip(status.details, missing, strict=True):
        assert detail.Unpack(resource)
    assert [resource.resource_name for resource in missing] == ["5", str(2**64 - 1)]


def test_the_model_describes_itself(channel: grpc.Channel) -> None:
    model = ModelServiceStub(channel).GetModel(GetModelRequest())
    assert model.bundle.compute_dtype == "float32"
    assert model.bundle.tower_fingerprint == model.corpus.tower_fingerprint
    assert model.corpus_rows == 3000
    assert model.shards == len(model.devices) == 1
    limits = (model.max_top_k, model.max_batch_users, model.max_candidates, model.max_request_bytes)
    assert limits == (4000, 8, 64, 65536)
    retrieved = RetrievalServiceStub(channel).Retrieve(pb.RetrieveRequest(user=user(), top_k=1))
    assert retrieved.generation == model.generation


@pytest.mark.parametrize("service", ["", *SERVICES])
def test_health_is_reported_per_service_and_overall(service: str, channel: grpc.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    response = health.Check(health_pb2.HealthCheckRequest(service=service))
    assert response.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_lists_the_services(channel: grpc.Channel) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (response,) = stub.ServerReflectionInfo(iter([request]))
    listed = {service.name for service in response.list_services_response.service}
    assert {*SERVICES, "grpc.health.v1.Health"} <= listed
