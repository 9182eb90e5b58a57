"""Batches, calls, failures and closing; deadlines are in `test_deadlines`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import pytest

from phoenix_server.config import QueueConfig
from phoenix_server.errors import NotReadyError, OverloadedError
from server.batching.fakes import PATIENCE_S, Device, norms, query, running, start


async def test_queries_that_wait_run_together_up_to_the_largest_batch() -> None:
    async with running() as (device, batcher):
        first = await start(batcher, 1)
        await device.wait_entered()
        rest = await start(batcher, 2, 3, 4, 5, 6)
        device.release(3)
        assert await norms([*first, *rest]) == [1, 2, 3, 4, 5, 6]
        assert device.batches == [[1], [2, 3, 4], [5, 6]]
        assert len(device.threads) == 1


async def test_it_is_idle_unless_somebody_waits() -> None:
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


async def test_a_query_that_is_cancelled_once_it_is_prepared_does_not_run() -> None:
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


async def test_a_query_that_is_cancelled_while_it_runs_harms_nobody() -> None:
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


async def test_a_full_queue_refuses_and_says_when_to_return() -> None:
    async with running(max_waiting=2) as (device, batcher):
        tasks = await start(batcher, 1)
        await device.wait_entered()
        tasks += await start(batcher, 2, 3)
        for refused in (batcher.retrieve(query(5)), batcher.call(device.call(6), kind="call")):
            with pytest.raises(OverloadedError, match="the queue is full: 2 users wait") as caught:
                await refused
            assert 1e6 < caught.value.retry_after_s < 2e6
        assert batcher.stats().refused_full == 2
        device.release(2)
        assert await norms(tasks) == [1, 2, 3]
        device.release()
        assert await norms(await start(batcher, 7)) == [7]
        assert device.batches == [[1], [2, 3], [7]]


async def test_the_next_batch_is_prepared_while_the_device_works() -> None:
    async with running(Device(batch_s=0)) as (device, batcher):
        tasks = await start(batcher, 1)
        await device.wait_entered()
        await device.wait_prepared()
        tasks += await start(batcher, 2)
        await device.wait_prepared()
        assert device.prepared == [[1], [2]]
        assert device.batches == [[1]]
        device.release(2)
        assert await norms(tasks) == [1, 2]


async def test_answers_are_out_while_the_device_works_on_the_next_batch() -> None:
    async with running() as (device, batcher):
        first = await start(batcher, 1)
        await device.wait_entered()
        second = await start(batcher, 2)
        device.release()
        assert await norms(first) == [1]
        assert not second[0].done()
        device.release()
        assert await norms(second) == [2]


@pytest.mark.parametrize("step", ["prepare", "launch", "collect"])
async def test_one_bad_query_of_a_batch_fails_only_itself(
    step: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running() as (device, batcher):
        device.broken = 3, step
        first = await start(batcher, 1)
        await device.wait_entered()
        good, bad, other, *rest = await start(batcher, 2, 3, 4, 5, 6)
        device.release(100)
        with caplog.at_level(logging.ERROR), pytest.raises(LookupError, match="3 is broken"):
            await bad
        assert await norms([*first, good, other, *rest]) == [1, 2, 4, 5, 6]
        assert "a batch of 3 failed; its queries run one by one" in caplog.text
        assert "one by one, 1 of 3 queries failed" in caplog.text
        stats = batcher.stats()
        assert (stats.answered, stats.failed) == (5, 1)


async def test_a_failure_of_the_moment_is_made_good() -> None:
    async with running() as (device, batcher):
        tasks = await start(batcher, 1)
        await device.wait_entered()
        tasks += await start(batcher, 2, 3)
        device.release()
        await device.wait_entered()
        device.failures.append(RuntimeError("out of memory"))
        device.release(100)
        assert await norms(tasks) == [1, 2, 3]
        assert device.batches == [[1], [2, 3], [2], [3]]


async def test_a_query_that_fails_alone_is_not_tried_again() -> None:
    async with running() as (device, batcher):
        device.failures.append(RuntimeError("device lost"))
        device.release(100)
        with pytest.raises(RuntimeError, match="device lost"):
            await batcher.retrieve(query(1))
        assert device.batches == [[1]]
        assert await norms(await start(batcher, 2)) == [2]


async def test_too_few_answers_are_a_failure_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as (device, batcher):
        whole = device.collect
        monkeypatch.setattr(device, "collect", lambda launched: whole(launched)[:1])
        tasks = await start(batcher, 1)
        await device.wait_entered()
        tasks += await start(batcher, 2, 3)
        device.release(100)
        assert await norms(tasks) == [1, 2, 3]
        assert device.batches == [[1], [2, 3], [2], [3]]


async def test_calls_interleave_in_order_and_run_alone() -> None:
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


async def test_a_call_that_fails_fails_alone() -> None:
    async with running() as (device, batcher):
        device.failures.append(LookupError("no such row"))
        device.release(2)
        with pytest.raises(LookupError, match="no such row"):
            await batcher.call(device.call(1), kind="call")
        assert await batcher.call(device.call(2), kind="call") == 2
        assert (batcher.stats().failed, batcher.stats().answered) == (1, 1)


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


async def test_close_finishes_what_waits_and_refuses_new_work() -> None:
    async with running() as (device, batcher):
        tasks = await start(batcher, 1)
        await device.wait_entered()
        tasks += await start(batcher, 2, 3, 4, 5, 6)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close, 0.01))
        assert not await closing
        for refused in (batcher.retrieve(query(7)), batcher.call(lambda: None, kind="call")):
            with pytest.raises(NotReadyError, match="the server drains"):
                await refused
        device.release(10)
        assert await asyncio.to_thread(batcher.close)
        assert await norms(tasks) == [1, 2, 3, 4, 5, 6]
        assert await asyncio.to_thread(batcher.close)  # again is harmless
        assert not any(thread.is_alive() for thread in device.threads)


async def test_what_nobody_waits_for_any_more_is_dropped_when_the_loop_is_closed() -> None:
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


async def test_stats_count_everything_once() -> None:
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
def test_limits_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(changes))}: .* is n"):
        QueueConfig(**changes)
