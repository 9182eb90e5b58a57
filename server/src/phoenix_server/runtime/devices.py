"""Which devices hold the corpus."""

from typing import Any, TypeAlias

import jax

from phoenix_server.errors import StartupError

Device: TypeAlias = Any
"""A `jax.Device`, which is a class of a compiled module: type checkers do not see it."""


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
