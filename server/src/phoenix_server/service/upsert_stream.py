"""Changes of a stream: the next is begun while earlier ones wait for the disk."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing

from phoenix_server.corpus.changes import Change, ChangeResult
from phoenix_server.corpus.updates.commands import PendingChange
from phoenix_server.corpus.updates.worker import UpdateWorker
from phoenix_server.errors import OverloadedError

_MOST_CHANGES = 8  # on their way at once
_MOST_POSTS = 1 << 13  # likewise, or a few streams would fill the queue of changes


async def make_in_order(
    updates: UpdateWorker, changes: AsyncGenerator[Change, None]
) -> ChangeResult:
    """Make changes as they come, in order; none after one that fails.

    Args:
        updates: Makes them.
        changes: They. When it raises, those that came before are made.

    Returns:
        What all of them did, with the number of the last.

    Raises:
        Exception: What the first that failed was refused with, or what `changes` raises.
    """
    stream = _Stream(updates)
    failure: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(stream.settle())  # if it fails, it ends what follows
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
    """The changes that are on their way."""

    def __init__(self, updates: UpdateWorker) -> None:
        self.done = ChangeResult(0, 0, 0, 0)
        self._updates = updates
        self._waiting: deque[PendingChange] = deque()
        self._posts = 0
        self._ended = False
        self._moved = asyncio.Condition()

    async def add(self, change: Change) -> None:
        """Begin a change, as soon as there are few enough on their way."""
        async with self._moved:
            await self._moved.wait_for(lambda: self._has_room_for(change))
            while not self._begin(change):
                first = self._waiting[0]
                await self._moved.wait_for(lambda: first not in self._waiting)  # noqa: B023
            self._moved.notify_all()

    async def end(self) -> None:
        """Let `settle` end when all are made."""
        async with self._moved:
            self._ended = True
            self._moved.notify_all()

    async def settle(self) -> None:
        """Wait for each change in turn, until the end.

        Raises:
            PhoenixServerError: One is not made.
        """
        while True:
            async with self._moved:
                await self._moved.wait_for(lambda: self._waiting or self._ended)
            if not self._waiting:
                return
            made, done = await asyncio.wrap_future(self._waiting[0].future), self.done
            self.done = ChangeResult(
                made.sequence,
                done.inserted + made.inserted,
                done.replaced + made.replaced,
                done.deleted + made.deleted,
                done.evicted + made.evicted,
            )
            async with self._moved:
                self._posts -= len(self._waiting.popleft().change)
                self._moved.notify_all()

    def abandon(self) -> None:
        """Give up what is not made yet."""
        for waiting in self._waiting:
            waiting.future.cancel()
        self._waiting.clear()

    def _has_room_for(self, change: Change) -> bool:
        few = len(self._waiting) < _MOST_CHANGES and self._posts + len(change) <= _MOST_POSTS
        return few or not self._waiting

    def _begin(self, change: Change) -> bool:
        """Begin a change, unless others have filled the queue; then those before it go first."""
        last = self._waiting[-1] if self._waiting else None
        try:
            self._waiting.append(self._updates.begin(change, last))
        except OverloadedError:
            if last is None:
                raise
            return False
        self._posts += len(change)
        return True
