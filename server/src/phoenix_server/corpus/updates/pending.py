"""Who waits on the event loop for the thread that makes changes."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, NamedTuple, Protocol, TypeVar

from phoenix_server.corpus.changes import Change, ChangeResult, NetChange
from phoenix_server.corpus.disk.reencode import Encoder
from phoenix_server.corpus.disk.store import Store
from phoenix_server.corpus.memory.index import CorpusIndex
from phoenix_server.errors import NotReadyError, PhoenixServerError

T = TypeVar("T")

_PATIENCE_S = 0.1


class Target(Encoder, Protocol):
    """What changes are applied to; an `Engine`."""

    @property
    def corpus(self) -> CorpusIndex:
        """The corpus as it is now."""
        ...

    def apply(self, change: NetChange, sequence: int) -> None:
        """Apply changes; between two batches."""
        ...


class Home(NamedTuple):
    """Where changes go.

    Attributes:
        store: Keeps them.
        target: Holds the posts.
        between: Runs a function between two batches, and returns when it has.
    """

    store: Store
    target: Target
    between: Callable[[Callable[[], None]], None]


class Waiter(Generic[T]):
    """Somebody on the event loop who waits for a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self.loop.create_future()

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
            self.loop.call_soon_threadsafe(settle)


class Waiting(Waiter[ChangeResult]):
    """Somebody who waits for a change to be made.

    Attributes:
        change: The change.
        after: One that came before; this is not made unless that is.
        refused: Whether it is not made; set by the thread that makes changes.
    """

    def __init__(self, change: Change, after: "Waiting | None" = None) -> None:
        super().__init__()
        self.change = change
        self.after = after
        self.refused = False

    def refuse(self, reason: BaseException) -> None:
        """Tell whoever waits that the change is not made."""
        self.refused = True
        self.settle(reason)

    def may_be_made(self) -> bool:
        """Return whether somebody waits, and what came before is made; else it is refused."""
        after, self.after = self.after, None  # or a stream would keep all its changes
        if after is not None and after.refused:
            self.refuse(PhoenixServerError("a change before it was not made"))
        elif self.future.cancelled():
            self.refused = True
        return not self.refused


class Watching(Waiter[None]):
    """Somebody who waits for a change to be visible."""

    def __init__(self, sequence: int) -> None:
        super().__init__()
        self.sequence = sequence


class Switching(Waiter[None]):
    """Somebody who waits for changes to go elsewhere from now on.

    Attributes:
        home: Where.
        catch_up: Brings that up to date; on the thread that makes changes.
        flip: Has requests go there; on the event loop.
    """

    def __init__(self, home: Home, catch_up: Callable[[], None], flip: Callable[[], None]) -> None:
        super().__init__()
        self.home = home
        self.catch_up = catch_up
        self._flip = flip

    def flip(self, give_up: Callable[[], bool]) -> None:
        """Flip on the event loop, and wait until that is done.

        Args:
            give_up: Asked now and then whether nobody will run the loop any more.

        Raises:
            NotReadyError: It gave up; then nothing is flipped later either.
        """
        done = threading.Event()
        lock = threading.Lock()
        abandoned = False

        def flip() -> None:
            with lock:
                if not abandoned:
                    self._flip()
                    done.set()

        self.loop.call_soon_threadsafe(flip)
        while not done.wait(_PATIENCE_S):
            with lock:
                if give_up() and not done.is_set():
                    abandoned = True
                    raise NotReadyError("the server drains")
