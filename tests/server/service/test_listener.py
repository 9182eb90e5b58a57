"""The listener and the interceptor of a real server whose services answer what the test says."""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from http2 import PREFACE, SlowSender, exchange, is_closing, max_streams, ping, pongs
from phoenix_retrieval.v1 import corpus_service_pb2 as corpus_pb
from phoenix_retrieval.v1 import corpus_service_pb2_grpc
from phoenix_server.config import CallLimits
from phoenix_server.errors import OverloadedError
from phoenix_server.service import listener
from phoenix_server.service.interceptor import CallInterceptor
from phoenix_server.service.listener import make_listener

_CORPUS = "/phoenix_retrieval.v1.CorpusService"
_LIMIT = 1 << 20
_SOON_S = 30.0
_TWO_POSTS = corpus_pb.StreamUpsertPostsRequest(
    change=corpus_pb.UpsertPostsRequest(post_ids=[1, 2])
).SerializeToString()


class _Corpus(corpus_service_pb2_grpc.CorpusServiceServicer):
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
class _Running:
    server: grpc.aio.Server
    calls: CallInterceptor
    corpus: _Corpus
    health: Any
    port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@asynccontextmanager
async def _running(
    limits: CallLimits | None = None,
    max_request_bytes: int = _LIMIT,
    address: str = "127.0.0.1:0",
    check_room: Callable[[float | None], None] = lambda timeout_s: None,
) -> AsyncGenerator[_Running]:
    limits = limits or CallLimits()
    calls = CallInterceptor(
        limits,
        max_request_bytes,
        max_fields=lambda: 1 << 15,
        check_room={f"{_CORPUS}/DeletePosts": check_room},
    )
    failures: list[Exception] = []
    server = make_listener(calls, max_request_bytes, limits, failures.append)
    checks = health.aio.HealthServicer()
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    corpus = _Corpus()  # pyright: ignore[reportAbstractUsage]
    corpus_service_pb2_grpc.add_CorpusServiceServicer_to_server(corpus, server)
    reflection.enable_server_reflection([health.SERVICE_NAME], server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield _Running(server, calls, corpus, checks, port)
    finally:
        await server.stop(None)
        assert not failures


@pytest.fixture
async def running() -> AsyncGenerator[_Running]:
    async with _running() as server:
        yield server


@pytest.fixture
async def channel(running: _Running) -> AsyncGenerator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(running.address) as channel:
        yield channel


def _delete(channel: grpc.aio.Channel, request: bytes = b"", **options: Any) -> Any:
    return channel.unary_unary(f"{_CORPUS}/DeletePosts")(request, **options)


async def _failure(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_SOON_S):
        while not condition():
            await asyncio.sleep(0.001)


async def _read_until(reader: asyncio.StreamReader, part: bytes) -> bytes:
    return await _receive(reader, lambda got: part in got)


@pytest.mark.parametrize(
    "path", [b"/\xff", b"\xff" * 300, b"/", b"/\x00", b"/a/b", f"{_CORPUS}/Nothing".encode()]
)
async def test_no_name_of_a_method_ends_the_server(
    path: bytes, running: _Running, channel: grpc.aio.Channel
) -> None:
    for _ in range(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(exchange(path, b""))
        assert b"Method not found!" in await _read_until(reader, b"not found!")
        writer.close()
        await writer.wait_closed()
        await _delete(channel)


@pytest.mark.parametrize("header", [(b"x-\xff", b"1"), (b"x", b"\xff\n"), (b"\xad-bin", b"\xff")])
async def test_a_header_that_is_no_text_writes_nothing_to_the_log(
    header: tuple[bytes, bytes],
    running: _Running,
    channel: grpc.aio.Channel,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for path in (f"{_CORPUS}/DeletePosts".encode(), b"/unknown"):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(exchange(path, b"", more=[header]))
        await _receive(reader, lambda got: len(got) > 60)
        writer.close()
        await writer.wait_closed()
    await _delete(channel)
    assert not caplog.records


async def test_unknown_methods_are_unimplemented(channel: grpc.aio.Channel) -> None:
    code, _ = await _failure(channel.unary_unary("/phoenix.Nowhere/Nothing")(b""))
    assert code is grpc.StatusCode.UNIMPLEMENTED


async def test_a_request_that_is_too_large_is_refused_before_it_is_in_memory(
    channel: grpc.aio.Channel, running: _Running
) -> None:
    code, details = await _failure(_delete(channel, bytes(_LIMIT + 1)))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"({_LIMIT + 1} vs. {_LIMIT})" in details
    assert not running.corpus.begun


async def test_a_compressed_request_is_not_unpacked(running: _Running) -> None:
    packed = zlib.compress(bytes(_LIMIT * 64), wbits=31)
    sent = exchange(f"{_CORPUS}/DeletePosts".encode(), None, encoding=b"gzip")
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(sent + struct.pack(">I", 5 + len(packed[:9000]))[1:] + b"\0\1\0\0\0\1\1")
    writer.write(struct.pack(">I", len(packed[:9000])) + packed[:9000])
    assert b"'gzip' is disabled" in await _read_until(reader, b"disabled")
    writer.close()


async def test_bytes_that_are_no_message_name_the_request(channel: grpc.aio.Channel) -> None:
    code, details = await _failure(_delete(channel, b"\xff\xff"))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("request: is not a message")


async def test_a_call_without_a_request_names_it(channel: grpc.aio.Channel) -> None:
    method = f"{_CORPUS}/DeletePosts"
    code, details = await _failure(channel.stream_unary(method)(iter(())))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details == "request: is missing"


async def test_a_request_of_a_million_empty_entries_is_refused_unparsed(
    channel: grpc.aio.Channel, running: _Running
) -> None:
    entries = b"\x22\x00" * 400_000  # label_names
    code, details = await _failure(
        channel.stream_unary(f"{_CORPUS}/StreamUpsertPosts")(iter((entries,)))
    )
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("request: has more than 32768 fields")
    assert not running.corpus.seen


async def test_a_request_that_does_not_arrive_gives_its_place_up() -> None:
    async with _running(CallLimits(receive_timeout_s=0.05)) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(exchange(f"{_CORPUS}/DeletePosts".encode(), None))
        assert b"has not arrived within 0.05 s" in await _read_until(reader, b"0.05 s")
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
        _running(limits) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        running.corpus.may_answer.clear()
        calls = [_delete(channel) for _ in range(2)]
        await _until(lambda: running.corpus.begun == 2)
        assert await _failure(_delete(channel)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, details)
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        if limits.max_calls == 2:
            writer.write(exchange(f"{_CORPUS}/DeletePosts".encode(), None))
            assert b"calls are in flight" in await _read_until(reader, b"in flight")
        writer.close()
        running.corpus.may_answer.set()
        for call in calls:
            await call
        await _delete(channel)


async def test_a_call_that_would_be_refused_anyway_is_refused_unread() -> None:
    given_s: list[float | None] = []

    def check_room(timeout_s: float | None) -> None:
        given_s.append(timeout_s)
        raise OverloadedError("it would be late", retry_after_s=2.0)

    async with (
        _running(check_room=check_room) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        no_message = b"\xff"
        for timeout_s in (None, 1000.0):
            code, details = await _failure(_delete(channel, no_message, timeout=timeout_s))
            assert (code, details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "it would be late")
        without, with_s = given_s
        assert without is None
        assert with_s is not None and 900 < with_s < 1100  # gRPC rounds it
        assert not running.corpus.begun
        assert not len(running.calls.calls)


async def test_a_burst_on_one_connection_is_answered_or_refused(running: _Running) -> None:
    """gRPC itself would reset calls beyond the streams of a connection: UNAVAILABLE."""

    async def outcome(channel: grpc.aio.Channel) -> grpc.StatusCode:
        try:
            await _delete(channel)
        except grpc.aio.AioRpcError as exc:
            return exc.code()
        return grpc.StatusCode.OK

    async with grpc.aio.insecure_channel(running.address) as channel:
        codes = await asyncio.gather(*(outcome(channel) for _ in range(2000)))
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert grpc.StatusCode.OK in codes


async def test_streams_beyond_the_maximum_are_refused() -> None:
    async with (
        _running(CallLimits(max_streams=1)) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        code, details = await _failure(stub.Watch(health_pb2.HealthCheckRequest()).read())
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details == "1 streams are in flight"
        watch.cancel()
        await _until(lambda: not len(running.calls.streams))
        again = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await again.read()).status == health_pb2.HealthCheckResponse.SERVING


async def test_the_bytes_of_requests_in_flight_are_bounded_in_all_and_by_connection() -> None:
    async with (
        _running(CallLimits(max_bytes_in_flight=4000), 1000) as running,
        grpc.aio.insecure_channel(running.address) as first,
        grpc.aio.insecure_channel(
            running.address, [("grpc.use_local_subchannel_pool", 1)]
        ) as other,
    ):
        running.corpus.may_answer.clear()
        padding = b"\x9a\x06\xe4\x07" + bytes(996)  # an unknown field; 1000 bytes
        calls = [_delete(first, padding) for _ in range(2)]
        await _until(lambda: running.corpus.begun == 2)
        code, details = await _failure(_delete(first, padding))
        assert (code, details) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "the requests in flight of this connection have 2000 bytes",
        )
        calls += [_delete(other, padding) for _ in range(2)]
        await _until(lambda: running.corpus.begun == 4)
        async with grpc.aio.insecure_channel(
            running.address, [("grpc.use_local_subchannel_pool", 1)]
        ) as third:
            code, details = await _failure(_delete(third, padding))
        assert (code, details) == (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "the requests in flight have 4000 bytes",
        )
        running.corpus.may_answer.set()
        for call in calls:
            await call
        await _delete(first, padding)


async def test_requests_that_arrive_slowly_take_no_more_memory_than_there_may_be() -> None:
    async with (
        _running(CallLimits(max_bytes_in_flight=4 * _LIMIT, receive_timeout_s=_SOON_S)) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        slow = SlowSender(reader, writer)
        slow.begin(f"{_CORPUS}/DeletePosts".encode(), calls=20)
        await _until(lambda: len(running.calls.calls) == 20)
        await slow.send(_LIMIT)
        complete = 5 + _LIMIT - 1
        assert sorted(slow.sent.values())[-2:] == [complete, complete]
        assert max(sorted(slow.sent.values())[:-2]) < 1 << 16
        await _delete(channel)
        writer.close()


async def test_a_stream_whose_first_request_does_not_arrive_gives_its_place_up() -> None:
    async with (
        _running(CallLimits(max_streams=2, receive_timeout_s=0.05)) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        stub: Any = corpus_service_pb2_grpc.CorpusServiceStub(channel)
        code, details = await _failure(stub.StreamUpsertPosts())
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert details == "the request has not arrived within 0.05 s"
        assert not len(running.calls.calls)


async def test_a_stream_may_wait_for_ever_between_two_requests() -> None:
    async with (
        _running(CallLimits(receive_timeout_s=0.05)) as running,
        grpc.aio.insecure_channel(running.address) as channel,
    ):
        late = asyncio.Event()

        async def sent() -> AsyncGenerator[bytes]:
            yield _TWO_POSTS
            await late.wait()
            yield _TWO_POSTS

        stream = channel.stream_unary(f"{_CORPUS}/StreamUpsertPosts")(sent())
        await _until(lambda: running.corpus.seen == [2])
        other = channel.stream_unary(f"{_CORPUS}/StreamUpsertPosts")()
        assert (await _failure(other))[0] is grpc.StatusCode.DEADLINE_EXCEEDED  # as long as that
        late.set()
        await stream
        assert running.corpus.seen == [2, 2]


async def test_connections_over_a_unix_socket_have_no_share(tmp_path: Path) -> None:
    """gRPC names them all alike."""
    address = f"unix:{tmp_path / 'socket'}"
    async with _running(CallLimits(max_calls_per_connection=1), address=address) as running:
        running.corpus.may_answer.clear()
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with (
            grpc.aio.insecure_channel(address, options) as first,
            grpc.aio.insecure_channel(address, options) as other,
        ):
            calls = [_delete(first), _delete(other)]
            await _until(lambda: running.corpus.begun == 2)
            running.corpus.may_answer.set()
            for call in calls:
                await call


async def _receive(reader: asyncio.StreamReader, until: Callable[[bytes], bool]) -> bytes:
    got = b""
    async with asyncio.timeout(_SOON_S):
        while not until(got):
            got += (more := await reader.read(1000))
            if not more:
                break
    return got


async def test_a_client_is_told_how_many_calls_it_may_have() -> None:
    async with _running(CallLimits(max_calls_per_connection=7)) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(PREFACE + ping())
        assert max_streams(await _receive(reader, lambda got: pongs(got) == 1)) == 4 * 7
        writer.close()


@pytest.mark.parametrize("interval_ms", [50, 300_000])
async def test_a_client_may_ask_for_signs_of_life(
    interval_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without calls, as often as the server says; gRPC takes more often for abuse."""
    monkeypatch.setattr(listener, "_MIN_PING_MS", interval_ms)
    async with _running() as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(PREFACE)
        for _ in range(6):
            await asyncio.sleep(0.1)
            writer.write(ping())
        got = await _receive(reader, lambda got: pongs(got) == 6 or is_closing(got))
        assert is_closing(got) == (interval_ms > 100)
        writer.close()


async def test_a_connection_without_calls_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_MAX_IDLE_MS", 100)
    async with _running() as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(PREFACE)
        assert is_closing(await _receive(reader, is_closing))
        writer.close()


async def test_an_unknown_service_of_health_is_not_found(channel: grpc.aio.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    code, _ = await _failure(stub.Check(health_pb2.HealthCheckRequest(service="nothing")))
    assert code is grpc.StatusCode.NOT_FOUND


async def test_a_method_that_health_does_not_have_is_unimplemented(
    channel: grpc.aio.Channel,
) -> None:
    code, _ = await _failure(channel.unary_unary("/grpc.health.v1.Health/List")(b""))
    assert code is grpc.StatusCode.UNIMPLEMENTED


async def test_what_one_of_our_methods_does_not_implement_is_a_fault(
    channel: grpc.aio.Channel, caplog: pytest.LogCaptureFixture
) -> None:
    code, _ = await _failure(channel.unary_unary(f"{_CORPUS}/GetCorpus")(b""))
    assert code is grpc.StatusCode.INTERNAL
    assert "GetCorpus failed" in caplog.text


async def test_reflection_answers_each_request(channel: grpc.aio.Channel) -> None:
    anything: Any = channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(anything)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = [answer async for answer in stub.ServerReflectionInfo(iter([request, request]))]
    assert len(answers) == 2


async def test_at_shutdown_every_call_is_unavailable_or_answered(running: _Running) -> None:
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
                    await _delete(channel)
                except grpc.aio.AioRpcError as exc:
                    codes.append(exc.code())
                    if "shutting down" not in (exc.details() or ""):  # there is no server any more
                        return

    async def sent() -> AsyncGenerator[bytes]:
        yield _TWO_POSTS
        await asyncio.sleep(3600)

    async with grpc.aio.insecure_channel(running.address) as channel:
        callers = [asyncio.create_task(call_again_and_again()) for _ in range(16)]
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stream = channel.stream_unary(f"{_CORPUS}/StreamUpsertPosts")(sent())
        await _until(lambda: running.corpus.seen == [2])
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(exchange(f"{_CORPUS}/DeletePosts".encode(), None))
        await _until(lambda: len(running.calls.calls) > 1)
        assert await running.calls.calls.stop(_SOON_S) == 0
        assert (await _failure(stream))[0] is grpc.StatusCode.UNAVAILABLE
        assert b"is shutting down" in await _read_until(reader, b"shutting down")
        running.calls.hold_refusals()
        held: Any = running.calls._refuse  # pyright: ignore[reportPrivateUsage]
        await _until(lambda: len(held._waiters) == len(callers))
        stopping = asyncio.create_task(running.server.stop(_SOON_S))
        ready = grpc.ChannelConnectivity.READY
        await _until(lambda: all(each.get_state() is not ready for each in channels))
        await running.calls.end()
        assert (await _failure(watch.read()))[0] is grpc.StatusCode.UNAVAILABLE
        await asyncio.wait_for(stopping, _SOON_S)
        await asyncio.wait_for(asyncio.gather(*callers), _SOON_S)
        writer.close()
    assert codes
    assert set(codes) == {grpc.StatusCode.UNAVAILABLE}
