"""Compiled programs that are shared by whatever has the same shapes."""

import threading
from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Any


class Programs:
    """Programs by what they do and for which shapes. For any thread."""

    def __init__(self) -> None:
        self._programs: dict[Hashable, Any] = {}
        self._compiling: defaultdict[Hashable, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()

    def get(self, key: Hashable, compile_one: Callable[[], Any]) -> Any:
        """Return the program of a key; compile it if there is none, and nobody else does so."""
        with self._lock:
            compiling = self._compiling[key]
        with compiling:
            if key not in self._programs:
                self._programs[key] = compile_one()
            return self._programs[key]
