"""Writes snapshots of a corpus in the background, and trims its journal."""

import logging
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial

from phoenix_server.corpus.disk.compaction import prune_snapshots, write_snapshot
from phoenix_server.corpus.disk.journal import Journal
from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.corpus.disk.store import Store
from phoenix_server.corpus.updates.commands import SnapshotCommand, SnapshotOutcome, UpdateTarget
from phoenix_server.errors import CorpusError, NotReadyError, StorageError
from phoenix_server.runtime.threads import run_in_thread, settle

_log = logging.getLogger(__name__)

_RETRY_S = 60.0  # after a snapshot that was due and failed


class SnapshotScheduler:
    """Writes one snapshot at a time, each in a thread of its own.

    All methods but `paused` and `close` belong to the update worker's thread.

    Attributes:
        is_running: Whether a snapshot is being written.
    """

    def __init__(
        self, before_trim: Callable[[Store], None], report: Callable[[SnapshotOutcome], None]
    ) -> None:
        """Begin without a snapshot.

        Args:
            before_trim: Called with the corpus before its journal loses the changes that a new
                snapshot holds; on the snapshot's thread.
            report: Called on the snapshot's thread when it ends; `finish` takes what it gets.
        """
        self.is_running = False
        self._before_trim = before_trim
        self._report = report
        self._requests: list[SnapshotCommand] = []
        self._allowed = threading.Lock()
        self._closed = False
        self._next_due_s = 0.0

    @contextmanager
    def paused(self) -> Generator[None, None, None]:
        """Keep snapshots from being written, and journals from being trimmed, meanwhile."""
        with self._allowed:
            yield

    def close(self) -> None:
        """Refuse to begin snapshots from now on."""
        self._closed = True

    def request(self, target: UpdateTarget, command: SnapshotCommand) -> None:
        """Write a snapshot; after the one that is being written, which may lack changes."""
        self._requests.append(command)
        if not self.is_running:
            self._start(target)

    def write_due(self, target: UpdateTarget) -> None:
        """Write a snapshot that nobody waits for, unless one is being written or failed lately."""
        if not self.is_running and time.monotonic() >= self._next_due_s:
            self._start(target)

    def finish(self, finished: SnapshotOutcome, target: UpdateTarget) -> None:
        """Answer the callers of a snapshot, and begin the next if others wait."""
        self.is_running = False
        error = finished.outcome.exception()
        if error is not None and not finished.requests:
            self._next_due_s = time.monotonic() + _RETRY_S
            _log.error("no snapshot was written; the journal grows", exc_info=error)
        for request in finished.requests:
            if request.future.set_running_or_notify_cancel():
                settle(request.future, finished.outcome.result)
        if self._requests:
            self._start(target)

    def _start(self, target: UpdateTarget) -> None:
        self.is_running = True
        requests, self._requests = self._requests, []
        outcome = run_in_thread(partial(self._write, target), "snapshot")
        finished = SnapshotOutcome(target.store, requests, outcome)
        outcome.add_done_callback(lambda _: self._report(finished))

    def _write(self, target: UpdateTarget) -> Snapshot:
        """Write a snapshot, and drop from the journal what it holds; on the snapshot's thread."""
        began_s = time.monotonic()
        store = target.store
        try:
            with self._allowed:
                if self._closed:
                    raise NotReadyError("the server is shutting down")
                max_labels = target.engine.corpus.max_labels
                written = write_snapshot(store, target.engine, max_labels=max_labels)
                self._before_trim(store)
                store.snapshot = written
                _trim_journal(store, written.manifest.sequence)
                prune_snapshots(store)
        except CorpusError as exc:
            raise StorageError(exc.path, exc.reason) from exc
        rows, last = written.manifest.rows, written.manifest.sequence
        took_s = time.monotonic() - began_s
        _log.info("wrote a snapshot of %d posts through change %d: %.1f s", rows, last, took_s)
        return written


def _trim_journal(store: Store, through: int) -> None:
    journal = Journal(store.journal_path, store.names)  # a connection of this thread
    try:
        journal.trim(through)
    finally:
        journal.close()
