"""Callers wait until a change is visible."""

import asyncio

import pytest

from phoenix_server.corpus.updates.visibility import Visibility
from phoenix_server.errors import DeadlineExceededError, OverloadedError

PATIENCE_S = 30.0


class Corpus:
    """Says what the last visible change is."""

    last = 0

    def __call__(self) -> int:
        return self.last


async def test_those_whose_change_is_visible_are_woken_and_the_others_wait_on() -> None:
    corpus = Corpus()
    visibility = Visibility(corpus)
    tasks = [
        asyncio.create_task(visibility.wait_for(sequence, PATIENCE_S)) for sequence in (1, 2, 3)
    ]
    await asyncio.sleep(0)
    corpus.last = 2
    await asyncio.to_thread(visibility.wake)
    await asyncio.gather(*tasks[:2])
    assert not tasks[2].done()
    corpus.last = 3
    await asyncio.to_thread(visibility.wake)
    await tasks[2]


async def test_a_change_that_is_visible_already_is_not_waited_for() -> None:
    corpus = Corpus()
    corpus.last = 5
    await Visibility(corpus).wait_for(5, 0.0)


async def test_a_change_that_does_not_come_in_time_is_an_error_that_names_the_last() -> None:
    with pytest.raises(DeadlineExceededError, match="change 4 is not visible yet, the last is 0"):
        await Visibility(Corpus()).wait_for(4, 0.0)


async def test_a_caller_that_gives_up_is_forgotten() -> None:
    corpus = Corpus()
    visibility = Visibility(corpus)
    task = asyncio.create_task(visibility.wait_for(1, PATIENCE_S))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    corpus.last = 1
    visibility.wake()  # nobody is there


async def test_a_bounded_number_of_callers_wait() -> None:
    visibility = Visibility(Corpus())
    tasks = [asyncio.create_task(visibility.wait_for(1, PATIENCE_S)) for _ in range(1024)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError, match="1024 requests wait for changes"):
        await visibility.wait_for(1, PATIENCE_S)
    tasks[7].cancel()
    await asyncio.wait([tasks[7]])
    tasks[7] = asyncio.create_task(visibility.wait_for(1, PATIENCE_S))
    await asyncio.sleep(0)
    assert not tasks[7].done()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
