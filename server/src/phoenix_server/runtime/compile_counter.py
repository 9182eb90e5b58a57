"""A count of XLA compilations, which proves that none happens on the request path."""

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, ClassVar

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"
_LOADED = "/jax/compilation_cache/cache_hits"


class CompileCounter:
    """Counts the programs that XLA compiles or loads in this process, from its creation on.

    Attributes:
        total: All programs, including loaded ones.
        loaded: Programs that JAX loaded from its persistent compilation cache.
        unforeseen: Programs outside of `expected`.
    """

    _expecting: ClassVar[set[int]] = set()  # ids of threads, for all counters

    def __init__(self) -> None:
        self.total = self.loaded = self.unforeseen = 0
        self._lock = threading.Lock()
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)
        self._closed = False

    @classmethod
    @contextmanager
    def expected(cls) -> Generator[None, None, None]:
        """Count what this thread compiles in the block as expected, in all counters."""
        thread = threading.get_ident()
        nested = thread in cls._expecting
        cls._expecting.add(thread)
        try:
            yield
        finally:
            if not nested:
                cls._expecting.discard(thread)

    def close(self) -> None:
        """Stop counting; the counts stay as they are. For any thread, also twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        jax.monitoring.unregister_event_duration_listener(self._on_duration)
        jax.monitoring.unregister_event_listener(self._on_event)

    def _on_duration(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == _COMPILED:
            with self._lock:
                self.total += 1
                self.unforeseen += threading.get_ident() not in self._expecting

    def _on_event(self, event: str, **_: Any) -> None:
        if event == _LOADED:
            with self._lock:
                self.loaded += 1
