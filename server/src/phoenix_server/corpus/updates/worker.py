"""Takes changes of a corpus while it is searched: first on the disk, then into the index.

One thread does so. It takes all changes that wait, judges each by what those before it will have
done, writes them to the journal in one transaction, and has them applied together between two
batches. Then it answers: a change that was answered is on the disk, and visible.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager

from phoenix_server.corpus.changes import Change, ChangeResult, net
from phoenix_server.corpus.disk.compaction import prune_snapshots, write_snapshot
from phoenix_server.corpus.disk.journal import Journal
from phoenix_server.corpus.disk.reencode import reencode
from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.corpus.disk.store import Store
from phoenix_server.corpus.updates.admission import Admission
from phoenix_server.corpus.updates.eviction import EvictionQueue
from phoenix_server.corpus.updates.pending import Home, Switching, Target, Waiting, Watching
from phoenix_server.errors import (
    CorpusError,
    DeadlineExceededError,
    NotReadyError,
    OverloadedError,
    PhoenixServerError,
    ReadOnlyError,
    StorageError,
)
from phoenix_server.runtime.threads import in_thread

_log = logging.getLogger(__name__)

_MOST_WAITING = 1 << 16  # posts
_MOST_TOGETHER = 1 << 13  # posts, more or less
_RETRY_S = 0.1
_LONG_S = 10.0
_PAUSE_S = 60.0  # after a snapshot that failed


class UpdateWorker:
    """The changes of a corpus, and whoever waits for them.

    Its coroutines raise

    * `ReadOnlyError` if the corpus takes no changes;
    * `CorpusFullError` if it has no room for the posts or their labels;
    * `StorageError` if the disk refuses;
    * `OverloadedError` if too many changes wait;
    * `NotReadyError` once it is closed.

    Attributes:
        evict_oldest: Whether the oldest posts make room for others.
    """

    def __init__(
        self,
        store: Store,
        target: Target,
        between: Callable[[Callable[[], None]], None],
        *,
        snapshot_after: int = 200_000,
        evict_oldest: bool = False,
    ) -> None:
        """Start the thread.

        Args:
            store: Keeps the changes.
            target: Holds the posts.
            between: Runs a function between two batches, and returns when it has.
            snapshot_after: Write a snapshot when the changes since the last have written and
                deleted so many posts.
            evict_oldest: Delete the oldest posts where there is no room for others.
        """
        self.evict_oldest = evict_oldest
        self._oldest: EvictionQueue | None = None
        self._home = Home(store, target, between)
        self._waiting: deque[Waiting] = deque()
        self._switching: deque[Switching] = deque()
        self._posts = 0
        self._journal_posts = 0 if store.read_only else store.journal_posts()
        self._closed = False
        self._broken: PhoenixServerError | None = None
        self._snapshot_after = snapshot_after
        self._snapshotting = threading.Lock()
        self._next_try_s = 0.0
        self.before_trimming: Callable[[Store], None] = lambda store: None
        self._work = threading.Condition()
        self._visible: list[Watching] = []
        self._thread = threading.Thread(target=self._run, name="changes", daemon=True)
        self._thread.start()

    @property
    def store(self) -> Store:
        """Keeps the changes."""
        return self._home.store

    @property
    def _target(self) -> Target:
        return self._home.target

    async def submit(self, change: Change) -> ChangeResult:
        """Make a change; return when it is on the disk and visible."""
        return await self.begin(change).future

    def begin(self, change: Change, after: Waiting | None = None) -> Waiting:
        """Have a change made; its `future` is done when it is on the disk and visible.

        Args:
            change: The change.
            after: One that was begun before: if that is not made, this is not made either.
        """
        waiting = Waiting(change, after)
        with self._work:
            self.check_open()
            if self._posts + len(change) > _MOST_WAITING and self._waiting:
                raise OverloadedError(
                    f"{self._posts} posts wait to be written", retry_after_s=_RETRY_S
                )
            self._waiting.append(waiting)
            self._posts += len(change)
            self._work.notify()
        return waiting

    async def wait_for(self, sequence: int, timeout_s: float | None) -> None:
        """Wait until a change is visible.

        Args:
            sequence: Its number.
            timeout_s: At most so long, in seconds. None: a while.

        Raises:
            DeadlineExceededError: It was not visible in time.
        """
        with self._work:
            if self._target.corpus.sequence >= sequence:
                return
            watching = Watching(sequence)
            self._visible.append(watching)
        try:
            await asyncio.wait_for(watching.future, _LONG_S if timeout_s is None else timeout_s)
        except TimeoutError:
            raise DeadlineExceededError(
                f"change {sequence} is not visible yet, the last is {self._target.corpus.sequence}"
            ) from None
        finally:
            with self._work:
                self._visible.remove(watching)

    async def snapshot(self) -> Snapshot:
        """Write a snapshot of all changes so far, in the background; one at a time.

        Raises:
            ReadOnlyError: The corpus takes no changes.
            StorageError: The disk refuses; nothing has changed.
        """
        if self.store.read_only:
            raise ReadOnlyError("this server takes no changes of its corpus nor writes snapshots")
        return await in_thread(self._snapshot, "snapshot")

    async def switch(
        self, home: Home, catch_up: Callable[[], None], flip: Callable[[], None]
    ) -> None:
        """Have changes go elsewhere: those that wait too, between two of them.

        Args:
            home: Where.
            catch_up: Brings that up to date, while nothing changes; in a thread.
            flip: Has requests go there, so that whoever comes later finds what was changed before;
                on the event loop.

        Raises:
            NotReadyError: The server drains.
            Exception: What these raise. Then all is as it was.
        """
        switching = Switching(home, catch_up, flip)
        with self._work:
            if self._closed:
                raise NotReadyError("the server drains")
            self._switching.append(switching)
            self._work.notify()
        await switching.future

    @contextmanager
    def without_snapshots(self) -> Generator[None, None, None]:
        """Keep snapshots from being written, and the journal from being trimmed, meanwhile."""
        with self._snapshotting:
            yield

    def _snapshot(self) -> Snapshot:
        began_s = time.monotonic()
        with self._snapshotting:
            if self._closed:
                raise NotReadyError("the server drains")
            store, target, _ = self._home
            before = store.snapshot.manifest.sequence
            try:
                written = write_snapshot(store, target)
                self.before_trimming(store)
                journal = Journal(store.journal_path, store.names)
                try:
                    after = written.manifest.sequence
                    with self._work:
                        since = max(before, store.snapshot.manifest.sequence)  # adopted meanwhile
                        store.snapshot = written
                        if store is self.store and since < after:
                            self._journal_posts -= journal.posts(since, after)
                    journal.trim(after)
                finally:
                    journal.close()
                prune_snapshots(store)
            except CorpusError as exc:
                raise StorageError(exc.path, exc.reason) from exc
        took_s = time.monotonic() - began_s
        rows = written.manifest.rows
        _log.info("a snapshot holds %d posts, through change %d: %.1f s", rows, after, took_s)
        return written

    def _snapshot_if_due(self) -> None:
        if self._journal_posts < self._snapshot_after or self._snapshotting.locked():
            return
        if time.monotonic() < self._next_try_s:
            return

        def snapshot() -> None:
            try:
                self._snapshot()
            except Exception:
                self._next_try_s = time.monotonic() + _PAUSE_S
                _log.exception("no snapshot was written; the journal grows on")

        threading.Thread(target=snapshot, name="snapshot", daemon=True).start()

    @property
    def journal_posts(self) -> int:
        """How many posts the changes since the snapshot have written and deleted."""
        return self._journal_posts

    def close(self, timeout_s: float | None = None) -> bool:
        """Refuse new changes, finish those that wait, end the thread, and close the store.

        Returns:
            Whether it has ended.
        """
        with self._work:
            self._closed = True
            self._work.notify()
        self._thread.join(timeout_s)
        idle = self._snapshotting.acquire(timeout=-1 if timeout_s is None else timeout_s)
        if ended := idle and not self._thread.is_alive():
            self.store.close()
        if idle:
            self._snapshotting.release()
        return ended

    def check_open(self) -> None:
        """Raise what `submit` would, if that is known before there is a change."""
        if self.store.read_only:
            raise ReadOnlyError("this server takes no changes of its corpus")
        if self._closed:
            raise NotReadyError("the server drains")
        if self._broken is not None:
            raise self._broken

    def _run(self) -> None:
        while group := self._take():
            try:
                if isinstance(group, Switching):
                    self._switch(group)
                else:
                    self._write(group)
            except BaseException as exc:  # whoever waits must hear of it
                if not isinstance(exc, PhoenixServerError):
                    _log.exception("changes failed")
                if isinstance(group, Switching):
                    group.settle(exc)
                else:
                    self._oldest = None  # what was taken from it may still be there
                    for each in group:
                        each.refuse(exc)

    def _take(self) -> Switching | list[Waiting]:
        """Wait for something to do, and take it; nothing once closed."""
        with self._work:
            while not self._waiting and not self._switching and not self._closed:
                self._work.wait()
            if self._switching:
                return self._switching.popleft()
            group: list[Waiting] = []
            posts = 0
            while self._waiting and posts < _MOST_TOGETHER:
                group.append(self._waiting.popleft())
                posts += len(group[-1].change)
            self._posts -= posts
            return group

    def _switch(self, switching: Switching) -> None:
        store = switching.home.store
        switching.catch_up()
        held = 0 if store.read_only else store.journal_posts()
        switching.flip(lambda: self._closed)
        with self._work:
            self._home, self._journal_posts, self._broken = switching.home, held, None
        self._oldest = None
        switching.settle(None)

    def _write(self, group: list[Waiting]) -> None:
        if self._broken is not None:
            raise self._broken
        first = self._target.corpus.sequence + 1
        if self.evict_oldest and self._oldest is None:
            self._oldest = EvictionQueue(self._target.corpus)
        admission = Admission(self._target.corpus, first, self._oldest)
        taken: list[tuple[Waiting, ChangeResult]] = []
        for each in group:
            if not each.may_be_made():
                continue
            try:
                taken.append((each, admission.take(each.change)))
            except PhoenixServerError as exc:
                each.refuse(exc)
        if taken:
            self._make(admission.changes, first)
        for each, done in taken:
            each.settle(done)

    def _make(self, changes: list[Change], first: int) -> None:
        """Write changes down, numbered from `first` on, and apply them.

        Raises:
            StorageError: The disk refuses.
        """
        if first <= self.store.snapshot.manifest.sequence:
            raise StorageError(self.store.path, f"change {first} has been made; restart the server")
        changes = [reencode(change, self._target) for change in changes]
        self.store.journal.append(first, changes)
        last = first + len(changes) - 1
        change = net(changes)
        try:
            self._home.between(lambda: self._target.apply(change, last))
        except BaseException:
            self._broken = StorageError(
                self.store.path, "a change is on the disk but not in memory; restart the server"
            )
            raise
        with self._work:
            self._journal_posts += sum(map(len, changes))
            visible = [each for each in self._visible if each.sequence <= last]
        for each in visible:
            each.settle(None)
        self._snapshot_if_due()
