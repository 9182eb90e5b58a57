"""What a server does with its memory."""

import ctypes
import gc

import jax

_M_ARENA_MAX = -8  # as <malloc.h> has it
_ARENAS = 2


def limit_arenas() -> None:
    """Have glibc keep the memory of all threads together; before there are threads.

    By default each thread that allocates gets a heap of its own, up to eight a core, and what
    compiling frees in one of them another cannot use: some 20 MB after a start. Other C libraries
    have no such setting, and this does nothing.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_ARENA_MAX, _ARENAS)


def release_freed_memory() -> None:
    """Return what is free to the system, where glibc would keep it for later."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def release_unused_memory() -> None:
    """Return what loading and compiling have used; about 80 MB after a start.

    JAX keeps what it traced and lowered for functions that are called again; whatever a server
    calls is compiled, and called without. What Python has left stays, and it need not look through
    it for garbage again: that stopped all threads for some 50 ms at a time under load.
    """
    jax.clear_caches()
    gc.collect()
    gc.freeze()
    release_freed_memory()
