"""Load what appears in a directory of numbered bundles, as TensorFlow Serving does."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from phoenix_server.artifacts import MANIFEST, describe_error
from phoenix_server.errors import PhoenixServerError, StartupError

if TYPE_CHECKING:  # it needs JAX, which takes long to import
    from phoenix_server.generations.manager import Generations

_log = logging.getLogger(__name__)

_Tried = tuple[Path, int]  # a bundle, and when its manifest was written


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


async def watch(generations: Generations, directory: Path, interval_s: float) -> None:
    """Load and activate the newest bundle whenever another is, until cancelled.

    One that cannot be loaded is tried again when its manifest has changed.

    Args:
        generations: Where to load it.
        directory: Numbered bundles.
        interval_s: How often to look, in seconds.
    """
    served = generations.active.engine.bundle.path
    tried: _Tried | None = (served, _written(served))
    while True:
        await asyncio.sleep(interval_s)
        try:
            found = await asyncio.to_thread(newest, directory)
            if found is None or (found, _written(found)) == tried:
                continue
            tried = found, _written(found)
            await generations.load(found, None, activate=True)
        except (PhoenixServerError, OSError) as exc:  # what answers goes on
            _log.warning("%s: %s", directory, describe_error(exc))


def _written(bundle: Path) -> int:
    """Return when a bundle's manifest was written, in nanoseconds."""
    return (bundle / MANIFEST).stat().st_mtime_ns
