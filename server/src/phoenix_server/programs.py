"""Compiled programs that are shared by whatever has the same shapes."""

import threading
from collections.abc import Callable, Hashable
from typing import Any


class Programs:
    """Programs by what they do and for which shapes. For any thread."""

    def __init__(self) -> None:
        self._programs: dict[Hashable, Any] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, compile_one: Callable[[], Any]) -> Any:
        """Return the program of a key; compile it if there is none."""
        with self._lock:
            found = self._programs.get(key)
        if found is None:
            found = compile_one()
            with self._lock:
                self._programs[key] = found
        return found
