"""Compiled programs that are shared by whatever has the same shapes, and how long they take."""

import threading
from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Any


class Programs:
    """Programs by what they do and for which shapes. For any thread."""

    def __init__(self) -> None:
        self._programs: dict[Hashable, Any] = {}
        self._compiling: defaultdict[Hashable, threading.Lock] = defaultdict(threading.Lock)
        self._seconds: dict[Hashable, float] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, compile_one: Callable[[], Any]) -> Any:
        """Return the program of a key; compile it if there is none, and nobody else does so."""
        with self._lock:
            compiling = self._compiling[key]
        with compiling:
            if key not in self._programs:
                self._programs[key] = compile_one()
            return self._programs[key]

    def seconds(self, key: Hashable, measure: Callable[[], float]) -> float:
        """Return how long the program of a key takes; measure it if nobody has.

        So what is loaded while others are served does not take the device to measure it again.
        """
        if key not in self._seconds:
            self._seconds[key] = measure()
        return self._seconds[key]
