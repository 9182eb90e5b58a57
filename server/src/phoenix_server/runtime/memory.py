"""What a server does with its memory."""

import ctypes
import gc
import re
from pathlib import Path

import jax

from phoenix_server.runtime.devices import Device

_M_ARENA_MAX = -8  # as <malloc.h> has it
_ARENAS = 2
_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


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


def release_unused_memory(*, of_what_served: bool = False) -> None:
    """Return what loading and compiling have used; about 80 MB after a start.

    JAX keeps what it traced and lowered for functions that are called again; whatever a server
    calls is compiled, and called without. What Python has left stays, and it need not look through
    it for garbage again: that stopped all threads for some 50 ms at a time under load.

    Args:
        of_what_served: Look through it once, because some of it serves no more.
    """
    jax.clear_caches()
    if of_what_served:
        gc.unfreeze()
    gc.collect()
    gc.freeze()
    release_freed_memory()


def available_host_bytes() -> int | None:
    """Return how much memory this process may still take; None if that is unknown."""
    known = [bytes_ for bytes_ in (_free_of_system(), _free_of_group()) if bytes_ is not None]
    return min(known, default=None)


def available_bytes(device: Device) -> int | None:
    """Return how much memory is free on an accelerator; None if that is unknown."""
    stats = device.memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    return stats["bytes_limit"] - stats["bytes_in_use"]


def _free_of_system() -> int | None:
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None


def _free_of_group() -> int | None:
    """Return what the control group, of version 2, may still take; file pages can be dropped."""
    try:
        limit = (_GROUP / "memory.max").read_text().strip()
        used = int((_GROUP / "memory.current").read_text())
        stat = (_GROUP / "memory.stat").read_text()
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    pages = re.search(r"^inactive_file (\d+)", stat, re.MULTILINE)
    return int(limit) - used + (int(pages[1]) if pages else 0)
