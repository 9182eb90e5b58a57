"""Programs compiled ahead and stored in the bundle's directory: only ever a shortcut.

`BUNDLE/compiled/DEVICE/` is a persistent compilation cache of JAX with a list of SHA-256 sums. Code
compiled for one kind of machine must not run on another, so each kind has its own directory, named
by everything that XLA's code depends on. JAX finds a program by a hash of all its inputs; a program
that is not in the directory is compiled as if there were no directory.

These programs are native code, and the list of sums lies beside them: it shows damage, not who made
them. With trusted keys, a directory is used only if one of these keys signed its list. The list
covers a file with the directory's name: signed programs of one kind do not pass for another's.
"""

import hashlib
import json
import logging
import os
import platform
import re
import shutil
import stat
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
_NAME = "directory.txt"
_MAX_SUMS = 16 << 20  # bytes
_MODE = 0o755  # as the rest of a bundle: it holds no posts
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
    forget_unsigned(trusted)
    if not path.is_dir():
        _log.info("no programs are compiled ahead for this machine")
        return False
    if problem := _find_problem(path, trusted):
        _log.warning("%s is not used, and its programs are compiled here: %s", path, problem)
        return False
    _cache_in(path, write=False)
    return True


def forget_unsigned(trusted: TrustedKeys) -> None:
    """With trusted keys, keep JAX from the cache that JAX_COMPILATION_CACHE_DIR names.

    Nobody signs that cache, and it holds native code.
    """
    if trusted:
        jax.config.update("jax_compilation_cache_dir", None)


@contextmanager
def writing_compiled(path: Path, trusted: TrustedKeys = NO_KEYS) -> Generator[None, None, None]:
    """Make JAX store what it compiles in the block, in addition to what the directory holds.

    The directory is replaced as a whole when the block ends without an error. It has no signature
    then.

    Args:
        path: The directory.
        trusted: Keys of which one must have signed what the directory holds; else it is dropped,
            with a warning.

    Raises:
        BundleError: The directory cannot be written.
    """
    old = path if path.is_dir() else None
    if old and (problem := _find_problem(old, trusted)):
        _log.warning("%s: what was compiled before is dropped: %s", path, problem)
        old = None
    whole = path.with_name(f".{path.name}.new")
    shutil.rmtree(whole, ignore_errors=True)
    try:
        with new_directory(whole, BundleError, mode=_MODE) as staging:
            if old:
                shutil.copytree(old, staging, dirs_exist_ok=True)
                (staging / _SIGNATURE).unlink(missing_ok=True)
            _cache_in(staging, write=True)
            yield
            (staging / _NAME).write_text(path.name)
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
    # With a maximum size JAX writes a lock and times of access into the directory.
    jax.config.update("jax_compilation_cache_max_size", -1)


def _find_problem(path: Path, trusted: TrustedKeys) -> str | None:
    """Return why a directory cannot be used: its list is not signed, or its files differ from it.

    None: it can be used.
    """
    try:
        listed = _read_sums(path / _SUMS)
        if problem := trusted.find_problem(listed, path / _SIGNATURE):
            return f"{_SIGNATURE}: {problem}"
        entries = _entries(path)
        if odd := next((entry for entry in entries if not entry.is_file()), None):
            return f"it is damaged: {odd.name} is not a file"
        if {file.name: sha256(file) for file in entries} != json.loads(listed):
            return f"it is damaged: its files are not those of {_SUMS}"
        if (path / _NAME).read_bytes() != path.name.encode():
            return f"it holds programs for another kind of machine: {_NAME} has another name"
    except FileNotFoundError as exc:
        return f"it is damaged: {Path(exc.filename).name} is missing"
    except OSError as exc:
        return f"{exc.filename} cannot be read: {exc.strerror}"
    except (ValueError, RecursionError):
        return f"it is damaged: {_SUMS} is not a list of sums"
    return None


def _read_sums(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_SUMS:
        raise ValueError("not a list of sums")
    return path.read_bytes()


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
