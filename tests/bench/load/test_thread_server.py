from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import grpc
import numpy as np
import pytest

from bench.load.cases import a_model
from phoenix_bench.load.requests import METHOD, RequestMix, draw_requests
from phoenix_bench.load.thread_server import ThreadServer
from phoenix_retrieval.v1 import retrieval_service_pb2 as pb
from phoenix_retrieval.v1.manifest_pb2 import ModelSizes
from phoenix_server.bundle.features import UserColumns
from phoenix_server.engine.query import Answer, Query

MAX_BATCH = 4
POISON = 13


class FakeEngine:
    """Answers each user with posts that identify the user."""

    max_batch = MAX_BATCH
    generation = "generation"
    bundle = SimpleNamespace(
        manifest=SimpleNamespace(
            model=ModelSizes(history_length=127, num_actions=19, product_surface_vocab_size=16)
        )
    )

    def __init__(self) -> None:
        self.batches: list[int] = []

    def retrieve(self, queries: Sequence[Query]) -> list[Answer]:
        self.batches.append(len(queries))
        if POISON in map(_user_id, queries):
            raise ArithmeticError("poison")
        return [
            Answer(
                post_ids=np.array([_user_id(query) + 1000], np.uint64),
                scores=np.array([0.5], np.float32),
                author_ids=np.zeros(1, np.uint64),
                created_at_unix_ms=np.zeros(1, np.int64),
                labels=None,
                eligible=100,
                scanned=100,
                sequence=0,
                representation=np.zeros(1, np.float32),
                norm=1.0,
            )
            for query in queries
        ]


def _user_id(query: Query) -> int:
    assert isinstance(query.user, UserColumns)
    return query.user.user_id


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def retrieve(engine: FakeEngine) -> Generator[Any, None, None]:
    server = ThreadServer(cast(Any, engine))
    with grpc.insecure_channel(server.address) as channel:
        yield channel.unary_unary(
            METHOD,
            request_serializer=pb.RetrieveRequest.SerializeToString,
            response_deserializer=pb.RetrieveResponse.FromString,
        )
    server.close()


def a_request(user_id: int) -> pb.RetrieveRequest:
    (request,) = draw_requests(a_model(), RequestMix(count=1, top_k=1))
    request.user.user_id = user_id
    return request


def test_each_caller_gets_its_own_answer(retrieve: Any, engine: FakeEngine) -> None:
    with ThreadPoolExecutor(16) as callers:
        replies = list(callers.map(retrieve, [a_request(i + 20) for i in range(40)]))
    assert [list(reply.post_ids) for reply in replies] == [[i + 1020] for i in range(40)]
    assert replies[0].generation == "generation"
    assert (replies[0].rows_scanned, replies[0].rows_eligible) == (100, 100)
    assert max(engine.batches) <= MAX_BATCH
    assert sum(engine.batches) == 40


def test_a_failure_reaches_its_caller_and_the_server_continues(retrieve: Any) -> None:
    with pytest.raises(grpc.RpcError, match="poison"):
        retrieve(a_request(POISON))
    assert list(retrieve(a_request(21)).post_ids) == [1021]
