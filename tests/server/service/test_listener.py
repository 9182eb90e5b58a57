"""The listener and the interceptor: methods, messages, connections and shutdown."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from http2 import PREFACE, exchange, is_closing, max_streams, ping, pongs
from phoenix_server.config import CallLimits
from phoenix_server.service import listener
from server.service.listener_cases import (
    CORPUS,
    MAX_REQUEST_BYTES,
    SOON_S,
    TWO_POSTS,
    Running,
    delete_posts,
    failure_of,
    read_until,
    receive,
    run_listener,
    until,
)


@pytest.mark.parametrize(
    "path", [b"/\xff", b"\xff" * 300, b"/", b"/\x00", b"/a/b", f"{CORPUS}/Nothing".encode()]
)
async def test_no_name_of_a_method_ends_the_server(
    path: bytes, running: Running, channel: grpc.aio.Channel
) -> None:
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(exchange(path, b""))
        assert b"Method not found!" in await read_until(reader, b"not found!")
        writer.close()
        await writer.wait_closed()
        await delete_posts(channel)


@pytest.mark.parametrize("header", [(b"x-\xff", b"1"), (b"x", b"\xff\n"), (b"\xad-bin", b"\xff")])
async def test_a_header_that_is_no_text_writes_nothing_to_the_log(
    header: tuple[bytes, bytes],
    running: Running,
    channel: grpc.aio.Channel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for path in (f"{CORPUS}/DeletePosts".encode(), b"/unknown"):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(exchange(path, b"", more=[header]))
        await receive(reader, lambda got: len(got) > 60)
        writer.close()
        await writer.wait_closed()
    await delete_posts(channel)
    assert not caplog.records


async def test_unknown_methods_are_unimplemented(channel: grpc.aio.Channel) -> None:
    code, _ = await failure_of(channel.unary_unary("/phoenix.Nowhere/Nothing")(b""))
    assert code is grpc.StatusCode.UNIMPLEMENTED


async def test_a_request_that_is_too_large_is_refused_before_it_is_in_memory(
    channel: grpc.aio.Channel, running: Running
) -> None:
    code, details = await failure_of(delete_posts(channel, bytes(MAX_REQUEST_BYTES + 1)))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"({MAX_REQUEST_BYTES + 1} vs. {MAX_REQUEST_BYTES})" in details
    assert not running.corpus.begun


async def test_a_compressed_request_is_not_unpacked(running: Running) -> None:
    packed = zlib.compress(bytes(MAX_REQUEST_BYTES * 64), wbits=31)
    sent = exchange(f"{CORPUS}/DeletePosts".encode(), None, encoding=b"gzip")
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(sent + struct.pack(">I", 5 + len(packed[:9000]))[1:] + b"\0\1\0\0\0\1\1")
    writer.write(struct.pack(">I", len(packed[:9000])) + packed[:9000])
    assert b"'gzip' is disabled" in await read_until(reader, b"disabled")
    writer.close()


async def test_bytes_that_are_no_message_name_the_request(channel: grpc.aio.Channel) -> None:
    code, details = await failure_of(delete_posts(channel, b"\xff\xff"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("request: is not a message")


async def test_a_call_without_a_request_names_it(channel: grpc.aio.Channel) -> None:
    method = f"{CORPUS}/DeletePosts"
    code, details = await failure_of(channel.stream_unary(method)(iter(())))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details == "request: is missing"


async def test_a_request_of_a_million_empty_entries_is_refused_unparsed(
    channel: grpc.aio.Channel, running: Running
) -> None:
    entries = b"\x22\x00" * 400_000  # label_names
    code, details = await failure_of(
        channel.stream_unary(f"{CORPUS}/StreamUpsertPosts")(iter((entries,)))
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("request: has more than 32768 fields")
    assert not running.corpus.seen


async def test_an_unknown_service_of_health_is_not_found(channel: grpc.aio.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    code, _ = await failure_of(stub.Check(health_pb2.HealthCheckRequest(service="nothing")))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_a_method_that_health_does_not_have_is_unimplemented(
    channel: grpc.aio.Channel,
) -> None:
    code, _ = await failure_of(channel.unary_unary("/grpc.health.v1.Health/List")(b""))
    assert code is grpc.StatusCode.UNIMPLEMENTED


async def test_what_one_of_our_methods_does_not_implement_is_a_fault(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    code, _ = await failure_of(channel.unary_unary(f"{CORPUS}/GetCorpus")(b""))
    assert code is grpc.StatusCode.INTERNAL
    assert "GetCorpus failed" in caplog.text


async def test_reflection_answers_each_request(channel: grpc.aio.Channel) -> None:
    anything: Any = channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(anything)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = [answer async for answer in stub.ServerReflectionInfo(iter([request, request]))]
    assert len(answers) == 2


async def test_a_client_is_told_how_many_calls_it_may_have() -> None:
    async with run_listener(CallLimits(max_calls_per_connection=7)) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(PREFACE + ping())
        assert max_streams(await receive(reader, lambda got: pongs(got) == 1)) == 4 * 7
        writer.close()


@pytest.mark.parametrize("interval_ms", [50, 300_000])
async def test_a_client_may_ask_for_signs_of_life(
    interval_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without calls, as often as the server says; gRPC takes more often for abuse."""
    monkeypatch.setattr(listener, "_MIN_PING_MS", interval_ms)
    async with run_listener() as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(PREFACE)
        for _ in range(6):
            await asyncio.sleep(0.1)
            writer.write(ping())
        got = await receive(reader, lambda got: pongs(got) == 6 or is_closing(got))
        assert is_closing(got) == (interval_ms > 100)
        writer.close()


