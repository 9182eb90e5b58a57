"""Load what appears in a directory of numbered bundles, as TensorFlow Serving does."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from phoenix_server.artifacts import MANIFEST, describe_error
from phoenix_server.errors import (
    BusyError,
    NoMemoryError,
    NotReadyError,
    PhoenixServerError,
    StartupError,
)

if TYPE_CHECKING:  # it needs JAX, which takes long to import
    from phoenix_server.generations.manager import GenerationManager

_log = logging.getLogger(__name__)

_LONGEST_S = 60.0


def newest(directory: Path) -> Path | None:
    """Return the bundle of the largest number, if there is one: DIRECTORY/NUMBER/manifest.json.

    Raises:
        OSError: The directory cannot be read.
    """
    bundles = [
        entry
        for entry in directory.iterdir()
        if entry.name.isdecimal() and (entry / MANIFEST).is_file()
    ]
    return max(bundles, key=lambda entry: int(entry.name), default=None)


def first_bundle(directory: Path) -> Path:
    """Return the bundle to begin with.

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


async def watch(generations: GenerationManager, directory: Path, interval_s: float) -> None:
    """Load and activate the newest bundle whenever another is, until cancelled.

    A bundle is another if its number is larger than those before, or if its manifest was written
    anew. One that cannot be loaded is tried again when it is; one that came while another was being
    loaded is tried until it can be, and so is one for which there was no memory, but less and less
    often.

    Args:
        generations: Where to load it.
        directory: Numbered bundles.
        interval_s: How often to look, in seconds.
    """
    served = generations.active.engine.bundle.path
    tried = version = None
    if served.parent.resolve() == directory.resolve() and served.name.isdecimal():
        tried = int(served.name), 0
        with suppress(OSError):  # it may be gone
            tried = _version(served)
    pause_s = interval_s
    while True:
        await asyncio.sleep(pause_s)
        last_s, pause_s = pause_s, interval_s
        try:
            found = await asyncio.to_thread(newest, directory)
            version = None if found is None else _version(found)
            if version is None or (tried is not None and version <= tried):
                continue
            await generations.load(found, None, activate=True)
            tried = version
        except (BusyError, NotReadyError) as exc:
            _log.info("%s: %s", directory, describe_error(exc))
        except NoMemoryError as exc:  # to try is to verify its files, which takes a while
            pause_s = max(interval_s, min(2 * last_s, _LONGEST_S))
            _log.warning("%s: %s; next try in %.0f s", directory, describe_error(exc), pause_s)
        except PhoenixServerError as exc:  # what answers goes on
            tried = version
            _log.warning("%s: %s", directory, describe_error(exc))
        except OSError as exc:
            _log.warning("%s: %s", directory, describe_error(exc))


def _version(bundle: Path) -> tuple[int, int]:
    """Return a bundle's number, and when its manifest was written, in nanoseconds."""
    return int(bundle.name), (bundle / MANIFEST).stat().st_mtime_ns
