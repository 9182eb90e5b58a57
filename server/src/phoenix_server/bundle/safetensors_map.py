"""Memory-mapped tensors of safetensors files.

The safetensors library copies what it reads. A mapped table is available at once, a CPU device uses
it without a copy, and servers on one machine share its pages.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from phoenix_server.runtime.arrays import F32


def map_tensors(path: Path) -> Iterator[tuple[str, F32]]:
    """Yield the float32 tensors of a file by name, memory-mapped and read-only.

    Raises:
        ValueError: It is not a safetensors file, or a tensor is not float32.
        OSError: It cannot be read.
    """
    try:
        with safe_open(path, framework="numpy") as file:  # validates the header against the file
            names = list(file.keys())
    except SafetensorError as exc:
        raise ValueError(exc) from exc
    with path.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    for name in names:
        entry = header[name]
        if entry["dtype"] != "F32":
            raise ValueError(f"{name} holds {entry['dtype']}, not F32")
        begin, end = entry["data_offsets"]
        shape = tuple(entry["shape"])
        if begin == end:
            yield name, np.empty(shape, np.float32)
        else:
            yield name, np.memmap(path, "<f4", "r", 8 + size + begin, shape)
