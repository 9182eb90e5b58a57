"""Programs compiled ahead, kept beside the bundle: a shortcut, never the truth.

`BUNDLE/compiled/DEVICE/` is a persistent compilation cache of JAX with a list of SHA-256 sums. What
was compiled for one kind of machine must not run on another, so each has a directory of its own,
named by what XLA compiles for. JAX finds a program by all that went into it; one that is not there
is compiled as if there were no directory.
"""

import hashlib
import json
import logging
import os
import platform
import re
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import jax

from phoenix_server.artifacts import new_directory, sha256
from phoenix_server.errors import BundleError
from phoenix_server.runtime.devices import Device

_log = logging.getLogger(__name__)

_SUMS = "sums.json"
_NEVER = float("inf")


def compiled_path(bundle: Path, device: Device) -> Path:
    """Return where a bundle keeps programs compiled for a device of this machine."""
    kind = (version("jax"), version("jaxlib"), device.platform, device.device_kind, *_host())
    name = hashlib.sha256("\n".join(map(str, kind)).encode()).hexdigest()[:12]
    return bundle / "compiled" / f"{device.platform}-{name}"


def use_compiled(path: Path) -> bool:
    """Have JAX load what is compiled in a directory, for the rest of the process.

    Returns:
        Whether there is something to load.
    """
    if not path.is_dir():
        _log.info("no programs are compiled ahead for this machine")
        return False
    if not _is_whole(path):
        _log.warning("%s is damaged: compiling anew; `phoenix-server compile` mends it", path)
        return False
    _cache_in(path, write=False)
    return True


@contextmanager
def writing_compiled(path: Path) -> Generator[None, None, None]:
    """Have JAX keep what it compiles in the block, beside what is there.

    Raises:
        BundleError: The directory cannot be written.
    """
    old = path if path.is_dir() and _is_whole(path) else None
    whole = path.with_name(f".{path.name}.new")
    shutil.rmtree(whole, ignore_errors=True)
    try:
        with new_directory(whole, BundleError) as staging:
            if old:
                shutil.copytree(old, staging, dirs_exist_ok=True)
            _cache_in(staging, write=True)
            yield
            sums = {file.name: sha256(file) for file in _entries(staging)}
            (staging / _SUMS).write_text(json.dumps(sums, indent=1) + "\n")
        shutil.rmtree(path, ignore_errors=True)
        whole.rename(path)
    finally:
        shutil.rmtree(whole, ignore_errors=True)


def _cache_in(path: Path, *, write: bool) -> None:
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0 if write else _NEVER)
    # XLA's own caches would put the directory's name into every program's key.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def _is_whole(path: Path) -> bool:
    try:
        sums = json.loads((path / _SUMS).read_text())
        return {file.name: sha256(file) for file in _entries(path)} == sums
    except (OSError, ValueError):
        return False


def _entries(path: Path) -> list[Path]:
    return [file for file in path.iterdir() if file.name != _SUMS]


def _host() -> tuple[str, ...]:
    """Return what XLA's code for the CPU depends on."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        info = ""
    features = re.search(r"^(?:flags|Features)\s*:(.*)$", info, re.MULTILINE)
    return (
        platform.machine(),
        platform.processor(),
        " ".join(sorted(features[1].split())) if features else "",
        str(os.cpu_count()),
    )
