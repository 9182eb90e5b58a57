"""The working directory of a build, beside the corpus: locked, and removed when not needed."""

import fcntl
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from phoenix_server.artifacts import flush
from phoenix_server.errors import CorpusError

_LOCK, _JOINED = "lock", "corpus"


def count_parts(path: Path) -> int:
    """Return the number of parts in a directory, complete or not."""
    return sum(1 for _ in path.glob("parts/[0-9]*"))


def clear_joined(path: Path) -> Path:
    """Remove a joined corpus from a working directory, and return its path."""
    for entry in (*path.glob(f".{_JOINED}.*"), *path.glob(_JOINED)):
        shutil.rmtree(entry)
    return path / _JOINED


def publish(joined: Path, out: Path) -> None:
    """Rename a joined corpus to its final name.

    Raises:
        CorpusError: The name is taken by now.
    """
    try:
        joined.rename(out)
        flush(out.parent)
    except OSError as exc:
        raise CorpusError(out, f"cannot be written: {exc.strerror}") from exc


@contextmanager
def work_directory(out: Path, *, restart: bool) -> Generator[Path, None, None]:
    """Yield the working directory of a build, locked.

    It is removed when the block succeeds, or fails before any part exists.

    Args:
        out: The path of the corpus; must not exist.
        restart: Discard an earlier build.

    Raises:
        CorpusError: `out` exists, another process builds it, or writing fails.
    """
    path = out.with_name(f"{out.name}.partial")
    if os.path.lexists(out):
        rest = f"; {path} is left over from its build and not needed" if path.exists() else ""
        raise CorpusError(out, f"exists; choose another path or remove it{rest}")
    try:
        lock = _lock(path)
    except BlockingIOError:
        raise CorpusError(path, "another process builds this corpus; let it finish") from None
    except OSError as exc:
        raise CorpusError(path, f"cannot be written: {exc.strerror}") from exc
    try:
        if restart or not count_parts(path):
            _clear(path)
        yield path
        shutil.rmtree(path)
    except BaseException:
        if not count_parts(path):
            shutil.rmtree(path, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def _lock(path: Path) -> int:
    """Create and lock a directory until the descriptor is closed or this process ends."""
    while True:
        path.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # another process removed the directory
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(lock), os.stat(path / _LOCK)):
                    return lock
            except BaseException:
                os.close(lock)
                raise
            os.close(lock)  # the lock of a directory that was removed and created again


def _clear(path: Path) -> None:
    for entry in path.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != _LOCK:
            entry.unlink()
