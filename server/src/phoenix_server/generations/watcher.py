"""Load the newest bundle of a watched directory, as TensorFlow Serving does."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from phoenix_server.artifacts import COMPILED, MANIFEST, MAX_FILES, describe_error, walk
from phoenix_server.bundle.bundle import SIGNATURE
from phoenix_server.errors import (
    BusyError,
    NoMemoryError,
    NotReadyError,
    PhoenixServerError,
    StartupError,
)

if TYPE_CHECKING:  # it imports JAX, which takes seconds
    from phoenix_server.generations.manager import GenerationManager

_log = logging.getLogger(__name__)

_MAX_PAUSE_S = 60.0


def newest(directory: Path) -> Path | None:
    """Return the bundle of the largest number: DIRECTORY/NUMBER/manifest.json. None: there is none.

    Raises:
        OSError: The directory cannot be read.
    """
    numbered = (entry for entry in directory.iterdir() if entry.name.isdecimal())
    return max(filter(_is_bundle, numbered), key=lambda entry: int(entry.name), default=None)


def _is_bundle(entry: Path) -> bool:
    """Return whether a directory may be a bundle; loading says why one cannot be read."""
    try:
        return (entry / MANIFEST).is_file()
    except OSError:
        return True


def first_bundle(directory: Path) -> Path:
    """Return the bundle to start with.

    Raises:
        StartupError: There is none.
    """
    try:
        found = newest(directory)
    except OSError as exc:
        raise StartupError(f"--watch {directory}: {exc.strerror}") from exc
    if found is None:
        raise StartupError(f"--watch {directory}: holds no bundle in a directory named by a number")
    return found


async def watch(manager: GenerationManager, directory: Path, interval_s: float) -> None:
    """Load and activate the newest bundle whenever it changes, until cancelled.

    A bundle is new if its number is larger than that of the last one, or if one of its files was
    written again. One that fails, perhaps because it was still being copied, is tried again when a
    file changes, in size or in time of writing. One that was loaded is not loaded again for a new
    signature alone. One that arrives while another is being loaded is tried until it can be loaded,
    and so is one for which there is no memory, at growing intervals up to a minute.

    Args:
        manager: Loads and activates it.
        directory: Numbered bundles.
        interval_s: Time between two looks, in seconds.
    """
    served = manager.active.bundle
    tried: _Version | None = None
    version: _Version | None = None
    if served.parent.resolve() == directory.resolve() and served.name.isdecimal():
        tried = _Version(int(served.name), frozenset(), is_loaded=True)
        with suppress(OSError):  # it may have been removed
            tried = _version(served)._replace(is_loaded=True)
    pause_s = interval_s
    while True:
        await asyncio.sleep(pause_s)
        last_pause_s, pause_s = pause_s, interval_s
        try:
            found = await asyncio.to_thread(newest, directory)
            version = None if found is None else await asyncio.to_thread(_version, found)
            if version is None or (tried is not None and not version.is_after(tried)):
                continue
            await manager.load(found, None, activate=True)
            tried = version._replace(is_loaded=True)
        except (BusyError, NotReadyError) as exc:
            _log.info("%s: %s", directory, describe_error(exc))
        except NoMemoryError as exc:  # each try verifies the files, which takes a while
            pause_s = max(interval_s, min(2 * last_pause_s, _MAX_PAUSE_S))
            _log.warning("%s: %s; next try in %.0f s", directory, describe_error(exc), pause_s)
        except PhoenixServerError as exc:  # the active generation goes on
            tried = version
            _log.warning("%s: %s", directory, describe_error(exc))
        except OSError as exc:
            _log.warning("%s: %s", directory, describe_error(exc))


class _Version(NamedTuple):
    """A state of a numbered bundle.

    Attributes:
        number: Its number.
        files: Path, size in bytes and time of writing, in nanoseconds since 1970, of each file.
        is_loaded: Whether it was loaded.
    """

    number: int
    files: frozenset[tuple[str, int, int]]
    is_loaded: bool = False

    def is_after(self, tried: _Version) -> bool:
        """Return whether this may load although the other did not, or was loaded before."""
        changed = {path for path, _, _ in self.files ^ tried.files}
        if tried.is_loaded:
            changed.discard(SIGNATURE)
        return self.number > tried.number or (self.number == tried.number and bool(changed))


def _version(bundle: Path) -> _Version:
    """Return the state of a bundle; programs compiled ahead do not count, they are a shortcut.

    Only the first 10,000 files count: a link may lead to a large directory.
    """
    files: set[tuple[str, int, int]] = set()
    for path in islice(walk(bundle), MAX_FILES):
        inside = path.relative_to(bundle)
        if inside.parts[0] != COMPILED and not path.is_dir():
            try:
                status = path.stat()
            except OSError:  # a link that leads nowhere; loading says whether a file is missing
                status = path.lstat()
            files.add((inside.as_posix(), status.st_size, status.st_mtime_ns))
    return _Version(int(bundle.name), frozenset(files))