async def test_a_connection_without_calls_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_MAX_IDLE_MS", 100)
    async with run_listener() as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(PREFACE)
        assert is_closing(await receive(reader, is_closing))
        writer.close()


async def test_at_shutdown_every_call_is_unavailable_or_answered(running: Running) -> None:
    """Callers that never pause, a stream that waits, one that never ends, and half a request."""
    codes: list[grpc.StatusCode] = []
    channels: list[grpc.aio.Channel] = []

    async def call_again_and_again() -> None:
        async with grpc.aio.insecure_channel(
            running.address, [("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            channels.append(channel)
            while True:
                try:
                    await delete_posts(channel)
                except grpc.aio.AioRpcError as exc:
                    codes.append(exc.code())
                    if "shutting down" not in (exc.details() or ""):  # there is no server any more
                        return

    async def sent() -> AsyncGenerator[bytes]:
        yield TWO_POSTS
        await asyncio.sleep(3600)

    async with grpc.aio.insecure_channel(running.address) as channel:
        callers = [asyncio.create_task(call_again_and_again()) for _ in range(16)]
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stream = channel.stream_unary(f"{CORPUS}/StreamUpsertPosts")(sent())
        await until(lambda: running.corpus.seen == [2])
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(exchange(f"{CORPUS}/DeletePosts".encode(), None))
        await until(lambda: len(running.calls.calls) > 1)
        assert await running.calls.calls.stop(SOON_S) == 0
        assert (await failure_of(stream))[0] is grpc.StatusCode.UNAVAILABLE
        assert b"is shutting down" in await read_until(reader, b"shutting down")
        running.calls.hold_refusals()
        held: Any = running.calls._refuse  # pyright: ignore[reportPrivateUsage]
        await until(lambda: len(held._waiters) == len(callers))
        stopping = asyncio.create_task(running.server.stop(SOON_S))
        ready = grpc.ChannelConnectivity.READY
        await until(lambda: all(each.get_state() is not ready for each in channels))
        await running.calls.end()
        assert (await failure_of(watch.read()))[0] is grpc.StatusCode.UNAVAILABLE
        await asyncio.wait_for(stopping, SOON_S)
        await asyncio.wait_for(asyncio.gather(*callers), SOON_S)
        writer.close()
    assert codes
    assert set(codes) == {grpc.StatusCode.UNAVAILABLE}
