from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from phoenix_server.batching import Batcher
from phoenix_server.engine import Answer, Query
from phoenix_server.errors import NotReadyError, OverloadedError
from server.cases import random_user

_PATIENCE_S = 60.0  # for what should come at once; a hang fails then


def _query(name: int) -> Query:
    """Return a query that the fake recognises by its `top_k`."""
    return Query(random_user(1), name)


class _Blocked:
    """Answers queries with their `top_k` as norm, each batch once it is let go."""

    max_batch = 3

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[threading.Thread] = set()
        self.failures: list[Exception] = []
        self.entered = threading.Semaphore(0)
        self.released = threading.Semaphore(0)

    def retrieve(self, queries: Sequence[Query]) -> list[Answer]:
        self.enter([query.top_k for query in queries])
        nothing = np.empty(0, np.float32)
        return [
            Answer(nothing.astype(np.int32), nothing, 0, nothing, float(query.top_k))
            for query in queries
        ]

    def enter(self, names: list[int]) -> None:
        self.batches.append(names)
        self.threads.add(threading.current_thread())
        self.entered.release()
        assert self.released.acquire(timeout=_PATIENCE_S)
        if self.failures:
            raise self.failures.pop(0)

    def call(self, name: int) -> Callable[[], int]:
        """Return a call that is noted like a batch, and returns its name."""

        def run() -> int:
            self.enter([name])
            return name

        return run

    async def wait_entered(self) -> None:
        """Wait until the device works on something."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=_PATIENCE_S)

    def release(self, times: int = 1) -> None:
        self.released.release(times)


@asynccontextmanager
async def _running(max_waiting: int = 100) -> AsyncGenerator[tuple[_Blocked, Batcher], None]:
    device = _Blocked()
    batcher = Batcher(device, max_waiting=max_waiting)
    try:
        yield device, batcher
    finally:
        device.release(1000)
        await asyncio.to_thread(batcher.close)


async def _start(batcher: Batcher, *names: int) -> list[asyncio.Task[Answer]]:
    """Queue queries, in order."""
    tasks = [asyncio.create_task(batcher.retrieve(_query(name))) for name in names]
    await asyncio.sleep(0)  # lets each task run up to where it waits
    return tasks


async def _names(tasks: Sequence[asyncio.Task[Answer]]) -> list[float]:
    async with asyncio.timeout(_PATIENCE_S):
        return [answer.norm for answer in await asyncio.gather(*tasks)]


async def test_queries_that_wait_run_together_up_to_the_largest_batch() -> None:
    async with _running() as (device, batcher):
        first = await _start(batcher, 1)
        await device.wait_entered()
        rest = await _start(batcher, 2, 3, 4, 5, 6)
        device.release(3)
        assert await _names([*first, *rest]) == [1, 2, 3, 4, 5, 6]
        assert device.batches == [[1], [2, 3, 4], [5, 6]]
        assert len(device.threads) == 1


async def test_cancelled_queries_never_run() -> None:
    async with _running() as (device, batcher):
        first = await _start(batcher, 1)
        await device.wait_entered()
        rest = await _start(batcher, 2, 3, 4, 5)
        for cancelled in (rest.pop(0), rest.pop(1)):
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        device.release(2)
        assert await _names([*first, *rest]) == [1, 3, 5]
        assert device.batches == [[1], [3, 5]]


async def test_a_query_that_is_cancelled_while_it_runs_harms_nobody() -> None:
    async with _running() as (device, batcher):
        tasks = await _start(batcher, 1)
        await device.wait_entered()
        tasks += await _start(batcher, 2, 3)
        device.release()
        await device.wait_entered()
        assert device.batches == [[1], [2, 3]]
        tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks.pop(1)
        device.release(2)
        assert await _names([*tasks, *await _start(batcher, 4)]) == [1, 3, 4]


async def test_a_full_queue_refuses_and_says_when_to_return() -> None:
    async with _running(max_waiting=2) as (device, batcher):
        tasks = await _start(batcher, 1)
        await device.wait_entered()
        tasks += await _start(batcher, 2, 3)
        for refused in (batcher.retrieve(_query(4)), batcher.call(device.call(5))):
            with pytest.raises(OverloadedError, match="the queue is full: 2 users wait") as caught:
                await refused
            assert caught.value.retry_after_s > 0
        device.release(2)
        assert await _names(tasks) == [1, 2, 3]
        device.release()
        assert await _names(await _start(batcher, 6)) == [6]
        assert device.batches == [[1], [2, 3], [6]]


async def test_an_exception_reaches_all_of_its_batch_and_no_other() -> None:
    async with _running() as (device, batcher):
        first = await _start(batcher, 1)
        await device.wait_entered()
        failing = await _start(batcher, 2, 3, 4)
        next_ones = await _start(batcher, 5, 6)
        device.release()
        await device.wait_entered()
        device.failures.append(RuntimeError("device lost"))
        device.release(2)
        for task in failing:
            with pytest.raises(RuntimeError, match="device lost"):
                await task
        assert await _names([*first, *next_ones]) == [1, 5, 6]


async def test_too_few_answers_fail_the_rest_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _running() as (device, batcher):
        first = await _start(batcher, 1)
        await device.wait_entered()
        whole = device.retrieve
        monkeypatch.setattr(device, "retrieve", lambda queries: whole(queries)[:1])
        tasks = await _start(batcher, 2, 3)
        device.release(2)
        assert await _names([*first, tasks[0]]) == [1, 2]
        with pytest.raises(ValueError, match="shorter"):
            await tasks[1]


async def test_calls_interleave_in_order_and_run_alone() -> None:
    async with _running() as (device, batcher):
        tasks: list[asyncio.Task[Any]] = [*await _start(batcher, 1)]
        await device.wait_entered()
        for name in (2, 3, 40, 50, 6, 7):
            work = batcher.call(device.call(name)) if name >= 40 else batcher.retrieve(_query(name))
            tasks.append(asyncio.create_task(work))
            await asyncio.sleep(0)
        device.release(5)
        results = await asyncio.gather(*tasks)
        assert [getattr(result, "norm", result) for result in results] == [1, 2, 3, 40, 50, 6, 7]
        assert device.batches == [[1], [2, 3], [40], [50], [6, 7]]
        assert len(device.threads) == 1


async def test_a_call_that_fails_fails_alone() -> None:
    async with _running() as (device, batcher):
        device.failures.append(LookupError("no such row"))
        device.release(2)
        with pytest.raises(LookupError, match="no such row"):
            await batcher.call(device.call(1))
        assert await batcher.call(device.call(2)) == 2


async def test_a_call_may_return_nothing() -> None:
    async with _running() as (_, batcher):
        assert await batcher.call(lambda: None) is None


async def test_a_cancelled_call_never_runs() -> None:
    async with _running() as (device, batcher):
        tasks = await _start(batcher, 1)
        await device.wait_entered()
        call = asyncio.create_task(batcher.call(device.call(2)))
        tasks += await _start(batcher, 3)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        device.release(2)
        assert await _names(tasks) == [1, 3]
        assert device.batches == [[1], [3]]


async def test_close_finishes_what_waits_and_refuses_new_work() -> None:
    async with _running(max_waiting=10**6) as (device, batcher):
        tasks = await _start(batcher, 1)
        await device.wait_entered()
        tasks += await _start(batcher, 2, 3, 4, 5)
        closing = asyncio.create_task(asyncio.to_thread(batcher.close))
        probes = await _start(batcher, 6)
        while not probes[-1].done():  # until the other thread has come as far
            probes += await _start(batcher, 6)
        with pytest.raises(NotReadyError, match="the server drains"):
            await probes.pop()
        assert not closing.done()
        device.release(10**6)
        await closing
        assert await _names([*tasks, *probes]) == [1, 2, 3, 4, 5] + [6] * len(probes)
        with pytest.raises(NotReadyError, match="the server drains"):
            await batcher.call(lambda: None)
        batcher.close()  # again is harmless
        assert not any(thread.is_alive() for thread in device.threads)


async def test_close_gives_up_on_a_device_that_does_not_answer() -> None:
    async with _running() as (device, batcher):
        tasks = await _start(batcher, 1)
        await device.wait_entered()
        assert not await asyncio.to_thread(batcher.close, 0.01)
        device.release(1)
        assert await _names(tasks) == [1]
        assert await asyncio.to_thread(batcher.close)
