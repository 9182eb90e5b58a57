"""Apply the changes of a stream: the next ones are submitted while earlier ones are written."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing

from phoenix_server.corpus.changes import Change, ChangeResult
from phoenix_server.corpus.updates.commands import PendingChange
from phoenix_server.corpus.updates.worker import UpdateWorker
from phoenix_server.errors import OverloadedError

# The maximum that a stream may have pending; a few streams must not fill the worker's queue.
_MAX_CHANGES = 8
_MAX_POSTS = 1 << 13


async def apply_in_order(
    updates: UpdateWorker, changes: AsyncGenerator[Change, None]
) -> ChangeResult:
    """Apply changes in order, as they arrive; no change is applied after one that failed.

    Args:
        updates: The update worker.
        changes: The changes. If it raises, all changes before are still applied.

    Returns:
        The sum of their results, with the sequence number of the last.

    Raises:
        Exception: The error of the first change that failed, or what `changes` raised.
    """
    stream = _Stream(updates)
    failure: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(stream.settle())  # its failure cancels the loop below
            try:
                async with aclosing(changes):
                    async for change in changes:
                        await stream.add(change)
            except Exception as exc:
                failure = exc
            await stream.end()
    except BaseExceptionGroup as exc:
        raise exc.exceptions[0] from None
    finally:
        stream.abandon()
    if failure is not None:
        raise failure
    return stream.done


class _Stream:
    """The pending changes of a stream."""

    def __init__(self, updates: UpdateWorker) -> None:
        self.done = ChangeResult(0, 0, 0, 0)
        self._updates = updates
        self._pending: deque[PendingChange] = deque()
        self._posts = 0
        self._ended = False
        self._progress = asyncio.Condition()

    async def add(self, change: Change) -> None:
        """Submit a change, as soon as few enough are pending."""
        async with self._progress:
            await self._progress.wait_for(lambda: self._has_room_for(change))
            while not self._submit(change):
                first = self._pending[0]
                await self._progress.wait_for(lambda: first not in self._pending)  # noqa: B023
            self._progress.notify_all()

    async def end(self) -> None:
        """Let `settle` return once all changes are applied."""
        async with self._progress:
            self._ended = True
            self._progress.notify_all()

    async def settle(self) -> None:
        """Wait for the result of each change in order, until the end.

        Raises:
            PhoenixServerError: A change failed.
        """
        while True:
            async with self._progress:
                await self._progress.wait_for(lambda: self._pending or self._ended)
            if not self._pending:
                return
            made, done = await asyncio.wrap_future(self._pending[0].future), self.done
            counts = (a + b for a, b in zip(done[1:], made[1:], strict=True))
            self.done = ChangeResult(made.sequence, *counts)
            async with self._progress:
                self._posts -= len(self._pending.popleft().change)
                self._progress.notify_all()

    def abandon(self) -> None:
        """Cancel all pending changes."""
        for change in self._pending:
            change.future.cancel()
        self._pending.clear()

    def _has_room_for(self, change: Change) -> bool:
        few = len(self._pending) < _MAX_CHANGES and self._posts + len(change) <= _MAX_POSTS
        return few or not self._pending

    def _submit(self, change: Change) -> bool:
        """Submit a change; return False if the queue is full, but changes are pending here."""
        last = self._pending[-1] if self._pending else None
        try:
            self._pending.append(self._updates.begin(change, last))
        except OverloadedError:
            if last is None:
                raise
            return False
        self._posts += len(change)
        return True
