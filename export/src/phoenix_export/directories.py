"""Write a directory atomically: under a temporary name, flushed to the disk, then renamed."""

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from phoenix_export.errors import OutputError


@contextmanager
def new_directory(out: Path) -> Generator[Path, None, None]:
    """Yield a temporary directory, which is renamed to `out` if the block succeeds.

    Raises:
        OutputError: `out` exists or cannot be written.
    """
    if os.path.lexists(out):
        raise OutputError(f"{out}: exists and is never overwritten; choose another name")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as exc:
        reason = f"{exc.strerror}: {exc.filename}"  # any parent of `out` may be at fault
        raise OutputError(f"{out}: cannot be written: {reason}") from exc
    try:
        yield staging
        staging.chmod(0o755)
        for path in (*staging.rglob("*"), staging):
            _flush(path)
        staging.rename(out)
        _flush(out.parent)
    except OSError as exc:
        raise OutputError(f"{out}: cannot be written: {exc.strerror or exc}") from exc
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
