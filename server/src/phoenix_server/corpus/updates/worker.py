"""Writes changes of a corpus while it is searched: first to the disk, then to memory.

One thread takes commands from one queue. It takes consecutive changes together: each is admitted
against the state that those before it leave, all are written to the journal in one transaction, and
applied together between two batches. Then their callers are answered: an acknowledged change is on
the disk and visible.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial

from phoenix_server.corpus.changes import Change, ChangeResult, net
from phoenix_server.corpus.disk.reencode import reencode
from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.corpus.disk.store import Store
from phoenix_server.corpus.updates.admission import Admission
from phoenix_server.corpus.updates.command_queue import CommandQueue
from phoenix_server.corpus.updates.commands import (
    PendingChange,
    SnapshotCommand,
    SnapshotOutcome,
    SwitchCommand,
    UpdateTarget,
)
from phoenix_server.corpus.updates.eviction import EvictionQueue
from phoenix_server.corpus.updates.snapshot_scheduler import SnapshotScheduler
from phoenix_server.corpus.updates.visibility import Visibility
from phoenix_server.errors import CorpusError, PhoenixServerError, ReadOnlyError, StorageError
from phoenix_server.runtime.threads import settle

_log = logging.getLogger(__name__)


class UpdateWorker:
    """Writes the changes of one corpus at a time.

    Its coroutines raise

    * `ReadOnlyError` if the corpus takes no changes;
    * `CorpusFullError` if it has no room for the posts or their labels;
    * `StorageError` if the disk refuses;
    * `OverloadedError` if too many changes are pending;
    * `NotReadyError` after `close`.

    Attributes:
        evict_oldest: Whether the oldest posts are deleted to make room for others.
    """

    def __init__(
        self,
        target: UpdateTarget,
        *,
        snapshot_after: int = 200_000,
        evict_oldest: bool = False,
        before_trim: Callable[[Store], None] = lambda store: None,
    ) -> None:
        """Start the thread.

        Args:
            target: Where changes go at first.
            snapshot_after: Write a snapshot when the changes since the last one have written and
                deleted so many posts.
            evict_oldest: Delete the oldest posts where there is no room for others.
            before_trim: Called with the corpus before its journal loses the changes that a new
                snapshot holds; on the snapshot's thread.
        """
        self.evict_oldest = evict_oldest
        self._snapshot_after = snapshot_after
        self._target = target
        self._journal_posts = _count_journal(target.store)
        self._broken: PhoenixServerError | None = None
        self._eviction: EvictionQueue | None = None
        self._commands = CommandQueue()
        self._snapshots = SnapshotScheduler(before_trim, self._commands.put_finished)
        self._visibility = Visibility(lambda: self._target.engine.corpus.sequence)
        self._thread = threading.Thread(target=self._run, name="updates", daemon=True)
        self._thread.start()

    @property
    def store(self) -> Store:
        """The corpus on the disk."""
        return self._target.store

    @property
    def journal_posts(self) -> int:
        """How many posts the changes since the snapshot have written and deleted."""
        return self._journal_posts

    async def submit(self, change: Change) -> ChangeResult:
        """Write a change; return when it is on the disk and visible."""
        return await asyncio.wrap_future(self.begin(change).future)

    def begin(self, change: Change, after: PendingChange | None = None) -> PendingChange:
        """Queue a change; its `future` is done when it is on the disk and visible.

        Args:
            change: The change.
            after: An earlier one; unless that is written, this is not written either.
        """
        self.check_open()
        pending = PendingChange(change, after)
        self._commands.put(pending)
        return pending

    def check_open(self) -> None:
        """Raise what `submit` would raise whatever the change is."""
        if self.store.read_only:
            raise ReadOnlyError("this server takes no changes of its corpus")
        self._commands.check_open()
        if self._broken is not None:
            raise self._broken

    async def wait_for(self, sequence: int, timeout_s: float | None) -> None:
        """Wait until a change is visible; see `Visibility.wait_for`."""
        await self._visibility.wait_for(sequence, timeout_s)

    async def snapshot(self) -> Snapshot:
        """Write a snapshot of all changes so far, in the background.

        Raises:
            ReadOnlyError: The corpus takes no changes.
            StorageError: The disk refuses; nothing has changed in memory.
        """
        if self.store.read_only:
            raise ReadOnlyError("this server is read-only: it writes no snapshots")
        command = SnapshotCommand()
        self._commands.put(command)
        return await asyncio.wrap_future(command.future)

    async def switch(self, target: UpdateTarget, prepare: Callable[[], None]) -> None:
        """Send the changes from now on to another target.

        Args:
            target: The target.
            prepare: Brings the target up to date and has requests go there; called on the worker's
                thread, between two changes.

        Raises:
            NotReadyError: The server is shutting down.
            Exception: What `prepare` raises. Then changes go where they went.
        """
        command = SwitchCommand(target, prepare)
        self._commands.put(command)
        await asyncio.wrap_future(command.future)

    def snapshots_paused(self) -> AbstractContextManager[None]:
        """Keep snapshots from being written, and the journal from being trimmed, meanwhile."""
        return self._snapshots.paused()

    def stop_waiting(self) -> None:
        """Let all callers of `wait_for` fail."""
        self._visibility.close()

    def close(self, timeout_s: float | None = None) -> bool:
        """Refuse new commands, carry out those in the queue, and end the thread.

        Returns:
            Whether the thread, and a snapshot that was being written, have ended.
        """
        self._snapshots.close()
        self._commands.close()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        """Carry out commands; the body of the worker's thread."""
        while command := self._commands.take(until_empty=not self._snapshots.is_running):
            match command:
                case SnapshotCommand():
                    self._snapshots.request(self._target, command)
                case SnapshotOutcome():
                    if command.store is self.store:
                        self._journal_posts = _count_journal(self.store)
                    self._snapshots.finish(command, self._target)
                case SwitchCommand():
                    if command.future.set_running_or_notify_cancel():
                        settle(command.future, partial(self._switch, command))
                case list():
                    self._write(command)

    def _switch(self, command: SwitchCommand) -> None:
        command.prepare()
        self._target = command.target
        self._broken = self._eviction = None
        self._journal_posts = _count_journal(command.target.store)

    def _write(self, group: list[PendingChange]) -> None:
        try:
            results = self._admit_and_apply(group)
        except BaseException as exc:
            if not isinstance(exc, PhoenixServerError):
                _log.exception("changes failed")
            self._eviction = None  # posts that were taken from it may still be there
            for pending in group:
                if not pending.refused:
                    pending.refuse(exc)
        else:
            for pending, result in results:
                pending.future.set_result(result)

    def _admit_and_apply(
        self, group: list[PendingChange]
    ) -> list[tuple[PendingChange, ChangeResult]]:
        """Write the changes that are admitted, and return their results; refuse the others."""
        if self._broken is not None:
            raise self._broken
        corpus = self._target.engine.corpus
        first = corpus.sequence + 1
        if self.evict_oldest and self._eviction is None:
            self._eviction = EvictionQueue(corpus)
        admission = Admission(corpus, first, self._eviction)
        admitted: list[tuple[PendingChange, ChangeResult]] = []
        for pending in group:
            if not pending.start():
                continue
            try:
                admitted.append((pending, admission.take(pending.change)))
            except PhoenixServerError as exc:
                pending.refuse(exc)
        if admitted:
            self._apply(admission.changes, first)
        return admitted

    def _apply(self, changes: list[Change], first: int) -> None:
        """Write changes to the disk, numbered from `first` on, and apply them in memory.

        Raises:
            StorageError: The disk refuses; nothing has changed in memory.
        """
        store, engine, run_between = self._target
        if first <= store.snapshot.manifest.sequence:
            raise StorageError(store.path, f"change {first} exists; restart the server")
        changes = [reencode(change, engine) for change in changes]
        store.append(first, changes)
        last = first + len(changes) - 1
        change = net(changes)
        try:
            run_between(lambda: engine.apply(change, last))
        except BaseException:
            what = "a change is on the disk but not in memory; restart the server"
            self._broken = StorageError(store.path, what)
            raise
        self._journal_posts += sum(map(len, changes))
        self._visibility.wake()
        if self._journal_posts >= self._snapshot_after:
            self._snapshots.write_due(self._target)


def _count_journal(store: Store) -> int:
    """Return how many posts a journal holds; it tells only when the next snapshot is due."""
    if store.read_only:
        return 0
    try:
        return store.journal_posts()
    except CorpusError:  # the worker must go on: what was done before stands
        _log.exception("the changes since the last snapshot cannot be counted")
        return 0
