import jax
import pytest

from phoenix_server.errors import StartupError
from phoenix_server.runtime.devices import choose_devices


@pytest.mark.parametrize("shards", [1, 3, 8])
def test_a_shard_gets_a_device_each(shards: int) -> None:
    assert choose_devices(shards) == tuple(jax.devices()[:shards])


def test_one_cpu_device_is_the_default() -> None:
    assert choose_devices(None) == (jax.devices()[0],)


def test_more_shards_than_devices_are_refused() -> None:
    with pytest.raises(StartupError, match="9 shards need as many devices; JAX sees 8: "):
        choose_devices(9)
