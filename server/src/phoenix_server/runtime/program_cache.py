"""Compiled programs shared by everything that has the same shapes, and their measured times."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakValueDictionary

import jax


class ProgramCache:
    """Compiled programs by a key: what the program does and for which shapes. Thread-safe.

    Handles share one cache: `ProgramCache(beside=other)` is a second handle of `other`'s. A program
    lives while any handle that requested it lives. So each generation has its own handle, and the
    programs that only it used are freed with it.
    """

    def __init__(self, beside: ProgramCache | None = None) -> None:
        """Make a handle.

        Args:
            beside: A handle of the cache to share. Default: a new cache.
        """
        self._shared = _SharedPrograms() if beside is None else beside._shared
        self._requested: dict[Hashable, _Program] = {}

    def get(self, key: Hashable, compile_one: Callable[[], Any]) -> Any:
        """Return the program of a key; compile it if the cache does not hold it.

        Concurrent requests for one key compile it once; other keys do not wait for it.
        """
        program = self._requested[key] = self._shared.get(key, compile_one)
        return program.run

    def compile(
        self, key: Hashable, function: Callable[..., Any], *specs: Any, **options: Any
    ) -> Any:
        """Return a function compiled for arguments like `specs`, with options of `jax.jit`."""
        return self.get(key, lambda: jax.jit(function, **options).lower(*specs).compile())

    def seconds(self, key: Hashable, measure: Callable[[], float]) -> float:
        """Return the time of the program of a key, in seconds; measure it if it is not known.

        Times outlive programs. So loading a generation while another serves does not use the device
        to measure a program again.
        """
        seconds = self._shared.seconds
        if key not in seconds:
            seconds[key] = measure()
        return seconds[key]


class _Program:
    """A holder of a program that can be referenced weakly."""

    def __init__(self, run: Any) -> None:
        self.run = run


class _SharedPrograms:
    """The cache that handles share; it holds programs weakly."""

    def __init__(self) -> None:
        self.seconds: dict[Hashable, float] = {}
        self._programs: WeakValueDictionary[Hashable, _Program] = WeakValueDictionary()
        self._compiling: defaultdict[Hashable, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()

    def get(self, key: Hashable, compile_one: Callable[[], Any]) -> _Program:
        with self._lock:
            compiling = self._compiling[key]
        with compiling:
            program = self._programs.get(key)
            if program is None:
                program = self._programs[key] = _Program(compile_one())
            return program


def device_seconds(run: Callable[[], object]) -> float:
    """Run work on a device twice, and return the time of the second run, in seconds."""
    jax.block_until_ready(run())
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began
