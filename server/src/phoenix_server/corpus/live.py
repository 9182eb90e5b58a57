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
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from phoenix_server.corpus.changes import Change, Ids, Net, Posts, net
from phoenix_server.corpus.ids import NOWHERE
from phoenix_server.corpus.index import CorpusIndex
from phoenix_server.corpus.journal import Journal
from phoenix_server.corpus.snapshot import Snapshot
from phoenix_server.corpus.snapshotting import remove_old, write_snapshot
from phoenix_server.corpus.store import Store
from phoenix_server.errors import (
    CorpusError,
    CorpusFullError,
    DeadlineExceededError,
    NotReadyError,
    OverloadedError,
    PhoenixServerError,
    ReadOnlyError,
    StorageError,
)

_log = logging.getLogger(__name__)

T = TypeVar("T")

_MOST_WAITING = 1 << 16  # posts
_MOST_TOGETHER = 1 << 13  # posts, more or less
_RETRY_S = 0.1
_LONG_S = 10.0
_PAUSE_S = 60.0  # after a snapshot that failed


class Done(NamedTuple):
    """What a change did.

    Attributes:
        sequence: Its number.
        inserted: Posts that are new.
        replaced: Posts that took the place of others.
        deleted: Posts that were deleted.
    """

    sequence: int
    inserted: int
    replaced: int
    deleted: int


class Target(Protocol):
    """What changes are applied to; an `Engine`."""

    @property
    def corpus(self) -> CorpusIndex:
        """The corpus as it is now."""
        ...

    def apply(self, change: Net, sequence: int) -> None:
        """Apply changes; between two batches."""
        ...


class _Waiter(Generic[T]):
    """Somebody on the event loop who waits for a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self._loop.create_future()

    def settle(self, outcome: T | BaseException) -> None:
        """Give a result or raise an error; from any thread."""

        def settle() -> None:
            if self.future.done():
                return
            if isinstance(outcome, BaseException):
                self.future.set_exception(outcome)
            else:
                self.future.set_result(outcome)

        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(settle)


class _Waiting(_Waiter[Done]):
    """Somebody who waits for a change to be made."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        self.change = change


class _Watching(_Waiter[None]):
    """Somebody who waits for a change to be visible."""

    def __init__(self, sequence: int) -> None:
        super().__init__()
        self.sequence = sequence


