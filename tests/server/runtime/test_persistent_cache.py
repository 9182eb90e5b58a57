"""Programs compiled ahead are stored with their sums, and used only if these hold."""

from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from phoenix_server.errors import BundleError
from phoenix_server.runtime import persistent_cache
from phoenix_server.runtime.persistent_cache import compiled_path, use_compiled, writing_compiled
from server.cases import flip_bit

_OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_entry_size_bytes",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_enable_xla_caches",
)


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> Generator[dict[str, Any], None, None]:
    """Return what JAX is told; JAX itself keeps the settings of the other tests."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(
        persistent_cache, "jax", SimpleNamespace(config=SimpleNamespace(update=told.__setitem__))
    )
    yield told
    assert set(told) <= set(_OPTIONS)


def _write(path: Path, settings: dict[str, Any], *names: str) -> None:
    with writing_compiled(path):
        folder = Path(settings["jax_compilation_cache_dir"])
        assert settings["jax_persistent_cache_min_compile_time_secs"] == 0
        for name in names:
            (folder / name).write_bytes(name.encode())


def test_what_is_stored_is_loaded_and_not_added_to(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    path = tmp_path / "compiled" / "cpu"
    assert not use_compiled(path)
    assert not settings
    _write(path, settings, "first")
    assert use_compiled(path)
    assert settings["jax_compilation_cache_dir"] == str(path)
    assert settings["jax_persistent_cache_min_compile_time_secs"] == np.inf


def test_more_programs_are_added_to_those_that_are_whole(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    path = tmp_path / "cpu"
    _write(path, settings, "first")
    _write(path, settings, "second")
    assert {file.name for file in path.iterdir()} == {"first", "second", "sums.json"}
    assert use_compiled(path)


@pytest.mark.parametrize("name", ["first", "sums.json"])
def test_damaged_programs_are_neither_used_nor_kept(
    tmp_path: Path, settings: dict[str, Any], name: str
) -> None:
    path = tmp_path / "cpu"
    _write(path, settings, "first")
    flip_bit(path / name, 0)
    settings.clear()
    assert not use_compiled(path)
    assert not settings
    _write(path, settings, "second")
    assert {file.name for file in path.iterdir()} == {"second", "sums.json"}


@pytest.mark.parametrize("kind", ["missing", "unlisted"])
def test_a_directory_that_does_not_match_its_list_is_not_used(
    tmp_path: Path, settings: dict[str, Any], kind: str
) -> None:
    path = tmp_path / "cpu"
    _write(path, settings, "first")
    if kind == "missing":
        (path / "first").unlink()
    else:
        (path / "other").write_bytes(b"other")
    assert not use_compiled(path)


def test_an_error_leaves_the_directory_as_it_was(tmp_path: Path, settings: dict[str, Any]) -> None:
    path = tmp_path / "cpu"
    _write(path, settings, "first")
    with pytest.raises(ZeroDivisionError), writing_compiled(path):
        Path(settings["jax_compilation_cache_dir"], "second").write_bytes(b"second")
        raise ZeroDivisionError
    assert [each.name for each in tmp_path.iterdir()] == ["cpu"]
    assert {file.name for file in path.iterdir()} == {"first", "sums.json"}


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(BundleError, match="cannot be written"),
        writing_compiled(tmp_path / "file" / "cpu"),
    ):
        raise AssertionError


def test_each_kind_of_machine_has_a_directory_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device: Any = SimpleNamespace(platform="cpu", device_kind="cpu")
    gpu: Any = SimpleNamespace(platform="gpu", device_kind="H100")
    here = compiled_path(tmp_path, device)
    assert here == compiled_path(tmp_path, device)
    assert here.parent == tmp_path / "compiled"
    assert here.name.startswith("cpu-")
    other = compiled_path(tmp_path, gpu)
    assert other.name.startswith("gpu-")
    monkeypatch.setattr(persistent_cache, "_host", lambda: ("another",))
    assert compiled_path(tmp_path, device) != here
