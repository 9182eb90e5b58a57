from __future__ import annotations

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as details_pb2

from client.conftest import Ask
from fake_server.server import Failure, FakeServer
from phoenix_client import RetrieveQuery, User, errors
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb2

Code = grpc.StatusCode


CASES = [
    (Code.INVALID_ARGUMENT, errors.InvalidArgumentError, False),
    (Code.NOT_FOUND, errors.NotFoundError, False),
    (Code.FAILED_PRECONDITION, errors.FailedPreconditionError, False),
    (Code.RESOURCE_EXHAUSTED, errors.ResourceExhaustedError, False),
    (Code.UNAVAILABLE, errors.UnavailableError, True),
    (Code.DEADLINE_EXCEEDED, errors.DeadlineExceededError, False),
    (Code.CANCELLED, errors.CallCancelledError, False),
    (Code.UNAUTHENTICATED, errors.UnauthenticatedError, False),
    (Code.PERMISSION_DENIED, errors.PermissionDeniedError, False),
    (Code.UNIMPLEMENTED, errors.UnimplementedError, False),
    (Code.INTERNAL, errors.InternalError, False),
    (Code.DATA_LOSS, errors.UnknownStatusError, False),
    (Code.UNKNOWN, errors.UnknownStatusError, False),
]


def _all_subclasses(cls: type) -> set[type]:
    return {cls}.union(*map(_all_subclasses, cls.__subclasses__()))


BAD_REQUEST = details_pb2.BadRequest(
    field_violations=[
        details_pb2.BadRequest.FieldViolation(field="user.post_ids[3]", description="is 0"),
        details_pb2.BadRequest.FieldViolation(field="top_k", description="is 0"),
    ]
)


def test_every_class_is_met_here() -> None:
    met = {cls for _, cls, _ in CASES} | {errors.PhoenixClientError, errors.MalformedReplyError}
    assert _all_subclasses(errors.PhoenixClientError) == met


@pytest.mark.parametrize(("code", "expected", "retryable"), CASES)
def test_a_status_raises_its_class(
    server: FakeServer,
    ask: Ask,
    code: grpc.StatusCode,
    expected: type[errors.PhoenixClientError],
    retryable: bool,
) -> None:
    server.failures = [Failure(code)] * 3
    with pytest.raises(expected) as caught:
        ask("retrieve", User(1), top_k=1)
    assert type(caught.value) is expected
    assert caught.value.code is code
    assert caught.value.message == str(caught.value) == "as the test wants"
    assert caught.value.retryable is retryable
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_an_invalid_argument_names_the_fields(server: FakeServer, ask: Ask) -> None:
    server.failures = [Failure(Code.INVALID_ARGUMENT, "bad", [BAD_REQUEST])]
    with pytest.raises(errors.InvalidArgumentError) as caught:
        ask("encode_user", User(1))
    assert caught.value.field_violations == (("user.post_ids[3]", "is 0"), ("top_k", "is 0"))


def test_missing_posts_are_named_exactly(server: FakeServer, ask: Ask) -> None:
    names = (str(2**64 - 1), "7", "not an id")
    missing = [details_pb2.ResourceInfo(resource_name=name) for name in names]
    server.failures = [Failure(Code.NOT_FOUND, "no such posts", missing)]
    with pytest.raises(errors.NotFoundError) as caught:
        ask("score_posts", User(1), [1, 2])
    assert caught.value.missing_post_ids == (2**64 - 1, 7)


def test_a_full_queue_says_when_to_come_again(server: FakeServer, ask: Ask) -> None:
    retry = details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=250_000_000))
    server.failures = [Failure(Code.RESOURCE_EXHAUSTED, "full", [retry])]
    with pytest.raises(errors.ResourceExhaustedError) as caught:
        ask("get_model")
    assert caught.value.retry_after_s == 1.25
    assert caught.value.retryable


@pytest.mark.parametrize(
    ("delay", "retry_after_s"), [(Duration(seconds=2, nanos=500_000_000), 2.5), (Duration(), 0)]
)
def test_a_full_queue_says_in_a_batch_when_to_come_again(
    server: FakeServer, ask: Ask, delay: Duration, retry_after_s: float
) -> None:
    reply = retrieval_pb2.BatchRetrieveResponse()
    reply.results.add().status.MergeFrom(
        retrieval_pb2.RequestStatus(
            code=Code.RESOURCE_EXHAUSTED.value[0], message="full", retry_delay=delay
        )
    )
    server.replies = [reply]
    (error,) = ask("batch_retrieve", [RetrieveQuery(user=User(1), top_k=1)])
    assert type(error) is errors.ResourceExhaustedError
    assert (error.message, error.retry_after_s) == ("full", retry_after_s)
    assert error.retryable


@pytest.mark.parametrize("limit", ["max_request_bytes", "max_response_bytes"])
def test_a_message_too_large_is_not_retryable(ask: Ask, limit: str) -> None:
    ask.client_options = {limit: 10}
    with pytest.raises(errors.ResourceExhaustedError) as caught:
        ask("retrieve", User(1), top_k=3)
    assert caught.value.retry_after_s is None
    assert not caught.value.retryable


def test_details_that_cannot_be_read_are_left_out(server: FakeServer, ask: Ask) -> None:
    nonsense = any_pb2.Any(type_url="type.googleapis.com/google.rpc.BadRequest", value=b"\xff")
    server.failures = [Failure(Code.INVALID_ARGUMENT, "bad", [nonsense])]
    with pytest.raises(errors.InvalidArgumentError, match="bad") as caught:
        ask("get_model")
    assert caught.value.field_violations == ()