class LiveCorpus:
    """The changes of a corpus, and whoever waits for them.

    Its coroutines raise

    * `ReadOnlyError` if the corpus takes no changes;
    * `CorpusFullError` if it has no room for the posts or their labels;
    * `StorageError` if the disk refuses;
    * `OverloadedError` if too many changes wait;
    * `NotReadyError` once it is closed.
    """

    def __init__(
        self,
        store: Store,
        target: Target,
        between: Callable[[Callable[[], None]], None],
        *,
        snapshot_after: int = 200_000,
    ) -> None:
        """Start the thread.

        Args:
            store: Keeps the changes.
            target: Holds the posts.
            between: Runs a function between two batches, and returns when it has.
            snapshot_after: Write a snapshot when the changes since the last have written and
                deleted so many posts.
        """
        self.store = store
        self._target = target
        self._between = between
        self._waiting: deque[_Waiting] = deque()
        self._posts = 0
        self._journal_posts = 0 if store.read_only else store.journal_posts()
        self._closed = False
        self._broken: PhoenixServerError | None = None
        self._snapshot_after = snapshot_after
        self._snapshotting = threading.Lock()
        self._next_try_s = 0.0
        self._work = threading.Condition()
        self._visible: list[_Watching] = []
        self._thread = threading.Thread(target=self._run, name="changes", daemon=True)
        self._thread.start()

    async def submit(self, change: Change) -> Done:
        """Make a change; return when it is on the disk and visible."""
        waiting = _Waiting(change)
        with self._work:
            self.check_open()
            if self._posts + len(change) > _MOST_WAITING and self._waiting:
                raise OverloadedError(
                    f"{self._posts} posts wait to be written", retry_after_s=_RETRY_S
                )
            self._waiting.append(waiting)
            self._posts += len(change)
            self._work.notify()
        return await waiting.future

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
            watching = _Watching(sequence)
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
        return await asyncio.to_thread(self._snapshot)

    def _snapshot(self) -> Snapshot:
        began_s = time.monotonic()
        with self._snapshotting:
            if self._closed:
                raise NotReadyError("the server drains")
            before = self.store.snapshot.manifest.sequence
            try:
                written = write_snapshot(self.store)
                journal = Journal(self.store.journal_path, self.store.names)
                try:
                    after = written.manifest.sequence
                    held = journal.posts(before, after)
                    self.store.snapshot = written
                    with self._work:
                        self._journal_posts -= held
                    journal.trim(after)
                finally:
                    journal.close()
                remove_old(self.store)
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
        """Refuse new changes, finish those that wait, and end the thread.

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
                self._write(group)
            except BaseException as exc:  # whoever waits must hear of it
                if not isinstance(exc, PhoenixServerError):
                    _log.exception("changes failed")
                for each in group:
                    each.settle(exc)

    def _take(self) -> list[_Waiting]:
        """Wait for changes, and take what waits; nothing once closed."""
        with self._work:
            while not self._waiting and not self._closed:
                self._work.wait()
            group: list[_Waiting] = []
            posts = 0
            while self._waiting and posts < _MOST_TOGETHER:
                group.append(self._waiting.popleft())
                posts += len(group[-1].change)
            self._posts -= posts
            return group

    def _write(self, group: list[_Waiting]) -> None:
        if self._broken is not None:
            raise self._broken
        first = self._target.corpus.sequence + 1
        judge = _Judge(self._target.corpus, first)
        taken: list[tuple[_Waiting, Done]] = []
        for each in group:
            if each.future.cancelled():
                continue
            try:
                taken.append((each, judge.take(each.change)))
            except PhoenixServerError as exc:
                each.settle(exc)
        if taken:
            self._make([each.change for each, _ in taken], first)
        for each, done in taken:
            each.settle(done)

    def _make(self, changes: list[Change], first: int) -> None:
        """Write changes down, numbered from `first` on, and apply them.

        Raises:
            StorageError: The disk refuses.
        """
        self.store.journal.append(first, changes)
        last = first + len(changes) - 1
        change = net(changes)
        try:
            self._between(lambda: self._target.apply(change, last))
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


class _Judge:
    """Tells what changes will do, one after the other, before they are made."""

    def __init__(self, corpus: CorpusIndex, first: int) -> None:
        self._corpus = corpus
        self._rows = len(corpus)
        self._labels = set(corpus.label_names)
        self._there: dict[int, bool] = {}  # by post; what the changes so far have made of it
        self._next = first

    def take(self, change: Change) -> Done:
        """Return what a change will do.

        Raises:
            CorpusFullError: There is no room; then it is passed over.
        """
        ids = change.post_ids if isinstance(change, Posts) else change
        there = self._is_there(ids)
        known = int(np.count_nonzero(there))
        done = Done(self._next, 0, 0, known)
        if isinstance(change, Posts):
            done = Done(self._next, len(ids) - known, known, 0)
            self._make_room(change, done.inserted)
        self._rows += done.inserted - done.deleted
        self._there.update(dict.fromkeys(ids.tolist(), isinstance(change, Posts)))
        self._next += 1
        return done

    def _is_there(self, ids: Ids) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        there = self._corpus.find(ids) != NOWHERE
        if self._there:
            for place, post_id in enumerate(ids.tolist()):
                there[place] = self._there.get(post_id, bool(there[place]))
        return there

    def _make_room(self, posts: Posts, inserted: int) -> None:
        free = self._corpus.capacity - self._rows
        if inserted > free:
            raise CorpusFullError(
                f"the corpus is full: it has room for {free} more posts of {self._corpus.capacity},"
                f" {inserted} came; a larger --capacity makes room"
            )
        labels = self._labels.union(posts.labels.names)
        if len(labels) > self._corpus.max_labels:
            raise CorpusFullError(
                f"the corpus has {len(self._labels)} of at most {self._corpus.max_labels} labels, "
                f"{len(labels) - len(self._labels)} more came; a larger --max-labels makes room"
            )
        self._labels = labels
