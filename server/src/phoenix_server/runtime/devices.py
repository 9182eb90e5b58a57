"""The devices that hold the corpus."""

import os
import sys
from typing import Any, TypeAlias

import jax

from phoenix_server.errors import StartupError

Device: TypeAlias = Any
"""A `jax.Device`; it is defined in a compiled module, which type checkers cannot see."""


def split_cpu(shards: int) -> None:
    """Make JAX show the CPU as `shards` devices instead of one.

    To be called once, before anything uses a device.
    """
    jax.config.update("jax_num_cpu_devices", shards)


def all_devices() -> list[Device]:
    """Return the devices that JAX sees.

    Raises:
        StartupError: There is none of the platforms that JAX_PLATFORMS names.
    """
    try:
        return jax.devices()
    except Exception as exc:  # JAX raises several types, some without a text
        reason = str(exc).partition("\n")[0] or type(exc).__name__
        named = os.environ.get("JAX_PLATFORMS", "")
        raise StartupError(
            f"JAX sees no device with JAX_PLATFORMS={named}; without it, JAX takes what there is "
            f"({reason})"
        ) from exc


def choose_devices(shards: int | None) -> tuple[Device, ...]:
    """Return one device for each shard.

    Args:
        shards: The number of shards. Default: all accelerators, or one CPU device.

    Raises:
        StartupError: JAX has no device, or there are fewer devices than shards.
    """
    devices = all_devices()
    if shards is None:
        return tuple(devices) if devices[0].platform != "cpu" else (devices[0],)
    if len(devices) < shards:
        raise StartupError(
            f"{shards} shards need as many devices; JAX sees {len(devices)}: "
            f"{', '.join(map(str, devices))}"
        )
    return tuple(devices[:shards])


def count_lanes(device: Device) -> int:
    """Return how many small programs a device should run at once.

    An accelerator runs one after the other. XLA splits each operation between all cores of a CPU,
    which pays for large operations only. One core is left to the event loop: without it, a server
    under overload answers fewer calls in time.
    """
    if device.platform != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, cores - 1)
