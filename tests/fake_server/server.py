"""A small server that keeps the contract, and fails or waits when told to.

It retrieves and scores the same posts whatever changes; what is written is only looked up.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NoReturn

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import Message
from google.rpc import status_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer, add_HealthServicer_to_server

from fake_server.corpus import Context, FakeCorpus
from fake_server.generations import FakeGenerations
from phoenix_retrieval.v1 import (
    corpus_service_pb2_grpc,
    manifest_pb2,
    model_service_pb2_grpc,
    retrieval_service_pb2_grpc,
)
from phoenix_retrieval.v1 import model_service_pb2 as model_pb2
from phoenix_retrieval.v1 import retrieval_service_pb2 as retrieval_pb2

GENERATION = "towers-1+posts-7"
EMBEDDING_SIZE = 3
REPRESENTATION = (0.6, 0.0, -0.8)
MAX_TOP_K = 100
STATS_FIELDS = model_pb2.GetServingStatsResponse.DESCRIPTOR.fields


class Post(NamedTuple):
    post_id: int
    author_id: int
    score: float
    labels: tuple[str, ...]
    created_at_unix_ms: int


# Best first; ids that no double and no signed integer holds.
POSTS = (
    Post(2**64 - 1, 2**53 + 1, 0.1, ("football", "news"), 1_700_000_000_123),
    Post(2**63 + 1, 2**64 - 3, 1 / 3, (), 0),
    Post(2**53 + 1, 17, -0.25, ("news",), 1_600_000_000_000),
)

# Every field has a value of its own.
STATS = model_pb2.GetServingStatsResponse(
    **{field.name: 2**40 + i for i, field in enumerate(STATS_FIELDS)}
)


class Failure(NamedTuple):
    code: grpc.StatusCode
    message: str = "as the test wants"
    details: Sequence[Message] = ()


def fail(context: Context, failure: Failure) -> NoReturn:
    """End a call as the contract says: with a status, and its details in the trailing metadata."""
    status = status_pb2.Status(code=failure.code.value[0], message=failure.message)
    for detail in failure.details:
        if isinstance(detail, any_pb2.Any):
            status.details.append(detail)
        else:
            status.details.add().Pack(detail)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(failure.code, failure.message)
    raise AssertionError("abort raises")


@dataclass
class FakeServer(
    FakeCorpus,
    FakeGenerations,
    retrieval_service_pb2_grpc.RetrievalServiceServicer,
    HealthServicer,
):
    """The services, and what a test may see and set."""

    target: str = ""
    requests: list[Message] = field(default_factory=list[Message])
    # One a call, or a message of a stream, in order. None: it goes well.
    failures: list[Failure | None] = field(default_factory=list[Failure | None])
    replies: list[Message] = field(default_factory=list[Message])  # instead of the right ones
    hangs: bool = False  # calls wait until they are given up
    watch_ends: bool = False  # the health check stops telling
    called: threading.Event = field(default_factory=threading.Event)
    given_up: threading.Event = field(default_factory=threading.Event)
    serving: threading.Event = field(default_factory=threading.Event)
    watched: threading.Event = field(default_factory=threading.Event)

    def _enter(self, request: Message, context: Context) -> Any:
        self.requests.append(request)
        self.called.set()
        if self.hangs:
            if context.add_callback(self.given_up.set):
                self.given_up.wait()
            context.abort(grpc.StatusCode.CANCELLED, "given up")
        if self.failures and (failure := self.failures.pop(0)):
            fail(context, failure)
        return self.replies.pop(0) if self.replies else None

    def Retrieve(
        self, request: retrieval_pb2.RetrieveRequest, context: Context
    ) -> retrieval_pb2.RetrieveResponse:
        return self._enter(request, context) or top_k(request, self.sequence)

    def BatchRetrieve(
        self, request: retrieval_pb2.BatchRetrieveRequest, context: Context
    ) -> retrieval_pb2.BatchRetrieveResponse:
        return self._enter(request, context) or retrieval_pb2.BatchRetrieveResponse(
            results=[batch_result(one, self.sequence) for one in request.requests]
        )

    def Search(
        self, request: retrieval_pb2.SearchRequest, context: Context
    ) -> retrieval_pb2.SearchResponse:
        count = len(request.post_ids) + len(request.vectors) // EMBEDDING_SIZE
        return self._enter(request, context) or retrieval_pb2.SearchResponse(
            results=[batch_result(request, self.sequence)] * count
        )

    def EncodeUser(
        self, request: retrieval_pb2.EncodeUserRequest, context: Context
    ) -> retrieval_pb2.EncodeUserResponse:
        return self._enter(request, context) or retrieval_pb2.EncodeUserResponse(
            generation=GENERATION, user_representation=REPRESENTATION, user_norm=2.5
        )

    def EncodeCandidates(
        self, request: retrieval_pb2.EncodeCandidatesRequest, context: Context
    ) -> retrieval_pb2.EncodeCandidatesResponse:
        return self._enter(request, context) or retrieval_pb2.EncodeCandidatesResponse(
            generation=GENERATION,
            embedding_size=EMBEDDING_SIZE,
            candidate_representations=[
                float(value)
                for post_id, author_id in zip(request.post_ids, request.author_ids, strict=True)
                for value in (post_id, author_id, -1)
            ],
        )

    def ScorePosts(
        self, request: retrieval_pb2.ScorePostsRequest, context: Context
    ) -> retrieval_pb2.ScorePostsResponse:
        ranks = {post.post_id: rank for rank, post in enumerate(POSTS, start=1)}
        return self._enter(request, context) or retrieval_pb2.ScorePostsResponse(
            generation=GENERATION,
            rows_scanned=len(POSTS),
            rows_eligible=len(POSTS),
            scores=[POSTS[ranks[post_id] - 1].score for post_id in request.post_ids],
            ranks=[ranks[post_id] for post_id in request.post_ids],
            sequence=self.sequence,
        )

    def GetModel(
        self, request: model_pb2.GetModelRequest, context: Context
    ) -> model_pb2.GetModelResponse:
        return self._enter(request, context) or model_pb2.GetModelResponse(
            generation=GENERATION,
            bundle=manifest_pb2.BundleManifest(
                tower_fingerprint="f00d",
                model=manifest_pb2.ModelSizes(
                    embedding_size=EMBEDDING_SIZE,
                    history_length=127,
                    num_actions=19,
                    product_surface_vocab_size=16,
                ),
                compute_dtype="bfloat16",
            ),
            corpus=manifest_pb2.CorpusManifest(dtype="float32", label_names=("football", "news")),
            corpus_rows=2**40,
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

    def GetServingStats(
        self, request: model_pb2.GetServingStatsRequest, context: Context
    ) -> model_pb2.GetServingStatsResponse:
        return self._enter(request, context) or STATS

    def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:
        serving = self.serving.is_set()
        return HealthCheckResponse(
            status=HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
        )

    def Watch(self, request: HealthCheckRequest, context: Context) -> Iterator[HealthCheckResponse]:
        yield self.Check(request, context)
        self.watched.set()
        context.add_callback(self.serving.set)
        if self.watch_ends:
            return
        self.serving.wait()
        yield self.Check(request, context)


def top_k(
    request: retrieval_pb2.RetrieveRequest | retrieval_pb2.SearchRequest, sequence: int = 0
) -> retrieval_pb2.RetrieveResponse:
    posts = POSTS[: request.top_k]
    reply = retrieval_pb2.RetrieveResponse(
        generation=GENERATION,
        rows_scanned=1234,
        rows_eligible=len(POSTS),
        post_ids=[post.post_id for post in posts],
        scores=[post.score for post in posts],
        sequence=sequence,
    )
    if request.return_author_ids:
        reply.author_ids.extend(post.author_id for post in posts)
    if request.return_created_at:
        reply.created_at_unix_ms.extend(post.created_at_unix_ms for post in posts)
    if request.return_labels:
        reply.label_names.extend(sorted({label for post in posts for label in post.labels}))
        reply.label_counts.extend(len(post.labels) for post in posts)
        names = list(reply.label_names)
        reply.label_indices.extend(names.index(name) for post in posts for name in post.labels)
    if request.return_user_representation:
        reply.user_representation.extend(REPRESENTATION)
    return reply


def batch_result(
    request: retrieval_pb2.RetrieveRequest | retrieval_pb2.SearchRequest, sequence: int
) -> retrieval_pb2.RetrieveResult:
    if 0 < request.top_k <= MAX_TOP_K:
        return retrieval_pb2.RetrieveResult(
            status=retrieval_pb2.RequestStatus(), response=top_k(request, sequence)
        )
    return retrieval_pb2.RetrieveResult(
        status=retrieval_pb2.RequestStatus(
            code=grpc.StatusCode.INVALID_ARGUMENT.value[0],
            message="top_k is out of range",
            field_violations=[
                retrieval_pb2.FieldViolation(field="top_k", description="must be from 1 to 100")
            ],
        )
    )


@contextlib.contextmanager
def run_fake_server(credentials: grpc.ServerCredentials | None = None) -> Generator[FakeServer]:
    """Serve on a free port of the loopback interface."""
    fake = FakeServer()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    retrieval_service_pb2_grpc.add_RetrievalServiceServicer_to_server(fake, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(fake, server)
    corpus_service_pb2_grpc.add_CorpusServiceServicer_to_server(fake, server)
    add_HealthServicer_to_server(fake, server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    fake.target = f"127.0.0.1:{port}"
    server.start()
    try:
        yield fake
    finally:
        server.stop(None).wait()
