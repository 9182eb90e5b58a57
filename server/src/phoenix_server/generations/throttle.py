"""Throttle background work while requests wait."""

import time
from collections.abc import Callable

_MAX_PAUSE_FACTOR = 9  # pause / work: background work gets a tenth of the time at least
_MAX_PAUSE_S = 1.0  # after work that is not cut into pieces, such as compiling
_POLL_S = 0.002


class Throttle:
    """Called between two pieces of background work, waits until no request waits.

    All threads of a process share an accelerator or the cores of a CPU, whatever the priority of
    the thread that gives them work.
    """

    def __init__(self, is_idle: Callable[[], bool]) -> None:
        """Begin.

        Args:
            is_idle: Returns whether no request waits; from any thread.
        """
        self._is_idle = is_idle
        self._resumed_s = time.monotonic()

    def __call__(self) -> None:
        """Wait until idle, for at most min(9 * time since the last wait, 1 s)."""
        began_s = time.monotonic()
        until_s = began_s + min(_MAX_PAUSE_FACTOR * (began_s - self._resumed_s), _MAX_PAUSE_S)
        while not self._is_idle() and time.monotonic() < until_s:
            time.sleep(_POLL_S)
        self._resumed_s = time.monotonic()
