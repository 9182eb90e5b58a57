"""A real server whose services answer what the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from phoenix_retrieval.v1 import corpus_service_pb2 as corpus_pb
from phoenix_retrieval.v1 import corpus_service_pb2_grpc
from phoenix_server.config import CallLimits
from phoenix_server.service.interceptor import CallInterceptor
from phoenix_server.service.listener import make_listener

CORPUS = "/phoenix_retrieval.v1.CorpusService"
MAX_REQUEST_BYTES = 1 << 20
SOON_S = 30.0
TWO_POSTS = corpus_pb.StreamUpsertPostsRequest(
    change=corpus_pb.UpsertPostsRequest(post_ids=[1, 2])
).SerializeToString()


class Corpus(corpus_service_pb2_grpc.CorpusServiceServicer):
    """Deletes nothing, once it may."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.begun = 0
        self.seen: list[int] = []

    async def DeletePosts(self, request: Any, context: Any) -> corpus_pb.DeletePostsResponse:
        self.begun += 1
        await self.may_answer.wait()
        return corpus_pb.DeletePostsResponse()

    async def StreamUpsertPosts(
        self, request_iterator: AsyncIterator[corpus_pb.StreamUpsertPostsRequest], context: Any
    ) -> corpus_pb.StreamUpsertPostsResponse:
        async for request in request_iterator:
            self.seen.append(len(request.change.post_ids))
        return corpus_pb.StreamUpsertPostsResponse()


@dataclass
class Running:
    server: grpc.aio.Server
    calls: CallInterceptor
    corpus: Corpus
    health: Any
    port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@asynccontextmanager
async def run_listener(
    limits: CallLimits | None = None,
    max_request_bytes: int = MAX_REQUEST_BYTES,
    address: str = "127.0.0.1:0",
    check_room: Callable[[float | None], None] = lambda timeout_s: None,
) -> AsyncGenerator[Running]:
    limits = limits or CallLimits()
    calls = CallInterceptor(
        limits,
        max_request_bytes,
        max_fields=lambda: 1 << 15,
        check_room={f"{CORPUS}/DeletePosts": check_room},
    )
    failures: list[Exception] = []
    server = make_listener(calls, max_request_bytes, limits, failures.append)
    checks = health.aio.HealthServicer()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    corpus = Corpus()  # pyright: ignore[reportAbstractUsage]
    corpus_service_pb2_grpc.add_CorpusServiceServicer_to_server(corpus, server)
    reflection.enable_server_reflection([health.SERVICE_NAME], server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield Running(server, calls, corpus, checks, port)
    finally:
        await server.stop(None)
        assert not failures


def delete_posts(channel: grpc.aio.Channel, request: bytes = b"", **options: Any) -> Any:
    return channel.unary_unary(f"{CORPUS}/DeletePosts")(request, **options)


async def failure_of(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while not condition():
            await asyncio.sleep(0.001)


async def read_until(reader: asyncio.StreamReader, part: bytes) -> bytes:
    return await receive(reader, lambda got: part in got)


async def receive(reader: asyncio.StreamReader, until: Callable[[bytes], bool]) -> bytes:
    got = b""
    async with asyncio.timeout(SOON_S):
        while not until(got):
            got += (more := await reader.read(1000))
            if not more:
                break
    return got
