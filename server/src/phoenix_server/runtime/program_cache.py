"""Compiled programs that are shared by whatever has the same shapes, and how long they take."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakValueDictionary

import jax


class ProgramCache:
    """Programs by what they do and for which shapes. For any thread.

    They are there as long as somebody who asked for them is: whoever shares programs with others
    has `ProgramCache` of its own, beside theirs.
    """

    def __init__(self, beside: ProgramCache | None = None) -> None:
        """Begin.

        Args:
            beside: Share programs with these. Default: with none.
        """
        self._shared = _Shared() if beside is None else beside._shared
        self._mine: dict[Hashable, _Program] = {}

    def get(self, key: Hashable, compile_one: Callable[[], Any]) -> Any:
        """Return the program of a key; compile it if there is none, and nobody else does so."""
        program = self._mine[key] = self._shared.get(key, compile_one)
        return program.run

    def seconds(self, key: Hashable, measure: Callable[[], float]) -> float:
        """Return how long the program of a key takes; measure it if nobody has.

        So what is loaded while others are served does not take the device to measure it again.
        """
        seconds = self._shared.seconds
        if key not in seconds:
            seconds[key] = measure()
        return seconds[key]


class _Program:
    """A program, which can be referred to weakly."""

    def __init__(self, run: Any) -> None:
        self.run = run


class _Shared:
    """The programs of all that share them."""

    def __init__(self) -> None:
        self.seconds: dict[Hashable, float] = {}
        self._programs: WeakValueDictionary[Hashable, _Program] = WeakValueDictionary()
        self._compiling: defaultdict[Hashable, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()

    def get(self, key: Hashable, compile_one: Callable[[], Any]) -> _Program:
        """Return the program of a key; compile it if there is none, and nobody else does so."""
        with self._lock:
            compiling = self._compiling[key]
        with compiling:
            program = self._programs.get(key)
            if program is None:
                program = self._programs[key] = _Program(compile_one())
            return program


def device_seconds(run: Callable[[], object]) -> float:
    """Run work on a device twice, and return what the second time took, in seconds."""
    jax.block_until_ready(run())
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began
