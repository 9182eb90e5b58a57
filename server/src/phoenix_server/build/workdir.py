"""The directory in which a corpus is built: of one builder, and gone when it is of no use."""

import fcntl
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from phoenix_server.artifacts import flush
from phoenix_server.errors import CorpusError

_LOCK, _JOINED = "lock", "corpus"


def workplace_path(out: Path) -> Path:
    """Return where a corpus is built: beside it."""
    return out.with_name(f"{out.name}.partial")


def count_parts(path: Path) -> int:
    """Return how many parts of a corpus are in a directory, whole or not."""
    return sum(1 for _ in path.glob("parts/[0-9]*"))


def clear_joined(path: Path) -> Path:
    """Return where in a directory of parts they are put together, and remove what is there."""
    for entry in (*path.glob(f".{_JOINED}.*"), *path.glob(_JOINED)):
        shutil.rmtree(entry)
    return path / _JOINED


def publish(joined: Path, out: Path) -> None:
    """Give a corpus its name.

    Raises:
        CorpusError: There is something of that name now.
    """
    try:
        joined.rename(out)
        flush(out.parent)
    except OSError as exc:
        raise CorpusError(out, f"cannot be written: {exc.strerror}") from exc


@contextmanager
def workplace(out: Path, *, restart: bool) -> Generator[Path, None, None]:
    """Yield the directory in which a corpus is built.

    It is removed when the block succeeds, and when there is no part in it yet.

    Args:
        out: The corpus; must not exist.
        restart: Throw away what an earlier build left.

    Raises:
        CorpusError: `out` exists, another builds it, or the disk refuses.
    """
    path = workplace_path(out)
    if os.path.lexists(out):
        rest = f"; {path} is left from making it, and of no use" if path.exists() else ""
        raise CorpusError(out, f"exists; choose another place or remove it{rest}")
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
    """Make a directory and take its lock, which is free again when this process has ended."""
    while True:
        path.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            continue  # another removed the directory
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), os.stat(path / _LOCK)):
                return lock
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)  # of a directory that another has removed since


def _clear(path: Path) -> None:
    for entry in path.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != _LOCK:
            entry.unlink()
