import jax
import pytest

from phoenix_server.errors import StartupError
from phoenix_server.search.choice import choose_layout


def test_kernels_are_refused_on_other_devices_than_gpus() -> None:
    with pytest.raises(StartupError, match="scan: the kernels need a GPU, the devices are cpu"):
        choose_layout(tuple(jax.devices()[:1]), rows=1000, width=128, scan="kernel")
