from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from functools import partial
from typing import Any

import grpc
import pytest

from phoenix_server.config import CallLimits
from phoenix_server.errors import DeadlineExceededError, NotReadyError, OverloadedError
from phoenix_server.service.calls_in_flight import CallsInFlight

_LARGEST = 100
_LIMITS = CallLimits(max_bytes_in_flight=8 * _LARGEST, max_streams=8)
_SOON_S = 0.001


@pytest.fixture
def calls() -> CallsInFlight:
    return CallsInFlight(_LIMITS, _LARGEST)


async def _sent(*requests: bytes) -> AsyncIterator[bytes]:
    for request in requests:
        yield request


async def _nothing() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


async def _receive(
    calls: CallsInFlight, peer: str, requests: AsyncIterator[bytes], timeout_s: float | None = None
) -> bytes | None:
    """Be a call with one request."""
    with calls.begin(peer) as call:
        return await calls.receive(call, partial(anext, requests, grpc.aio.EOF), timeout_s)


def _result(work: Coroutine[Any, Any, bytes | None]) -> bytes | None:
    """Return the result of a coroutine that does not wait."""
    with pytest.raises(StopIteration) as ended:
        work.send(None)
    return ended.value.value


async def test_a_request_is_received_without_a_turn_of_the_loop_where_there_is_room(
    calls: CallsInFlight,
) -> None:
    assert _result(_receive(calls, "a", _sent(b"request"), 10.0)) == b"request"


async def test_requests_that_arrive_slowly_let_one_of_another_connection_pass(
    calls: CallsInFlight,
) -> None:
    slow = [asyncio.create_task(_receive(calls, "slow", _nothing())) for _ in range(50)]
    await asyncio.sleep(0)
    for _ in range(20):
        assert _result(_receive(calls, "honest", _sent(b"request"), 10.0)) == b"request"
    for task in slow:
        task.cancel()
    await asyncio.wait(slow)
    assert not len(calls)


async def test_a_call_that_does_not_have_its_turn_in_time_may_come_again(
    calls: CallsInFlight,
) -> None:
    slow = [asyncio.create_task(_receive(calls, peer, _nothing())) for peer in "aaaabbbb"]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match=r"no room for 0\.001 s") as caught:
        await _receive(calls, "c", _sent(b"request"), _SOON_S)
    assert caught.value.retry_after_s
    for task in slow:
        task.cancel()


async def test_a_request_that_does_not_arrive_in_time_is_late(calls: CallsInFlight) -> None:
    with pytest.raises(DeadlineExceededError, match=r"has not arrived within 0\.001 s"):
        await _receive(calls, "a", _nothing(), _SOON_S)


async def test_a_call_that_waits_for_its_turn_ends_at_shutdown(calls: CallsInFlight) -> None:
    slow = [asyncio.create_task(_receive(calls, peer, _nothing())) for peer in "aaaabbbbc"]
    await asyncio.sleep(0)
    assert await calls.stop(10.0) == 0
    outcomes = await asyncio.gather(*slow, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {NotReadyError}


async def test_shutdown_begins_while_a_request_is_late(calls: CallsInFlight) -> None:
    call = asyncio.create_task(_receive(calls, "a", _nothing(), 0.0))
    await asyncio.sleep(0)  # its time is over, and the loop will say so just before `stop` begins
    assert await asyncio.create_task(calls.stop(10.0)) == 0
    with pytest.raises(NotReadyError):
        await call


def test_a_connection_has_half_of_the_streams(calls: CallsInFlight) -> None:
    begun = [calls.begin("a", streams=True) for _ in range(4)]
    for call in begun:
        call.__enter__()
    with (
        pytest.raises(OverloadedError, match="4 streams of this connection are in flight"),
        calls.begin("a", streams=True),
    ):
        pass
    with calls.begin("b", streams=True), calls.begin("a"):
        pass
    for call in begun:
        call.__exit__(None, None, None)
    with calls.begin("a", streams=True):
        pass


def test_a_connection_may_have_the_only_stream() -> None:
    calls = CallsInFlight(CallLimits(max_streams=1), _LARGEST)
    with calls.begin("a", streams=True):
        pass


def test_streams_of_requests_have_half_of_the_bytes(calls: CallsInFlight) -> None:
    begun = [calls.begin(peer, streams=True, uploads=True) for peer in "aabb"]
    for call in begun[:2]:
        call.__enter__()
    with (
        pytest.raises(OverloadedError, match="2 streams of requests of this connection are"),
        calls.begin("a", streams=True, uploads=True),
    ):
        pass
    for call in begun[2:]:
        call.__enter__()
    with (
        pytest.raises(OverloadedError, match="4 streams of requests are in flight"),
        calls.begin("c", streams=True, uploads=True),
    ):
        pass
    with calls.begin("c", streams=True):  # a watch of health
        pass


@pytest.mark.parametrize("streams", [False, True])
def test_connections_that_cannot_be_told_apart_have_no_share(streams: bool) -> None:
    limits = CallLimits(max_streams=8, max_calls_per_connection=1)
    calls = CallsInFlight(limits, _LARGEST)
    for _ in range(8):
        calls.begin("", streams=streams).__enter__()


async def test_a_stream_receives_all_its_requests_with_one_reservation(
    calls: CallsInFlight,
) -> None:
    requests = _sent(b"1", b"2", bytes(_LARGEST))
    with calls.begin("a", streams=True, uploads=True) as call:
        read = partial(anext, requests, grpc.aio.EOF)
        received = [await calls.receive(call, read, None) for _ in range(4)]
    assert received == [b"1", b"2", bytes(_LARGEST), None]
