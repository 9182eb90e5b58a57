"""Callers that wait until a change is visible."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future

from phoenix_server.errors import DeadlineExceededError, NotReadyError, OverloadedError

_DEFAULT_TIMEOUT_S = 10.0
_MAX_WAITING = 1024
_RETRY_S = 0.1
_CLOSED = "the server is shutting down"


class Visibility:
    """Wakes callers when a change is visible. For any thread."""

    def __init__(self, last_sequence: Callable[[], int]) -> None:
        """Begin without callers.

        Args:
            last_sequence: Returns the number of the last visible change.
        """
        self._last_sequence = last_sequence
        self._lock = threading.Lock()
        self._waiters: list[tuple[int, Future[None]]] = []
        self._closed = False

    async def wait_for(self, sequence: int, timeout_s: float | None) -> None:
        """Wait until a change is visible.

        Args:
            sequence: Its number.
            timeout_s: Longest time to wait, in seconds. None: ten seconds.

        Raises:
            DeadlineExceededError: It is not visible in time.
            NotReadyError: `close` was called.
            OverloadedError: Too many callers wait.
        """
        waiter = sequence, Future[None]()
        with self._lock:
            if self._last_sequence() >= sequence:
                return
            if self._closed:
                raise NotReadyError(_CLOSED)
            if len(self._waiters) >= _MAX_WAITING:
                what = f"{len(self._waiters)} requests wait for changes"
                raise OverloadedError(what, retry_after_s=_RETRY_S)
            self._waiters.append(waiter)
        timeout_s = _DEFAULT_TIMEOUT_S if timeout_s is None else timeout_s
        try:
            await asyncio.wait_for(asyncio.wrap_future(waiter[1]), timeout_s)
        except TimeoutError:
            what = f"change {sequence} is not visible yet, the last is {self._last_sequence()}"
            raise DeadlineExceededError(what) from None
        finally:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    def wake(self) -> None:
        """Wake the callers whose changes are visible now."""
        with self._lock:
            last = self._last_sequence()
            visible = [future for sequence, future in self._waiters if sequence <= last]
            self._waiters = [waiter for waiter in self._waiters if waiter[0] > last]
        for future in visible:
            if future.set_running_or_notify_cancel():
                future.set_result(None)

    def close(self) -> None:
        """Let all callers fail, now and from now on."""
        with self._lock:
            self._closed = True
            waiters, self._waiters = self._waiters, []
        for _, future in waiters:
            if future.set_running_or_notify_cancel():
                future.set_exception(NotReadyError(_CLOSED))
