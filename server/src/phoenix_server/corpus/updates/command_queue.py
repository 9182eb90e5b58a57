"""The one way for work to reach the update worker's thread."""

import threading
from collections import deque

from phoenix_server.corpus.updates.commands import (
    PendingChange,
    SnapshotCommand,
    SnapshotOutcome,
    SwitchCommand,
)
from phoenix_server.errors import NotReadyError, OverloadedError

_MAX_PENDING_POSTS = 1 << 16
_MAX_GROUP_POSTS = 1 << 13  # a group ends with the change that reaches it
_RETRY_S = 0.1

ControlCommand = SnapshotCommand | SnapshotOutcome | SwitchCommand
Command = PendingChange | ControlCommand


class CommandQueue:
    """Commands in the order of their arrival. Any thread puts, the worker's thread takes."""

    def __init__(self) -> None:
        self._commands: deque[Command] = deque()
        self._pending_posts = 0
        self._closed = False
        self._arrived = threading.Condition()

    def put(self, command: Command) -> None:
        """Add a command.

        Raises:
            NotReadyError: The queue is closed.
            OverloadedError: It is a change, and too many posts are waiting to be written.
        """
        with self._arrived:
            self.check_open()
            if isinstance(command, PendingChange):
                posts = self._pending_posts + len(command.change)
                if self._pending_posts and posts > _MAX_PENDING_POSTS:
                    what = f"{self._pending_posts} posts are waiting to be written"
                    raise OverloadedError(what, retry_after_s=_RETRY_S)
                self._pending_posts = posts
            self._commands.append(command)
            self._arrived.notify()

    def put_finished(self, finished: SnapshotOutcome) -> None:
        """Add what became of a snapshot, to a closed queue too."""
        with self._arrived:
            self._commands.append(finished)
            self._arrived.notify()

    def check_open(self) -> None:
        """Raise `NotReadyError` if the queue is closed."""
        if self._closed:
            raise NotReadyError("the server is shutting down")

    def close(self) -> None:
        """Refuse commands from now on, and stop the worker when it has taken the others."""
        with self._arrived:
            self._closed = True
            self._arrived.notify()

    def take(self, *, until_empty: bool) -> ControlCommand | list[PendingChange] | None:
        """Wait for commands; return the next one, or consecutive changes together.

        Args:
            until_empty: Whether nothing can come any more once the queue is closed and empty.

        Returns:
            None when the queue is closed and empty, and `until_empty` is set.
        """
        with self._arrived:
            while not self._commands:
                if self._closed and until_empty:
                    return None
                self._arrived.wait()
            first = self._commands.popleft()
            if not isinstance(first, PendingChange):
                return first
            group, posts = [first], len(first.change)
            while self._commands and posts < _MAX_GROUP_POSTS:
                if not isinstance(following := self._commands[0], PendingChange):
                    break
                self._commands.popleft()
                group.append(following)
                posts += len(following.change)
            self._pending_posts -= posts
            return group
