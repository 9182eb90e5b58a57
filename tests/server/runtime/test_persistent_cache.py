"""Programs compiled ahead are stored with their sums, and used only if these hold."""

import errno
import json
import os
from collections.abc import Callable, Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from phoenix_server.artifacts import sha256
from phoenix_server.errors import BundleError
from phoenix_server.runtime import persistent_cache
from phoenix_server.runtime.persistent_cache import compiled_path, use_compiled, writing_compiled
from phoenix_server.signatures import TrustedKeys
from server.cases import flip_bit

_OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_entry_size_bytes",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_enable_xla_caches",
    "jax_compilation_cache_max_size",
)
_LISTS = {"directory.txt", "sums.json"}  # beside the programs


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
    assert {file.name for file in path.iterdir()} == {"first", "second", *_LISTS}
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
    assert {file.name for file in path.iterdir()} == {"second", *_LISTS}


@pytest.mark.parametrize("contents", ["[" * 200_000, "[]", "", " " * (17 << 20)])
def test_a_list_of_sums_that_is_none_is_damage(
    tmp_path: Path, settings: dict[str, Any], contents: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cpu"
    _write(path, settings, "first")
    (path / "sums.json").write_text(contents)
    assert not use_compiled(path)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"{path} is not used, and its programs are compiled here: it is damaged: "
    )


def test_what_cannot_be_read_is_named(
    tmp_path: Path,
    settings: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    path = tmp_path / "cpu"
    _write(path, settings, "first")
    monkeypatch.setattr(persistent_cache, "sha256", refuse)
    assert not use_compiled(path)
    (record,) = caplog.records
    assert record.getMessage().endswith(f": {path}/first cannot be read: Input/output error")


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_not_a_file_is_named(
    tmp_path: Path,
    settings: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
    make: Callable[[Path], None],
) -> None:
    path = tmp_path / "cpu"
    _write(path, settings, "first")
    (path / "first").unlink()
    make(path / "first")
    assert not use_compiled(path)
    (record,) = caplog.records
    assert record.getMessage().endswith(": it is damaged: first is not a file")
    _write(path, settings, "second")
    assert {file.name for file in path.iterdir()} == {"second", *_LISTS}


def test_another_user_may_read_them_as_the_rest_of_a_bundle(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    _write(tmp_path / "cpu", settings, "first")
    assert (tmp_path / "cpu").stat().st_mode & 0o777 == 0o755


def test_jax_writes_no_times_of_access_into_the_directory(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    _write(tmp_path / "cpu", settings, "first")
    settings.clear()
    assert use_compiled(tmp_path / "cpu")
    assert settings["jax_compilation_cache_max_size"] == -1


def test_programs_of_another_kind_of_machine_are_not_used(
    tmp_path: Path, settings: dict[str, Any], key: Ed25519PrivateKey
) -> None:
    path, other = tmp_path / "cpu-a", tmp_path / "cpu-b"
    _write(path, settings, "first")
    _sign(path, key)
    path.rename(other)
    assert not use_compiled(other, _trusting(key))
    other.rename(path)
    assert use_compiled(path, _trusting(key))


def test_with_trusted_keys_no_cache_of_the_environment_is_used(
    tmp_path: Path, settings: dict[str, Any], key: Ed25519PrivateKey
) -> None:
    assert not use_compiled(tmp_path / "none", _trusting(key))
    assert settings == {"jax_compilation_cache_dir": None}


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
    assert {file.name for file in path.iterdir()} == {"first", *_LISTS}


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


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def _trusting(key: Ed25519PrivateKey) -> TrustedKeys:
    return TrustedKeys((key.public_key().public_bytes_raw(),))


def _sign(path: Path, key: Ed25519PrivateKey) -> None:
    (path / "sums.sig").write_bytes(key.sign((path / "sums.json").read_bytes()))


def test_programs_that_a_trusted_key_signed_are_used(
    tmp_path: Path, settings: dict[str, Any], key: Ed25519PrivateKey
) -> None:
    path = tmp_path / "cpu"
    _write(path, settings, "first")
    _sign(path, key)
    assert use_compiled(path, _trusting(key))
    assert settings["jax_compilation_cache_dir"] == str(path)
    assert use_compiled(path)  # a signature is in nobody's way


@pytest.mark.parametrize("spoil", ["unsigned", "another key", "changed", "changed and listed"])
def test_programs_that_no_trusted_key_signed_are_not_used(
    tmp_path: Path,
    settings: dict[str, Any],
    key: Ed25519PrivateKey,
    spoil: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "cpu"
    _write(path, settings, "first")
    if spoil != "unsigned":
        _sign(path, Ed25519PrivateKey.generate() if spoil == "another key" else key)
    if spoil.startswith("changed"):
        (path / "first").write_bytes(b"hostile")
    if spoil == "changed and listed":
        sums = json.dumps({"first": sha256(path / "first")})
        (path / "sums.json").write_text(sums)
    settings.clear()
    assert not use_compiled(path, _trusting(key))
    assert settings == {"jax_compilation_cache_dir": None}
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    if spoil == "unsigned":
        assert record.getMessage() == (
            f"{path} is not used, and its programs are compiled here: sums.sig: missing: nobody "
            "signed this, and --trusted-key requires it"
        )


def test_only_programs_that_a_trusted_key_signed_are_added_to(
    tmp_path: Path,
    settings: dict[str, Any],
    key: Ed25519PrivateKey,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "cpu"

    def write(name: str) -> set[str]:
        with writing_compiled(path, _trusting(key)):
            Path(settings["jax_compilation_cache_dir"], name).write_bytes(name.encode())
        return {file.name for file in path.iterdir()}

    _write(path, settings, "foreign")
    assert write("first") == {"first", *_LISTS}
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{path}: what was compiled before is dropped: sums.sig: missing: nobody signed this, and "
        "--trusted-key requires it"
    )
    _sign(path, key)
    assert write("second") == {"first", "second", *_LISTS}  # the signature is of the old list
    assert not use_compiled(path, _trusting(key))
