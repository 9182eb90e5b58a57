"""Programs compiled ahead and stored in the bundle's directory: only ever a shortcut.

`BUNDLE/compiled/DEVICE/` is a persistent compilation cache of JAX with a list of SHA-256 sums. Code
compiled for one kind of machine must not run on another, so each kind has its own directory, named
by everything that XLA's code depends on. JAX finds a program by a hash of all its inputs; a program
that is not in the directory is compiled as if there were no directory.

These programs are native code, and the list of sums lies beside them: it shows damage, not who made
them. With trusted keys, a directory is used only if one of these keys signed its list.
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

from phoenix_server.artifacts import COMPILED, new_directory, sha256
from phoenix_server.errors import BundleError
from phoenix_server.runtime.devices import Device
from phoenix_server.signatures import NO_KEYS, TrustedKeys

_log = logging.getLogger(__name__)

_SUMS = "sums.json"
_SIGNATURE = "sums.sig"
_NEVER = float("inf")


def compiled_path(bundle: Path, device: Device) -> Path:
    """Return the directory of a bundle for programs compiled for a device of this machine."""
    kind = (version("jax"), version("jaxlib"), device.platform, device.device_kind, *_host())
    name = hashlib.sha256("\n".join(map(str, kind)).encode()).hexdigest()[:12]
    return bundle / COMPILED / f"{device.platform}-{name}"


def use_compiled(path: Path, trusted: TrustedKeys = NO_KEYS) -> bool:
    """Make JAX load programs from a directory, for the rest of the process.

    A directory that is damaged, or that no trusted key signed, is not used.

    Args:
        path: The directory; nobody may change it while the process runs.
        trusted: Keys of which one must have signed the list of sums. Default: it need not be
            signed.

    Returns:
        Whether JAX loads from it.
    """
    if not path.is_dir():
        _log.info("no programs are compiled ahead for this machine")
        return False
    if problem := _find_problem(path, trusted):
        _log.warning("%s %s", path, problem)
        return False
    _cache_in(path, write=False)
    return True


@contextmanager
def writing_compiled(path: Path, trusted: TrustedKeys = NO_KEYS) -> Generator[None, None, None]:
    """Make JAX store what it compiles in the block, in addition to what the directory holds.

    The directory is replaced as a whole when the block ends without an error. It has no signature
    then.

    Args:
        path: The directory.
        trusted: Keys of which one must have signed what the directory holds; else it is dropped.

    Raises:
        BundleError: The directory cannot be written.
    """
    old = path if path.is_dir() and not _find_problem(path, trusted) else None
    whole = path.with_name(f".{path.name}.new")
    shutil.rmtree(whole, ignore_errors=True)
    try:
        with new_directory(whole, BundleError) as staging:
            if old:
                shutil.copytree(old, staging, dirs_exist_ok=True)
                (staging / _SIGNATURE).unlink(missing_ok=True)
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
    # XLA's own caches would make every program's key depend on the directory's name.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")


def _find_problem(path: Path, trusted: TrustedKeys) -> str | None:
    """Return why a directory cannot be used: its list is not signed, or its files differ from it.

    None: it can be used.
    """
    try:
        listed = (path / _SUMS).read_bytes()
        if problem := trusted.find_problem(listed, path / _SIGNATURE):
            return f"is not used, and its programs are compiled here: {_SIGNATURE}: {problem}"
        sums = json.loads(listed)
        if {file.name: sha256(file) for file in _entries(path)} == sums:
            return None
    except (OSError, ValueError):
        pass
    return "is damaged and not used; `phoenix-server compile` repairs it"


def _entries(path: Path) -> list[Path]:
    return [file for file in path.iterdir() if file.name not in (_SUMS, _SIGNATURE)]


def _host() -> tuple[str, ...]:
    """Return the properties of this machine that XLA's code for the CPU depends on."""
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
