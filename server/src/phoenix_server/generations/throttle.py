"""Let what is answered go before what is done in the background."""

import time
from collections.abc import Callable

_MOST = 9  # times as long as something took: it goes on for a tenth of the time at least
_LONGEST_S = 1.0  # after what is not cut into pieces, such as compiling
_LOOK_S = 0.002


class Throttle:
    """Called between two pieces of work, waits until nobody waits for an answer.

    An accelerator or the cores of a CPU are shared by all threads of a process, whatever the
    priority of the thread that gives them work.
    """

    def __init__(self, is_idle: Callable[[], bool]) -> None:
        """Begin.

        Args:
            is_idle: Tells whether nobody waits for an answer; from any thread.
        """
        self._is_idle = is_idle
        self._since_s = time.monotonic()

    def __call__(self) -> None:
        """Wait: at most a second, and nine times as long as what was done since the last wait."""
        began_s = time.monotonic()
        until_s = began_s + min(_MOST * (began_s - self._since_s), _LONGEST_S)
        while not self._is_idle() and time.monotonic() < until_s:
            time.sleep(_LOOK_S)
        self._since_s = time.monotonic()
