"""How the two threads run batches and handle failures, through a batcher."""

from __future__ import annotations

import logging

import pytest

from server.batching.fakes import Device, norms, query, running, start


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


async def test_answers_are_delivered_while_the_device_works_on_the_next_batch() -> None:
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
async def test_failing_query_of_a_batch_fails_alone(
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
        assert "a batch of 3 queries failed; running them one by one" in caplog.text
        assert "run one by one, 1 of 3 queries failed" in caplog.text
        stats = batcher.stats()
        assert (stats.answered, stats.failed) == (5, 1)


async def test_queries_of_a_failed_batch_run_again_one_by_one() -> None:
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


async def test_query_that_fails_alone_is_not_retried() -> None:
    async with running() as (device, batcher):
        device.failures.append(RuntimeError("device lost"))
        device.release(100)
        with pytest.raises(RuntimeError, match="device lost"):
            await batcher.retrieve(query(1))
        assert device.batches == [[1]]
        assert await norms(await start(batcher, 2)) == [2]


async def test_too_few_answers_fail_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running() as (device, batcher):
        whole = device.collect
        monkeypatch.setattr(device, "collect", lambda launched: whole(launched)[:1])
        tasks = await start(batcher, 1)
        await device.wait_entered()
        tasks += await start(batcher, 2, 3)
        device.release(100)
        assert await norms(tasks) == [1, 2, 3]
        assert device.batches == [[1], [2, 3], [2], [3]]


async def test_failing_call_does_not_affect_the_next() -> None:
    async with running() as (device, batcher):
        device.failures.append(LookupError("no such row"))
        device.release(2)
        with pytest.raises(LookupError, match="no such row"):
            await batcher.call(device.call(1), kind="call")
        assert await batcher.call(device.call(2), kind="call") == 2
        assert (batcher.stats().failed, batcher.stats().answered) == (1, 1)
