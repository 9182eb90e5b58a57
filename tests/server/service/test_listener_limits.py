"""What calls in flight may cost: their number, their bytes, and the time that they may take."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from http2 import SlowSender, exchange
from phoenix_retrieval.v1 import corpus_service_pb2_grpc
from phoenix_server.config import CallLimits
from phoenix_server.errors import OverloadedError
from server.service.listener_cases import (
    CORPUS,
    MAX_REQUEST_BYTES,
    SOON_S,
    TWO_POSTS,
    Running,
    delete_posts,
    failure_of,
    read_until,
    run_listener,
    until,
)


async def test_a_request_that_does_not_arrive_gives_its_place_up() -> None:
    async with run_listener(CallLimits(receive_timeout_s=0.05)) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(exchange(f"{CORPUS}/DeletePosts".encode(), None))
        assert b"has not arrived within 0.05 s" in await read_until(reader, b"0.05 s")
        assert not len(running.calls.calls)
        writer.close()


@pytest.mark.parametrize(
    ("limits", "details"),
    [
        (CallLimits(max_calls=2), "2 calls are in flight"),
        (CallLimits(max_calls_per_connection=2), "2 calls of this connection are in flight"),
    ],
)
async def test_calls_beyond_the_maximum_are_refused_unread(
    limits: CallLimits, details: str
) -> None:
    async with (
        run_listener(limits) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        running.corpus.may_answer.clear()
        calls = [delete_posts(channel) for _ in range(2)]
        await until(lambda: running.corpus.begun == 2)
        assert await failure_of(delete_posts(channel)) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            details,
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        if limits.max_calls == 2:
            writer.write(exchange(f"{CORPUS}/DeletePosts".encode(), None))
            assert b"calls are in flight" in await read_until(reader, b"in flight")
        writer.close()
        running.corpus.may_answer.set()
        for call in calls:
            await call
        await delete_posts(channel)


async def test_a_call_that_would_be_refused_anyway_is_refused_unread() -> None:
    given_s: list[float | None] = []

    def check_room(timeout_s: float | None) -> None:
        given_s.append(timeout_s)
        raise OverloadedError("it would be late", retry_after_s=2.0)

    async with (
        run_listener(check_room=check_room) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        no_message = b"\xff"
        for timeout_s in (None, 1000.0):
            code, details = await failure_of(delete_posts(channel, no_message, timeout=timeout_s))
            assert (code, details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "it would be late")
        without, with_s = given_s
        assert without is None
        assert with_s is not None and 900 < with_s < 1100  # gRPC rounds it
        assert not running.corpus.begun
        assert not len(running.calls.calls)


async def test_a_burst_on_one_connection_is_answered_or_refused(running: Running) -> None:
    """gRPC itself would reset calls beyond the streams of a connection: UNAVAILABLE."""

    async def outcome(channel: grpc.aio.Channel) -> grpc.StatusCode:
        try:
            await delete_posts(channel)
        except grpc.aio.AioRpcError as exc:
            return exc.code()
        return grpc.StatusCode.OK

    async with grpc.aio.insecure_channel(running.address) as channel:
        codes = await asyncio.gather(*(outcome(channel) for _ in range(2000)))
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert grpc.StatusCode.OK in codes


async def test_streams_beyond_the_maximum_are_refused() -> None:
    async with (
        run_listener(CallLimits(max_streams=1)) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        code, details = await failure_of(stub.Watch(health_pb2.HealthCheckRequest()).read())
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details == "1 streams are in flight"
        watch.cancel()
        await until(lambda: not len(running.calls.streams))
        again = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await again.read()).status == health_pb2.HealthCheckResponse.SERVING


async def test_the_bytes_of_requests_in_flight_are_bounded_in_all_and_by_connection() -> None:
    async with (
        run_listener(CallLimits(max_bytes_in_flight=4000), 1000) as running,
        grpc.aio.insecure_channel(running.address) as first,
        grpc.aio.insecure_channel(
            running.address, [("grpc.use_local_subchannel_pool", 1)]
        ) as other,
    ):
        running.corpus.may_answer.clear()
        padding = b"\x9a\x06\xe4\x07" + bytes(996)  # an unknown field; 1000 bytes
        calls = [delete_posts(first, padding) for _ in range(2)]
        await until(lambda: running.corpus.begun == 2)
        code, details = await failure_of(delete_posts(first, padding))
        assert (code, details) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "the requests in flight of this connection have 2000 bytes",
        )
        calls += [delete_posts(other, padding) for _ in range(2)]
        await until(lambda: running.corpus.begun == 4)
        async with grpc.aio.insecure_channel(
            running.address, [("grpc.use_local_subchannel_pool", 1)]
        ) as third:
            code, details = await failure_of(delete_posts(third, padding))
        assert (code, details) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "the requests in flight have 4000 bytes",
        )
        running.corpus.may_answer.set()
        for call in calls:
            await call
        await delete_posts(first, padding)


async def test_requests_that_arrive_slowly_take_no_more_memory_than_there_may_be() -> None:
    async with (
        run_listener(
            CallLimits(max_bytes_in_flight=4 * MAX_REQUEST_BYTES, receive_timeout_s=SOON_S)
        ) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        slow = SlowSender(reader, writer)
        slow.begin(f"{CORPUS}/DeletePosts".encode(), calls=20)
        await until(lambda: len(running.calls.calls) == 20)
        await slow.send(MAX_REQUEST_BYTES)
        complete = 5 + MAX_REQUEST_BYTES - 1
        assert sorted(slow.sent.values())[-2:] == [complete, complete]
        assert max(sorted(slow.sent.values())[:-2]) < 1 << 16
        await delete_posts(channel)
        writer.close()


async def test_a_stream_whose_first_request_does_not_arrive_gives_its_place_up() -> None:
    async with (
        run_listener(CallLimits(max_streams=2, receive_timeout_s=0.05)) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        stub: Any = corpus_service_pb2_grpc.CorpusServiceStub(channel)
        code, details = await failure_of(stub.StreamUpsertPosts())
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert details == "the request has not arrived within 0.05 s"
        assert not len(running.calls.calls)


async def test_a_stream_may_wait_for_ever_between_two_requests() -> None:
    async with (
        run_listener(CallLimits(receive_timeout_s=0.05)) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        late = asyncio.Event()

        async def sent() -> AsyncGenerator[bytes]:
            yield TWO_POSTS
            await late.wait()
            yield TWO_POSTS

        stream = channel.stream_unary(f"{CORPUS}/StreamUpsertPosts")(sent())
        await until(lambda: running.corpus.seen == [2])
        other = channel.stream_unary(f"{CORPUS}/StreamUpsertPosts")()
        assert (await failure_of(other))[0] is grpc.StatusCode.DEADLINE_EXCEEDED  # as long as that
        late.set()
        await stream
        assert running.corpus.seen == [2, 2]


async def test_connections_over_a_unix_socket_have_no_share(tmp_path: Path) -> None:
    """gRPC names them all alike."""
    address = f"unix:{tmp_path / 'socket'}"
    async with run_listener(CallLimits(max_calls_per_connection=1), address=address) as running:
        running.corpus.may_answer.clear()
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with (
            grpc.aio.insecure_channel(address, options) as first,
            grpc.aio.insecure_channel(address, options) as other,
        ):
            calls = [delete_posts(first), delete_posts(other)]
            await until(lambda: running.corpus.begun == 2)
            running.corpus.may_answer.set()
            for call in calls:
                await call
