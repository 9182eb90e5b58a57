"""The memory of the process: limits, release, and how much is free."""

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
    """Limit glibc to two malloc arenas; to be called before there are threads.

    By default glibc gives allocating threads arenas of their own, up to eight a core, and memory
    that compiling frees in one arena cannot be used by another: about 20 MB after a start. Other C
    libraries have no such setting; then this does nothing.
    """
    _call_libc("mallopt", _M_ARENA_MAX, _ARENAS)


def release_freed_memory() -> None:
    """Return freed memory to the system, which glibc would keep for later."""
    _call_libc("malloc_trim", 0)


def release_unused_memory(*, of_what_served: bool = False) -> None:
    """Release the memory that loading and compiling have used; about 80 MB after a start.

    JAX caches traced and lowered functions for later calls; a server calls only compiled programs,
    which do not need these caches. `gc.freeze()` then exempts the surviving Python objects from
    later collections, which paused all threads for about 50 ms at a time under load.

    Args:
        of_what_served: Unfreeze first, because a generation that served has been unloaded.
    """
    jax.clear_caches()
    if of_what_served:
        gc.unfreeze()
    gc.collect()
    gc.freeze()
    release_freed_memory()


def available_host_bytes() -> int | None:
    """Return the bytes of host memory that this process may still take; None if unknown."""
    known = [bytes_ for bytes_ in (_free_of_system(), _free_of_group()) if bytes_ is not None]
    return min(known, default=None)


def available_bytes(device: Device) -> int | None:
    """Return the bytes of memory that are free on an accelerator; None if unknown."""
    stats = device.memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    return stats["bytes_limit"] - stats["bytes_in_use"]


def _call_libc(name: str, *arguments: int) -> None:
    """Call a function of the C library, if it has it: only glibc has these."""
    if (function := getattr(ctypes.CDLL(None), name, None)) is not None:
        function(*arguments)


def _free_of_system() -> int | None:
    """Return the bytes that the kernel estimates to be available on Linux."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(), re.MULTILINE)
    except OSError:
        return None
    return 1024 * int(found[1]) if found else None


def _free_of_group() -> int | None:
    """Return the bytes that the control group (version 2) may still take.

    Inactive file pages count as free: the kernel can drop them.
    """
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
