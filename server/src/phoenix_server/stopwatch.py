"""How long a device works."""

import time
from collections.abc import Callable

import jax


def device_seconds(run: Callable[[], object]) -> float:
    """Run work on a device twice, and return what the second time took, in seconds."""
    jax.block_until_ready(run())
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began
