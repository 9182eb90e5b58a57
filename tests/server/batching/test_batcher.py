"""Batches, calls, cancellation and closing. `test_scheduler` has deadlines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest

from phoenix_server.config import QueueConfig
from phoenix_server.engine.query import EncodedUser, LikePost, Query
from phoenix_server.errors import NotReadyError, OverloadedError
from server.batching.fakes import PATIENCE_S, Device, norms, query, running, start


async def test_waiting_queries_run_together_up_to_max_batch() -> None:
    async with running() as (device, batcher):
        first = await start(batcher, 1)
        await device.wait_entered()
        rest = await start(batcher, 2, 3, 4, 5, 6)
        device.release(3)
        assert await norms([*first, *rest]) == [1, 2, 3, 4, 5, 6]
        assert device.batches == [[1], [2, 3, 4], [5, 6]]
        assert len(device.threads) == 1


async def test_batcher_is_idle_unless_a_request_waits_or_runs() -> None:
    async with running() as (device, batcher), asyncio.timeout(PATIENCE_S):
        assert batcher.is_idle
        tasks = await start(batcher, 1)
        await device.wait_entered()
        assert not batcher.is_idle
        tasks += await start(batcher, 2)
        device.release(2)
        assert await norms(tasks) == [1, 2]
        while not batcher.is_idle:
            await asyncio.sleep(0)


async def test_cancelled_queries_leave_the_queue_and_never_run() -> None:
    async with running(max_waiting=4) as (device, batcher):
        first = await start(batcher, 1)
        await device.wait_entered()
        rest = await start(batcher, 3, 4, 5, 6)
        assert batcher.stats().waiting == 4
        for cancelled in (rest.pop(0), rest.pop(2)):
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        assert batcher.stats().waiting == 2
        rest += await start(batcher, 7, 8)  # there is room again
        device.release(3)
        assert await norms([*first, *rest]) == [1, 4, 5, 7, 8]
        assert device.batches == [[1], [4, 5, 7], [8]]
        assert batcher.stats().cancelled == 2


async def test_query_cancelled_after_preparation_does_not_run() -> None:
    async with running(Device(batch_s=0)) as (device, batcher):
        tasks = await start(batcher, 1)
        await device.wait_entered()
        tasks += await start(batcher, 2)
        for _ in range(2):
            await device.wait_prepared()
        assert batcher.stats().prepared == 1
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks.pop(1)
        device.release(2)
        assert await norms([*tasks, *await start(batcher, 3)]) == [1, 3]
        assert device.batches == [[1], [3]]


async def test_query_cancelled_on_the_device_does_not_affect_its_batch() -> None:
    async with running() as (device, batcher):
        tasks = await start(batcher, 1)
        await device.wait_entered()
        tasks += await start(batcher, 2, 3)
        device.release()
        await device.wait_entered()
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks.pop(1)
        device.release(2)
        assert await norms([*tasks, *await start(batcher, 4)]) == [1, 3, 4]
        assert batcher.stats().cancelled == 1


async def test_full_queue_refuses_with_a_retry_delay() -> None:
    async with running(max_waiting=2) as (device, batcher):
        tasks = await start(batcher, 1)
        await device.wait_entered()
        tasks += await start(batcher, 2, 3)
        for refused in (batcher.retrieve(query(5)), batcher.call(device.call(6), kind="call")):
            with pytest.raises(
                OverloadedError, match="the queue is full: 2 requests wait"
            ) as caught:
                await refused
            assert 1e6 < (caught.value.retry_after_s or 0) < 2e6
        assert batcher.stats().refused_full == 2
        device.release(2)
        assert await norms(tasks) == [1, 2, 3]
        device.release()
        assert await norms(await start(batcher, 7)) == [7]
        assert device.batches == [[1], [2, 3], [7]]


async def test_calls_run_alone_in_order_between_batches() -> None:
    async with running() as (device, batcher):
        tasks: list[asyncio.Task[Any]] = [*await start(batcher, 1)]
        await device.wait_entered()
        for name in (20, 3, 4, 50, 60, 7, 8):
            work: Coroutine[Any, Any, object] = (
                batcher.call(device.call(name), kind="call")
                if name >= 20
                else batcher.retrieve(query(name))
            )
            tasks.append(asyncio.create_task(work))
            await asyncio.sleep(0)
        device.release(6)
        results = [getattr(result, "norm", result) for result in await asyncio.gather(*tasks)]
        assert results == [1, 20, 3, 4, 50, 60, 7, 8]
        assert device.batches == [[1], [20], [3, 4], [50], [60], [7, 8]]
        assert len(device.threads) == 1


async def test_a_call_may_return_nothing() -> None:
    async with running() as (_, batcher):
        assert await batcher.call(lambda: None, kind="call") is None


async def test_a_cancelled_call_never_runs() -> None:
    async with running() as (device, batcher):
        tasks = await start(batcher, 1)
        await device.wait_entered()
        call = asyncio.create_task(batcher.call(device.call(2), kind="call"))
        tasks += await start(batcher, 3)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        device.release(2)
        assert await norms(tasks) == [1, 3]
        assert device.batches == [[1], [3]]


async def test_function_between_batches_runs_on_the_device_thread() -> None:
    async with running() as (device, batcher):
        device.release(1)
        assert await norms(await start(batcher, 1)) == [1]
        threads: list[threading.Thread] = []

        def note() -> None:
            threads.append(threading.current_thread())

        await asyncio.to_thread(batcher.run_between_batches, note)
        assert set(threads) == device.threads


async def test_error_of_a_function_between_batches_reaches_its_caller() -> None:
    def fail() -> None:
        raise LookupError("no such row")

    async with running() as (device, batcher):
        device.release(1)
        with pytest.raises(LookupError, match="no such row"):
            await asyncio.to_thread(batcher.run_between_batches, fail)
        assert await norms(await start(batcher, 1)) == [1]
        batcher.close()
        with pytest.raises(NotReadyError, match="the server is shutting down"):
            batcher.run_between_batches(fail)


async def test_close_finishes_waiting_requests_and_refuses_new_ones() -> None:
    async with running() as (device, batcher):
        tasks = await start(batcher, 1)
        await device.wait_entered()
        tasks += await start(batcher, 2, 3, 4, 5, 6)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close, 0.01))
        assert not await closing
        for refused in (batcher.retrieve(query(7)), batcher.call(lambda: None, kind="call")):
            with pytest.raises(NotReadyError, match="the server is shutting down"):
                await refused
        device.release(10)
        assert await asyncio.to_thread(batcher.close)
        assert await norms(tasks) == [1, 2, 3, 4, 5, 6]
        assert await asyncio.to_thread(batcher.close)  # again is harmless
        assert not any(thread.is_alive() for thread in device.threads)


async def test_results_are_discarded_when_the_event_loop_is_closed() -> None:
    device_and_batcher: list[Any] = []

    async def leave_work_behind() -> None:
        manager = running()
        device, batcher = await manager.__aenter__()
        device_and_batcher.extend((device, batcher))
        await start(batcher, 1)
        await device.wait_entered()

    def run() -> None:
        with asyncio.Runner() as runner:
            runner.run(leave_work_behind())

    await asyncio.to_thread(run)
    device, batcher = device_and_batcher
    device.release()
    assert await asyncio.to_thread(batcher.close)


async def test_stats_count_every_request_once() -> None:
    async with running() as (device, batcher):
        device.unforeseen_compilations = 4
        first = await start(batcher, 1)
        await device.wait_entered()
        assert batcher.stats().on_device == 1
        rest = await start(batcher, 2, 3)
        call = asyncio.create_task(batcher.call(device.call(9), kind="call"))
        await asyncio.sleep(0)
        assert batcher.stats().waiting == 3
        device.release(100)
        await norms([*first, *rest])
        await call
        stats = batcher.stats()
        assert (stats.waiting, stats.prepared, stats.on_device) == (0, 0, 0)
        assert (stats.accepted, stats.answered) == (4, 4)
        assert (stats.batches, stats.batched_users) == (2, 3)
        assert stats.compilations_after_ready == 4
        assert stats.uptime_s >= stats.device_s > 0


@pytest.mark.parametrize(
    "changes", [{"max_waiting": 0}, {"default_timeout_s": 0.0}, {"reply_margin_s": -1.0}]
)
def test_invalid_queue_limits_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(changes))}: .* is n"):
        QueueConfig(**changes)


async def test_only_users_that_any_tower_can_encode_are_recent() -> None:
    async with running(Device(batch_s=0)) as (device, batcher):
        encoded = EncodedUser(np.ones(1, np.float32), 1.0)
        tasks = [
            asyncio.create_task(batcher.retrieve(each))
            for each in (query(1), Query(encoded, 2), Query(LikePost(5), 3), query(4))
        ]
        device.release(4)
        await asyncio.gather(*tasks)
        assert [each.top_k for each in batcher.recent] == [1, 4]
