"""Whether a generation fits is estimated from its sizes."""

from types import SimpleNamespace
from typing import Any

import pytest

from phoenix_server.config import EngineConfig
from phoenix_server.errors import NoMemoryError
from phoenix_server.generations import memory_budget
from phoenix_server.generations.memory_budget import check_memory

CPU = SimpleNamespace(platform="cpu")
SIZES = EngineConfig(capacity=1_000_000, max_labels=256)


def source(rows: int = 10) -> Any:
    """Return a bundle of 100 MB, 128 wide, and a corpus."""
    manifest = SimpleNamespace(rows=rows, label_names=[])
    model = SimpleNamespace(embedding_size=128)
    return SimpleNamespace(
        store=SimpleNamespace(snapshot=SimpleNamespace(manifest=manifest)),
        bundle=SimpleNamespace(
            manifest=SimpleNamespace(model=model),
            serving_files=lambda: [SimpleNamespace(size_bytes=100_000_000)],
        ),
    )


@pytest.mark.parametrize("rows", [10, 1_000_000])
def test_cpu_devices_share_the_memory_of_the_host(
    monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    # 1,000,000 rows * (64 + 32 + 4 * 128 + 136 + 16 + 32) bytes, the bundle, 67 MB for programs
    needed = 792_000_000 + 100_000_000 + (64 << 20)
    monkeypatch.setattr(memory_budget, "available_host_bytes", lambda: needed)
    check_memory(source(rows), (CPU, CPU), SIZES)
    monkeypatch.setattr(memory_budget, "available_host_bytes", lambda: needed - 1)
    with pytest.raises(NoMemoryError, match="needs about 959 MB of memory on the host, 959 MB are"):
        check_memory(source(rows), (CPU, CPU), SIZES)


def test_an_accelerator_holds_its_shard_and_the_first_the_bundle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Gpu(SimpleNamespace):
        def __str__(self) -> str:
            return self.name

    gpus: Any = (Gpu(platform="gpu", name="gpu:0"), Gpu(platform="gpu", name="gpu:1"))
    free = {"gpu:0": 10**9, "gpu:1": 279_999_999}  # of 500,000 * 560 bytes
    monkeypatch.setattr(memory_budget, "available_bytes", lambda device: free[device.name])
    monkeypatch.setattr(memory_budget, "available_host_bytes", lambda: None)  # unknown
    with pytest.raises(NoMemoryError, match="280 MB of memory on gpu:1"):
        check_memory(source(), gpus, SIZES)
    free |= {"gpu:0": 280_000_000, "gpu:1": 280_000_000}
    with pytest.raises(NoMemoryError, match="447 MB of memory on gpu:0"):
        check_memory(source(), gpus, SIZES)
    free["gpu:0"] = 447_108_864
    check_memory(source(), gpus, SIZES)
