from __future__ import annotations

import asyncio

import pytest

from phoenix_server.errors import OverloadedError
from phoenix_server.service.request_bytes import Call, RequestBytes

_LARGEST = 100


@pytest.fixture
def room() -> RequestBytes:
    """Room for eight requests, four of them of one connection."""
    return RequestBytes(8 * _LARGEST, _LARGEST)


def _reserve(room: RequestBytes, peer: str, count: int) -> list[Call]:
    """Return calls of a connection that receive now."""
    calls = [Call(peer) for _ in range(count)]
    assert all(room.try_reserve(call) for call in calls)
    return calls


async def _wait(room: RequestBytes, call: Call) -> asyncio.Task[None]:
    """Return what ends when it is the call's turn."""
    assert not room.try_reserve(call)
    waiting = asyncio.create_task(room.reserve(call))
    await asyncio.sleep(0)
    assert not waiting.done()
    return waiting


async def test_a_request_that_arrives_counts_as_the_largest_one(room: RequestBytes) -> None:
    first, *_ = [*_reserve(room, "a", 4), *_reserve(room, "b", 4)]
    waiting = await _wait(room, Call("c"))
    room.hold(first, 1)
    await asyncio.sleep(0)
    assert not waiting.done()  # one byte too few
    room.release(first)
    await waiting


async def test_a_connection_receives_half_of_the_bytes_at_most(room: RequestBytes) -> None:
    first, *_ = _reserve(room, "slow", 4)
    waiting = await _wait(room, Call("slow"))
    _reserve(room, "honest", 3)
    room.hold(first, 1)
    await asyncio.sleep(0)
    assert not waiting.done()
    room.release(first)
    await waiting


def test_connections_that_cannot_be_told_apart_have_no_share(room: RequestBytes) -> None:
    calls = _reserve(room, "", 8)
    for call in calls:
        room.hold(call, _LARGEST)
    for call in calls:
        room.release(call)
    _reserve(room, "", 8)


def test_a_connection_may_always_receive_one_request(room: RequestBytes) -> None:
    """However many it has in flight: small ones go through one after the other."""
    for call in _reserve(room, "a", 4):
        room.hold(call, 90)
    (call,) = _reserve(room, "a", 1)
    assert not room.try_reserve(Call("a"))
    room.hold(call, 40)
    with pytest.raises(OverloadedError, match="of this connection have 400 bytes") as caught:
        room.hold(_reserve(room, "a", 1)[0], 1)
    assert caught.value.retry_after_s


async def test_connections_take_turns(room: RequestBytes) -> None:
    receiving = [*_reserve(room, "a", 4), *_reserve(room, "b", 4)]
    order: list[str] = []
    tasks: list[asyncio.Task[None]] = []
    for name in ("c1", "c2", "c3", "d1", "d2"):
        task = await _wait(room, Call(name[0]))
        task.add_done_callback(lambda _, name=name: order.append(name))
        tasks.append(task)
    for call in receiving:
        room.release(call)
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    await asyncio.sleep(0)
    assert order == ["c1", "d1", "c2", "d2", "c3"]


async def test_a_call_that_leaves_gives_its_turn_up(room: RequestBytes) -> None:
    first, second, *_ = [*_reserve(room, "a", 4), *_reserve(room, "b", 4)]
    call = Call("c")
    leaves, stays = await _wait(room, call), await _wait(room, Call("c"))
    leaves.cancel()
    room.release(first)
    await stays
    assert not call.reserved
    late = await _wait(room, call)
    room.release(second)  # it is its turn ...
    late.cancel()  # ... when it leaves
    await asyncio.wait({late})
    room.release(call)
    _reserve(room, "d", 1)


async def test_requests_that_have_arrived_are_not_waited_for(room: RequestBytes) -> None:
    """They wait for the device: the caller may come again."""
    for call in _reserve(room, "", 8):
        room.hold(call, 90)
    with pytest.raises(OverloadedError, match="requests in flight have 720 bytes") as caught:
        room.try_reserve(Call("other"))
    assert caught.value.retry_after_s


async def test_a_stream_keeps_its_reservation_until_it_ends(room: RequestBytes) -> None:
    streams = [Call("a", uploads=True) for _ in range(4)]
    for stream in streams:
        assert room.try_reserve(stream)
        room.hold(stream, 1)
    _reserve(room, "b", 4)
    waiting = await _wait(room, Call("c"))
    room.release(streams[0])
    await waiting


def test_a_connection_with_streams_receives_other_requests_too(room: RequestBytes) -> None:
    for _ in range(4):
        assert room.try_reserve(Call("a", uploads=True))
    _reserve(room, "a", 1)
