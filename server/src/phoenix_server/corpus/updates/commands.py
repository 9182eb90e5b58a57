"""The commands that the update worker takes from its queue."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from phoenix_server.corpus.changes import Change, ChangeResult, NetChange
from phoenix_server.corpus.disk.reencode import Encoder
from phoenix_server.corpus.disk.snapshot import Snapshot
from phoenix_server.corpus.disk.store import Store
from phoenix_server.corpus.memory.index import CorpusIndex
from phoenix_server.errors import PhoenixServerError


class SearchedCorpus(Encoder, Protocol):
    """A corpus in memory, and the towers of its vectors; an `Engine`."""

    @property
    def corpus(self) -> CorpusIndex:
        """The posts in memory."""
        ...

    def apply(self, change: NetChange, sequence: int) -> None:
        """Apply changes, the last of which has this number; between two batches."""
        ...


class UpdateTarget(NamedTuple):
    """Where changes go.

    Attributes:
        store: Keeps them on the disk.
        engine: Holds the posts in memory.
        run_between: Runs a function between two batches, and returns when it has ended.
    """

    store: Store
    engine: SearchedCorpus
    run_between: Callable[[Callable[[], None]], None]


@dataclass(eq=False)
class PendingChange:
    """Write a change.

    Attributes:
        change: The change.
        after: An earlier change; unless that is written, this is not written either.
        future: The result, once the change is on the disk and visible. Cancelling it withdraws a
            change that the worker has not taken yet.
        refused: Whether the change is not written; set by the worker.
    """

    change: Change
    after: "PendingChange | None" = None
    future: Future[ChangeResult] = field(default_factory=Future[ChangeResult])
    refused: bool = False

    def refuse(self, reason: BaseException) -> None:
        """Do not write the change, and tell the caller why."""
        self.refused = True
        if self.future.running() or self.future.set_running_or_notify_cancel():
            self.future.set_exception(reason)

    def start(self) -> bool:
        """Return whether to write the change; otherwise it is refused or was cancelled."""
        after, self.after = self.after, None  # or a stream would keep all of its changes alive
        if not self.future.set_running_or_notify_cancel():
            self.refused = True
        elif after is not None and after.refused:
            self.refuse(PhoenixServerError("an earlier change of the stream was not written"))
        return not self.refused


@dataclass(eq=False)
class SnapshotCommand:
    """Write a snapshot of all changes before this command.

    Attributes:
        future: The snapshot.
    """

    future: Future[Snapshot] = field(default_factory=Future[Snapshot])


@dataclass(eq=False)
class SnapshotOutcome:
    """A snapshot has been written, or could not be.

    Attributes:
        store: The corpus.
        requests: Who asked for it; nobody, if it was due.
        outcome: The snapshot.
    """

    store: Store
    requests: list[SnapshotCommand]
    outcome: Future[Snapshot]


@dataclass(eq=False)
class SwitchCommand:
    """Send the changes after this command to another target.

    Attributes:
        target: The target.
        prepare: Brings the target up to date and has requests go there; on the worker's thread.
        future: Done after the switch.
    """

    target: UpdateTarget
    prepare: Callable[[], None]
    future: Future[None] = field(default_factory=Future[None])
