"""The lock of a corpus directory: one process writes changes at a time."""

import errno
import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from phoenix_server.artifacts import flush
from phoenix_server.errors import CorpusError

_LOCK = "lock"


def lock(path: Path) -> list[int]:
    """Lock a directory until the descriptors are closed or this process ends.

    The directory itself is locked besides the file, which could be removed meanwhile.

    Raises:
        CorpusError: Another process holds the lock, the directory is not writable, or its
            filesystem has no locks.
    """
    held: list[int] = []
    try:
        held.append(os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640))
        held.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as exc:
        what = f"changes cannot be written ({exc.strerror}); --read-only serves it without"
        unlock(held)
        raise CorpusError(path, what) from exc
    for descriptor in held:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            taken = exc.errno in (errno.EWOULDBLOCK, errno.EACCES)
            if not taken and descriptor is held[1]:
                continue  # not every filesystem locks directories
            unlock(held)
            what = f"cannot be locked ({exc.strerror})"
            what = "another server writes its changes" if taken else what
            raise CorpusError(path, f"{what}; --read-only serves it without") from exc
    return held


def unlock(descriptors: list[int]) -> None:
    """Release what `lock` has returned."""
    while descriptors:
        os.close(descriptors.pop())


@contextmanager
def locked_directory(path: Path) -> Generator[None, None, None]:
    """Keep servers from writing changes of a corpus during the block.

    Raises:
        CorpusError: One writes them, or the directory cannot be locked.
    """
    held = lock(path)
    try:
        yield
    finally:
        unlock(held)


def note_written(path: Path) -> None:
    """Note in the lock's file that there is a journal with a seal, durably."""
    if not was_written(path):
        (path / _LOCK).write_text("journal.sqlite journal.seal\n", encoding="utf-8")
        flush(path / _LOCK)
        flush(path)


def was_written(path: Path) -> bool:
    """Return whether `note_written` has noted that there is a journal with a seal."""
    return (path / _LOCK).is_file() and (path / _LOCK).stat().st_size > 0
