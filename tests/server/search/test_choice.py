"""What searches is chosen by the devices and by what is installed."""

import importlib.util
from types import SimpleNamespace
from typing import Any

import jax
import pytest

from phoenix_server.errors import StartupError
from phoenix_server.search import choice
from phoenix_server.search.choice import ScanOption, choose_layout, describe_lack, describe_search
from phoenix_server.search.native import library
from phoenix_server.search.native.library import variants
from phoenix_server.search.sharded import ShardedLayout


def _choose(scan: ScanOption, width: int = 128) -> ShardedLayout:
    return choose_layout(tuple(jax.devices()[:1]), rows=1000, width=width, scan=scan)


@pytest.fixture
def not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(width: int) -> list[str]:
        raise StartupError("the native search was not built")

    monkeypatch.setattr(choice, "variants", refuse)


@pytest.mark.parametrize("width", [13, 64, 128])
def test_a_cpu_searches_natively_with_the_best_variant(width: int) -> None:
    best = variants(width)[0]
    for scan in ("auto", "native"):
        layout = _choose(scan, width)
        assert (layout.scan, layout.variant) == ("native", best)
        assert describe_search(layout) == f"native ({best})"
        assert describe_lack(layout, scan) == ""


def test_without_the_library_tiles_search_and_it_is_said_why(not_built: None) -> None:
    layout = _choose("auto")
    assert describe_search(layout) == "tiles"
    lack = "searches take several times as long as they could: the native search was not built"
    assert describe_lack(layout, "auto") == lack
    assert describe_lack(_choose("tiles"), "tiles") == ""  # as it was asked for


def test_without_the_library_a_native_search_is_refused(not_built: None) -> None:
    with pytest.raises(StartupError, match="scan: the native search was not built"):
        _choose("native")


def test_a_library_that_is_not_there_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    load: Any = library._library  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(StartupError, match=r"needs g\+\+ 11 or newer, or clang\+\+; install one"):
        load.__wrapped__()


def test_a_library_that_cannot_be_loaded_says_why(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    damaged = tmp_path_factory.mktemp("library") / "damaged.so"
    damaged.write_bytes(b"no library")
    spec = SimpleNamespace(origin=str(damaged))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    load: Any = library._library  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(
        StartupError, match=r"cannot be loaded, reinstall phoenix-server: .*damaged"
    ):
        load.__wrapped__()


@pytest.mark.parametrize(
    ("platform", "scan", "reason"),
    [
        ("cpu", "kernel", "scan: the kernels need a GPU, the devices are cpu"),
        ("gpu", "native", "scan: the native search needs a CPU, the devices are gpu"),
    ],
)
def test_a_search_for_other_devices_is_refused(
    platform: str, scan: ScanOption, reason: str
) -> None:
    devices: Any = (SimpleNamespace(platform=platform),)
    with pytest.raises(StartupError, match=reason):
        choose_layout(devices, rows=1000, width=128, scan=scan)


def test_an_accelerator_searches_with_tiles() -> None:
    devices: Any = (SimpleNamespace(platform="tpu"),)
    layout = choose_layout(devices, rows=1000, width=128)
    assert (layout.scan, describe_lack(layout, "auto")) == ("tiles", "")
