"""Changes of a stream: applied in order, a few pending at once, none after one that failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import numpy as np
import pytest

from phoenix_server.corpus.changes import Change, ChangeResult
from phoenix_server.corpus.updates.commands import PendingChange
from phoenix_server.errors import CorpusFullError, InvalidRequestError, OverloadedError, Violation
from phoenix_server.service.upsert_stream import apply_in_order

_LARGE = np.arange(1, 4097, dtype=np.uint64)


def _change(number: int) -> Change:
    return np.array([number], np.uint64)


class _Updates:
    """An update worker that applies changes when the test says so."""

    def __init__(self) -> None:
        self.begun: list[PendingChange] = []
        self.refuses: set[int] = set()  # numbers of attempts, from 0
        self.attempts = 0

    def begin(self, change: Change, after: PendingChange | None = None) -> PendingChange:
        self.attempts += 1
        if self.attempts - 1 in self.refuses:
            raise OverloadedError("too many wait", retry_after_s=1)
        self.begun.append(PendingChange(change, after))
        return self.begun[-1]

    def make(self, number: int) -> None:
        self.begun[number].future.set_result(ChangeResult(number + 1, 1, 2, 0, 3))


class _Source:
    """Changes that arrive at once; then the stream waits, raises or ends."""

    def __init__(
        self, changes: Sequence[Change], *, waits: bool = False, error: Exception | None = None
    ) -> None:
        self.taken = 0
        self.closed = False
        self._changes, self._waits, self._error = changes, waits, error

    async def __call__(self) -> AsyncGenerator[Change, None]:
        try:
            for change in self._changes:
                self.taken += 1
                yield change
            if self._waits:
                await asyncio.Event().wait()
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True


async def _settled() -> None:
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


def _make(updates: _Updates, source: _Source) -> asyncio.Task[ChangeResult]:
    return asyncio.create_task(apply_in_order(cast(Any, updates), source()))


async def test_eight_changes_are_pending_at_once_and_all_are_counted() -> None:
    updates, source = _Updates(), _Source([_change(n) for n in range(20)])
    task = _make(updates, source)
    for made in range(20):
        await _settled()
        assert len(updates.begun) == min(made + 8, 20)
        assert source.taken == min(made + 9, 20)
        updates.make(made)
    assert await task == ChangeResult(20, 20, 40, 0, 60)
    assert [
        int(each.change[0]) for each in updates.begun if isinstance(each.change, np.ndarray)
    ] == [*range(20)]
    for before, after in zip(updates.begun[:7], updates.begun[1:8], strict=True):
        assert after.after is before


async def test_an_empty_stream_has_an_empty_result() -> None:
    assert await apply_in_order(cast(Any, _Updates()), _Source([])()) == ChangeResult(0, 0, 0, 0)


async def test_large_changes_do_not_fill_the_queue() -> None:
    updates = _Updates()
    task = _make(updates, _Source([_LARGE] * 4 + [np.arange(1, 9000, dtype=np.uint64)]))
    begun: list[int] = []
    for made in range(5):
        await _settled()
        begun.append(len(updates.begun))
        updates.make(made)
    assert begun == [2, 3, 4, 4, 5]  # the last is larger than what may be pending
    await task


async def test_the_first_failure_ends_the_stream_at_once() -> None:
    updates, source = _Updates(), _Source([_change(n) for n in range(5)], waits=True)
    task = _make(updates, source)
    await _settled()
    updates.make(0)
    updates.begun[1].refuse(CorpusFullError("full"))
    await _settled()
    assert task.done() and source.closed
    with pytest.raises(CorpusFullError, match="full"):
        await task
    assert not any(each.start() for each in updates.begun[2:])


async def test_changes_before_an_invalid_one_are_applied() -> None:
    mistake = InvalidRequestError([Violation("change", "is wrong")])
    updates, source = _Updates(), _Source([_change(n) for n in range(3)], error=mistake)
    task = _make(updates, source)
    for made in range(3):
        await _settled()
        assert not task.done()
        assert updates.begun[made].start()
        updates.make(made)
    with pytest.raises(InvalidRequestError, match="is wrong"):
        await task


async def test_an_earlier_failure_is_raised_instead_of_a_later_invalid_change() -> None:
    mistake = InvalidRequestError([Violation("change", "is wrong")])
    updates = _Updates()
    task = _make(updates, _Source([_change(n) for n in range(3)], error=mistake))
    await _settled()
    updates.begun[0].refuse(CorpusFullError("full"))
    with pytest.raises(CorpusFullError, match="full"):
        await task
    assert not any(each.start() for each in updates.begun[1:])


async def test_cancelling_leaves_no_task_and_no_pending_change() -> None:
    updates, source = _Updates(), _Source([_change(n) for n in range(30)])
    before = asyncio.all_tasks()
    task = _make(updates, source)
    await _settled()
    updates.make(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.closed
    assert asyncio.all_tasks() == before
    assert all(each.future.cancelled() for each in updates.begun[1:])
    assert not any(each.start() for each in updates.begun[1:])


async def test_a_full_queue_is_waited_for_while_the_stream_has_pending_changes() -> None:
    updates = _Updates()
    updates.refuses = {2, 3}
    task = _make(updates, _Source([_change(n) for n in range(3)]))
    begun: list[int] = []
    for made in range(3):
        await _settled()
        begun.append(updates.attempts)
        updates.make(made)
    assert begun == [3, 4, 5]
    assert await task == ChangeResult(3, 3, 6, 0, 9)


async def test_a_full_queue_is_an_error_when_the_stream_has_no_pending_changes() -> None:
    updates = _Updates()
    updates.refuses = {1, 2}
    task = _make(updates, _Source([_change(n) for n in range(3)]))
    await _settled()
    updates.make(0)
    with pytest.raises(OverloadedError):
        await task
    assert updates.attempts == 3
