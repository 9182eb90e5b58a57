"""The choice of what searches a corpus, by the kind of the devices.

Shapes:
    N  posts that a corpus can hold        D  width of a vector
"""

from typing import Any, Literal, TypeAlias

from phoenix_server.errors import StartupError
from phoenix_server.runtime.devices import Device
from phoenix_server.search.native.library import variants
from phoenix_server.search.native.scan import TILE_ROWS
from phoenix_server.search.shard import Scan
from phoenix_server.search.sharded import ShardedLayout

ScanOption: TypeAlias = Literal["auto", "native", "tiles", "kernel"]
"""What searches; see `choose_layout`."""

_NATIVE: dict[str, Any] = {"tile_rows": TILE_ROWS}
_KERNEL: dict[str, Any] = {"tile_rows": 1 << 13, "block_rows": 32}
# On a CPU, a tile of scores and the blocks of a query should fit in the cache; an accelerator needs
# few, large tiles and many queries at once.
_TILES: dict[str, Any] = {"tile_rows": 4096, "block_rows": 8, "queries_at_once": 1}
_TILES_ACCELERATOR: dict[str, Any] = {"tile_rows": 1 << 18, "block_rows": 32, "queries_at_once": 32}


def choose_layout(
    devices: tuple[Device, ...], *, rows: int, width: int, scan: ScanOption = "auto"
) -> ShardedLayout:
    """Return the layout of a corpus for the kind of the devices.

    Args:
        devices: One per shard.
        rows: N.
        width: D.
        scan: What searches. `auto` is `native` on CPUs where it is installed, else `tiles`.

    Raises:
        StartupError: The devices or the width do not support `scan`.
    """
    chosen, sizes = _choose_scan(scan, devices[0].platform, width)
    try:
        return ShardedLayout(devices=devices, rows=rows, width=width, scan=chosen, **sizes)
    except ValueError as exc:
        raise StartupError(f"scan: {exc}") from exc


def describe_search(layout: ShardedLayout) -> str:
    """Return what searches a corpus, with its variant: "native (avx2)" or "tiles"."""
    return f"{layout.scan} ({layout.variant})" if layout.variant else layout.scan


def describe_lack(layout: ShardedLayout, scan: ScanOption) -> str:
    """Return why `auto` did not choose the native search on a CPU, or an empty string."""
    if scan != "auto" or layout.scan != "tiles" or layout.devices[0].platform != "cpu":
        return ""
    try:
        variants(layout.width)
    except StartupError as exc:
        return f"searches take several times as long as they could: {exc}"
    raise AssertionError("the native search is there, and was not chosen")


def _choose_scan(option: ScanOption, platform: str, width: int) -> tuple[Scan, dict[str, Any]]:
    """Return the scan for the devices, and the sizes of its layout."""
    if option == "kernel":
        if platform != "gpu":
            raise StartupError(f"scan: the kernels need a GPU, the devices are {platform}")
        return "kernel", _KERNEL
    if option == "native" and platform != "cpu":
        raise StartupError(f"scan: the native search needs a CPU, the devices are {platform}")
    if option == "native" or (option == "auto" and platform == "cpu"):
        try:
            return "native", {**_NATIVE, "variant": variants(width)[0]}
        except StartupError as exc:
            if option == "native":
                raise StartupError(f"scan: {exc}") from exc
    return "tiles", _TILES if platform == "cpu" else _TILES_ACCELERATOR
