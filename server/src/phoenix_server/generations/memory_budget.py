"""Whether a generation fits in the memory that is free.

Shapes:
    R  rows in memory of all shards        S  shards
    D  width of a vector                   L  labels
"""

from phoenix_server.config import EngineConfig
from phoenix_server.errors import NoMemoryError
from phoenix_server.generations.sources import Source
from phoenix_server.runtime.devices import Device
from phoenix_server.runtime.memory import available_bytes, available_host_bytes
from phoenix_server.search.choice import choose_layout

_HOST_BYTES = 64  # of a row: ids, time, and the maps of ids and authors
_DEVICE_BYTES = 16  # of a row: id and time
_PROGRAM_BYTES = 64 << 20  # working memory of compiled programs


def check_memory(source: Source, devices: tuple[Device, ...], sizes: EngineConfig) -> None:
    """Check that a generation fits in the free memory, by an estimate of what it needs.

    Raises:
        NoMemoryError: It does not.
    """
    host, first, others = _needed_bytes(source, devices, sizes)
    places: list[tuple[str, int, int | None]] = []
    for number, device in enumerate(devices):
        needed = others if number else first
        if device.platform == "cpu":  # CPU devices share the host's memory
            host += needed
        else:
            places.append((str(device), needed, available_bytes(device)))
    for place, needed, free in (("the host", host, available_host_bytes()), *places):
        if free is not None and needed > free:
            raise NoMemoryError(
                f"the generation needs about {needed / 1e6:,.0f} MB of memory on {place}, "
                f"{free / 1e6:,.0f} MB are free"
            )


def _needed_bytes(
    source: Source, devices: tuple[Device, ...], sizes: EngineConfig
) -> tuple[int, int, int]:
    """Return about what a generation needs on the host, the first device, and each other one.

    host   = R * (64 + L/8)
    device = R/S * (4 D + 16 + L/8); the first also holds the bundle and programs

    The native search holds codes beside the vectors: R/S * (D + 8) more.
    """
    manifest = source.store.snapshot.manifest
    rows = max(sizes.capacity or 0, manifest.rows)
    label_bytes = max(sizes.max_labels, len(manifest.label_names)) // 8
    width = source.bundle.manifest.model.embedding_size
    layout = choose_layout(devices, rows=rows, width=width, scan=sizes.scan)
    shard = -(-rows // len(devices)) * (layout.row_bytes + _DEVICE_BYTES + label_bytes)
    towers = sum(file.size_bytes for file in source.bundle.serving_files())
    return rows * (_HOST_BYTES + label_bytes), shard + towers + _PROGRAM_BYTES, shard
