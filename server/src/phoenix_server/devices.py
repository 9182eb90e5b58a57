"""Which devices hold the corpus."""

from typing import Any, TypeAlias

import jax

from phoenix_server.errors import StartupError

Device: TypeAlias = Any
"""A `jax.Device`, which is a class of a compiled module: type checkers do not see it."""


def choose_devices(shards: int | None) -> tuple[Device, ...]:
    """Return one device a shard.

    A CPU is one device to JAX unless it is told otherwise before it first looks.

    Args:
        shards: How many. Default: all accelerators, or one CPU device.

    Raises:
        StartupError: There are too few.
    """
    if shards is not None:
        jax.config.update("jax_num_cpu_devices", shards)
    devices = jax.devices()
    if shards is None:
        return tuple(devices) if devices[0].platform != "cpu" else (devices[0],)
    if len(devices) < shards:
        raise StartupError(
            f"{shards} shards need as many devices; JAX sees {len(devices)}: "
            f"{', '.join(map(str, devices))}"
        )
    return tuple(devices[:shards])
