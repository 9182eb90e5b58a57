"""Which devices hold the corpus, and who goes first where the device is the CPU."""

import os
from pathlib import Path
from typing import Any, TypeAlias

import jax

from phoenix_server.errors import StartupError

Device: TypeAlias = Any
"""A `jax.Device`, which is a class of a compiled module: type checkers do not see it."""

_THREADS = Path("/proc/self/task")
_NICENESS = 10


def split_cpu(shards: int) -> None:
    """Make the CPU as many devices as there are shards; it is one to JAX otherwise.

    Call it once, before anything touches a device.
    """
    jax.config.update("jax_num_cpu_devices", shards)


def choose_devices(shards: int | None) -> tuple[Device, ...]:
    """Return one device a shard.

    Args:
        shards: How many. Default: all accelerators, or one CPU device.

    Raises:
        StartupError: There are too few.
    """
    devices = jax.devices()
    if shards is None:
        return tuple(devices) if devices[0].platform != "cpu" else (devices[0],)
    if len(devices) < shards:
        raise StartupError(
            f"{shards} shards need as many devices; JAX sees {len(devices)}: "
            f"{', '.join(map(str, devices))}"
        )
    return tuple(devices[:shards])


def start_devices(shards: int | None) -> tuple[Device, ...]:
    """Start JAX and return `choose_devices`, for a process that answers callers meanwhile.

    Where the device is the CPU, JAX's threads take all cores while they compute. On Linux they give
    way here, so that calls are taken, refused and answered in the midst of a batch. Call it before
    anything else touches a device, as JAX starts its threads once.

    Args:
        shards: As for `choose_devices`.

    Raises:
        StartupError: There are too few.
    """
    before = _threads()
    devices = choose_devices(shards)
    if devices[0].platform == "cpu":
        for thread in _threads() - before:
            try:
                os.setpriority(os.PRIO_PROCESS, thread, _NICENESS)
            except ProcessLookupError:  # it has ended
                continue
    return devices


def _threads() -> set[int]:
    """Return the process's threads; none where they cannot be told apart."""
    return {int(path.name) for path in _THREADS.iterdir()} if _THREADS.is_dir() else set()
