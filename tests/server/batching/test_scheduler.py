"""Order, admission and expiry by deadline on a fake clock; goodput under load in simulation."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from phoenix_server.batching.request import Batch
from phoenix_server.batching.request_queue import RequestQueue
from phoenix_server.batching.scheduler import Scheduler
from phoenix_server.config import QueueConfig
from phoenix_server.errors import DeadlineExceededError, OverloadedError
from server.batching.fakes import (
    PATIENCE_S,
    Clock,
    Device,
    norms,
    query,
    query_request,
    running,
    start,
)
from server.batching.simulation import MAX_BATCH, USER_S, Simulation, search_s

# Likely time of a batch of b users: 100 + 10 b seconds; cautious time: at first 1.5 times that. The
# fake clock stands still, so no batch is prepared before the running one ends.
_SLOW = {"user_s": 10.0, "batch_s": 100.0}
_REPLY_S = 0.005 + 0.003  # reply_margin_s + Forecast.reply.high at first


async def test_earliest_deadline_runs_first_whenever_it_arrives() -> None:
    async with running(Device(**_SLOW), Clock()) as (device, batcher):
        tasks = await start(batcher, 1)
        await device.wait_entered()
        tasks += await start(batcher, 2, 3, timeout_s=9000.0)
        tasks += await start(batcher, 4, timeout_s=7000.0)
        tasks += await start(batcher, 5)  # without a deadline: due after 1e9 s
        tasks += await start(batcher, 6, timeout_s=8000.0)
        assert device.prepared == [[1]]  # not before the device is about to be free
        device.release(3)
        assert await norms(tasks) == [1, 2, 3, 4, 5, 6]
        assert device.batches == [[1], [4, 6, 2], [3, 5]]


async def test_calls_queue_by_deadline() -> None:
    async with running(Device(**_SLOW), Clock()) as (device, batcher):
        tasks = await start(batcher, 1)
        await device.wait_entered()
        tasks += await start(batcher, 2, timeout_s=9000.0)
        call = asyncio.create_task(batcher.call(device.call(3), kind="call", timeout_s=8000.0))
        await asyncio.sleep(0)
        device.release(3)
        assert await norms(tasks) == [1, 2]
        assert await call == 3
        assert device.batches == [[1], [3], [2]]


async def test_request_that_cannot_meet_its_deadline_is_refused_at_once() -> None:
    async with running(Device(**_SLOW), Clock()) as (device, batcher):
        tasks = await start(batcher, 1)
        await device.wait_entered()
        needed_s = 1.5 * (110 + 110) + _REPLY_S
        with pytest.raises(OverloadedError, match=r"with 330\.000 s left, it would be") as caught:
            await batcher.retrieve(query(2), timeout_s=330.0)
        assert caught.value.retry_after_s == pytest.approx(needed_s - 330)
        tasks += await start(batcher, 3, timeout_s=needed_s + 0.001)
        device.release(2)
        assert await norms(tasks) == [1, 3]
        assert device.batches == [[1], [3]]
        stats = batcher.stats()
        assert (stats.refused_late, stats.accepted) == (1, 2)


async def test_urgent_request_that_would_make_an_accepted_one_late_is_refused() -> None:
    async with running(Device(**_SLOW), Clock()) as (device, batcher):
        tasks = await start(batcher, 1)
        await device.wait_entered()
        tasks += await start(batcher, 2, timeout_s=340.0)
        with pytest.raises(OverloadedError, match="it or another request would be"):
            await batcher.retrieve(query(3), timeout_s=339.0)
        assert batcher.stats().waiting == 1
        device.release(2)
        assert await norms(tasks) == [1, 2]


async def test_request_without_a_deadline_is_admitted_by_the_default_timeout() -> None:
    async with running(Device(**_SLOW), Clock(), default_timeout_s=331.0) as (device, batcher):
        tasks = await start(batcher, 1)
        await device.wait_entered()
        tasks += await start(batcher, 2)
        with pytest.raises(OverloadedError, match="it would be"):
            await batcher.retrieve(query(3))
        device.release(2)
        assert await norms(tasks) == [1, 2]


async def test_request_without_a_deadline_never_expires() -> None:
    clock = Clock()
    async with running(Device(**_SLOW), clock) as (device, batcher):
        tasks = await start(batcher, 1)
        await device.wait_entered()
        tasks += await start(batcher, 2)
        clock.now_s += 1e6
        device.release(2)
        assert await norms(tasks) == [1, 2]


async def test_expired_request_never_reaches_the_device() -> None:
    clock = Clock()
    async with running(Device(**_SLOW), clock) as (device, batcher):
        tasks = await start(batcher, 1)
        await device.wait_entered()
        (late,) = await start(batcher, 2, timeout_s=500.0)
        tasks += await start(batcher, 3, timeout_s=5000.0)
        clock.now_s += 500.0
        device.release(2)
        with pytest.raises(DeadlineExceededError):
            await late
        assert await norms(tasks) == [1, 3]
        assert device.batches == [[1], [3]]
        assert batcher.stats().expired == 1


async def test_request_that_expires_after_preparation_never_reaches_the_device() -> None:
    clock = Clock()
    async with running(Device(batch_s=0), clock) as (device, batcher):
        tasks = await start(batcher, 1)
        await device.wait_entered()
        (late,) = await start(batcher, 2, timeout_s=500.0)
        for _ in range(2):
            await device.wait_prepared()
        clock.now_s += 500.0
        device.release(100)
        with pytest.raises(DeadlineExceededError):
            await late
        assert await norms([*tasks, *await start(batcher, 3)]) == [1, 3]
        assert device.batches == [[1], [3]]
        assert batcher.stats().expired == 1


async def test_accepted_request_that_can_no_longer_be_in_time_is_dropped() -> None:
    clock = Clock()
    async with running(Device(**_SLOW), clock) as (device, batcher):
        tasks = await start(batcher, 1)
        await device.wait_entered()
        (late,) = await start(batcher, 2, timeout_s=500.0)
        tasks += await start(batcher, 3, timeout_s=5000.0)
        clock.now_s += 450.0
        device.release(2)
        with pytest.raises(OverloadedError, match="longer than forecast") as caught:
            await late
        assert (caught.value.retry_after_s or 0) > 0
        assert await norms(tasks) == [1, 3]
        assert device.batches == [[1], [3]]
        stats = batcher.stats()
        assert (stats.dropped_late, stats.expired) == (1, 0)


async def test_cancelled_expired_and_overrun_requests_are_counted_apart() -> None:
    clock = Clock()
    async with running(Device(**_SLOW), clock) as (device, batcher):
        tasks = await start(batcher, 1, timeout_s=400.0)
        await device.wait_entered()
        tasks += await start(batcher, 2, timeout_s=400.0)
        tasks += await start(batcher, 3, timeout_s=4000.0)
        clock.now_s += 400.0
        for task in tasks:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        stats = batcher.stats()
        assert (stats.overrun, stats.expired, stats.cancelled) == (1, 1, 1)
        device.release(2)
        assert await norms(await start(batcher, 4)) == [4]


async def test_slow_batches_make_admission_stricter() -> None:
    clock = Clock()
    async with running(Device(**_SLOW), clock) as (device, batcher):
        for name in range(1, 6):
            tasks = await start(batcher, name, timeout_s=1000.0)
            await device.wait_entered()
            clock.now_s += 220.0  # twice the forecast
            device.release()
            assert await norms(tasks) == [name]
        stats = batcher.stats()
        assert 1.0 < stats.slowness < 2.0
        assert stats.forecast_deviation > 0.125
        assert stats.device_s == 5 * 220.0
        with pytest.raises(OverloadedError):
            await batcher.retrieve(query(6), timeout_s=200.0)


async def test_idle_device_is_tried_again_after_slow_batches() -> None:
    clock = Clock()
    async with running(Device(**_SLOW), clock) as (device, batcher):
        for name in range(1, 9):
            tasks = await start(batcher, name, timeout_s=1000.0)
            await device.wait_entered()
            clock.now_s += 220.0
            device.release()
            assert await norms(tasks) == [name]
        device.release()
        async with asyncio.timeout(PATIENCE_S):
            refusals = 0
            while refusals == batcher.stats().refused_late:
                with suppress(OverloadedError):
                    await batcher.retrieve(query(9), timeout_s=150.0)
                    break
                refusals += 1
        assert 0 < refusals < 100


async def test_slow_replies_make_admission_stricter() -> None:
    clock = Clock()
    async with running(Device(**_SLOW), clock) as (device, batcher):

        async def reply(name: int) -> None:
            await batcher.retrieve(query(name), timeout_s=1000.0)
            clock.now_s += 5.0

        for name in range(1, 90):
            task = asyncio.create_task(reply(name))
            await device.wait_entered()
            clock.now_s += 110.0
            device.release()
            await task
            await asyncio.sleep(0)
        assert batcher.stats().reply_s == pytest.approx(5.0, rel=0.05)
        with pytest.raises(OverloadedError):
            await batcher.retrieve(query(90), timeout_s=114.9)


def test_function_between_batches_runs_before_waiting_requests() -> None:
    queue = RequestQueue(3, lambda users: 10.0)
    scheduler = Scheduler(queue, QueueConfig(), Clock(), lambda outcomes: None)
    request = query_request(1, 5000.0)
    scheduler.admit(request)

    def function() -> None:
        pass

    scheduler.add_between(function)
    assert scheduler.next_for_device(wait=False) is function
    batch = scheduler.next_for_device(wait=False)
    assert isinstance(batch, Batch)
    assert batch.requests == [request]


@pytest.mark.parametrize("slowness", [1.0, 1.5])
@pytest.mark.parametrize("irregularity", [0.0, 0.1])
@pytest.mark.parametrize("timeouts_s", [(0.5,), (0.5, 0.5, 2.0)])
def test_goodput_stays_at_capacity_under_overload(
    timeouts_s: tuple[float, ...], irregularity: float, slowness: float
) -> None:
    for seed in range(2):
        simulation = Simulation(slowness=slowness, irregularity=irregularity, seed=seed)
        outcome = simulation.run(load=3.0, timeouts_s=timeouts_s)
        assert outcome.in_time >= 0.9 * outcome.capacity
        assert outcome.late <= 0.02 * outcome.in_time


@pytest.mark.parametrize("costs", [(1.0, 1.0), (0.3, 1.5)])
@pytest.mark.parametrize("irregularity", [0.0, 0.2])
@pytest.mark.parametrize("timeouts_s", [(0.5,), (0.5, 0.7, 2.0)])
def test_nearly_all_who_are_refused_before_they_are_received_would_be_refused_anyway(
    timeouts_s: tuple[float, ...], irregularity: float, costs: tuple[float, float]
) -> None:
    simulation = Simulation(
        slowness=1.5, irregularity=irregularity, seed=0, costs=costs, forecast_all=True
    )
    outcome = simulation.run(load=3.0, timeouts_s=timeouts_s)
    assert simulation.foretold > 0.3 * outcome.refused
    assert simulation.wrongly_foretold <= 0.02 * simulation.foretold


@pytest.mark.parametrize("irregularity", [0.0, 0.1])
def test_no_call_is_refused_or_late_below_capacity(irregularity: float) -> None:
    for seed in range(2):
        simulation = Simulation(slowness=1.0, irregularity=irregularity, seed=seed)
        outcome = simulation.run(load=0.7, timeouts_s=(0.5,))
        assert (outcome.refused, outcome.late) == (0, 0)


def test_short_deadlines_are_served_when_no_full_batch_can_meet_them() -> None:
    simulation = Simulation(slowness=1.0, irregularity=0.0, seed=0)
    full_s = MAX_BATCH * USER_S + search_s(MAX_BATCH)
    outcome = simulation.run(load=3.0, timeouts_s=(0.8 * full_s,))
    assert outcome.in_time >= 0.4 * outcome.capacity
