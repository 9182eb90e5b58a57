import subprocess
import sys
from pathlib import Path
from subprocess import PIPE

import jax
import pytest

from phoenix_server.devices import choose_devices
from phoenix_server.errors import StartupError


@pytest.mark.parametrize("shards", [1, 3, 8])
def test_a_shard_gets_a_device_each(shards: int) -> None:
    assert choose_devices(shards) == tuple(jax.devices()[:shards])


def test_one_cpu_device_is_the_default() -> None:
    assert choose_devices(None) == (jax.devices()[0],)


def test_more_shards_than_devices_are_refused() -> None:
    with pytest.raises(StartupError, match="9 shards need as many devices; JAX sees 8: "):
        choose_devices(9)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
def test_computing_gives_way_to_callers_where_the_device_is_the_cpu() -> None:
    script = """
import os, threading
from pathlib import Path
from phoenix_server.devices import start_devices

earlier = threading.Event()
threading.Thread(target=earlier.wait, daemon=True).start()
(device,) = start_devices(1)
later = threading.Event()
threading.Thread(target=later.wait, daemon=True).start()
niceness = {t.name: os.getpriority(os.PRIO_PROCESS, t.native_id) for t in threading.enumerate()}
everyone = [int(path.name) for path in Path("/proc/self/task").iterdir()]
print(sorted(set(niceness.values())), max(os.getpriority(os.PRIO_PROCESS, t) for t in everyone))
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, stdout=PIPE, text=True)
    assert done.stdout == "[0] 10\n"
