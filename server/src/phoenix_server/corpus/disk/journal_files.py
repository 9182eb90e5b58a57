"""The files of a journal: how SQLite opens them, and whether they are still where they were."""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from phoenix_server.artifacts import flush
from phoenix_server.errors import CorpusError

Identities = dict[str, tuple[int, int] | None]
"""Device and inode of files by name; None for a missing file."""


_SUFFIXES = ("", "-wal", "-shm")


@contextmanager
def new_database(path: Path) -> Generator[Path, None, None]:
    """Give a path at which the block creates a database, which has its name when it is whole.

    Others cannot read it.

    Raises:
        CorpusError: The disk refuses.
    """
    fresh = path.with_name(f".{path.name}.new")
    try:
        remove_database(fresh)
        os.close(os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
        yield fresh
        replace_database(path, fresh)
    except OSError as exc:
        raise CorpusError(path, f"cannot be used as a journal: {exc.strerror}") from exc


def replace_database(path: Path, fresh: Path) -> None:
    """Put a database that is closed in place of another one, whose WAL must not be read with it."""
    remove_database(path)
    os.rename(fresh, path)
    flush(path.parent)


def remove_database(path: Path) -> None:
    """Remove a database that nobody uses, if it is there."""
    for file in database_files(path):
        file.unlink(missing_ok=True)


def database_files(path: Path) -> list[Path]:
    """Return the paths of a database and of the files that SQLite keeps beside it."""
    return [path.with_name(f"{path.name}{suffix}") for suffix in _SUFFIXES]


def uri_to_open(path: Path, read_only: bool) -> str:
    """Return the URI with which SQLite opens a database."""
    uri = path.absolute().as_uri()
    if not read_only:
        return f"{uri}?mode=rw"
    # Without a WAL file no process has the database open, and SQLite would create one to read it.
    closed = not path.with_name(f"{path.name}-wal").exists()
    return f"{uri}?mode=ro&immutable=1" if closed else f"{uri}?mode=ro"


def needs_copy(path: Path) -> bool:
    """Return whether SQLite would have to create a file to read a WAL, and may not.

    So it is after a crash, on a filesystem that is mounted read-only.
    """
    _, log, shared = database_files(path)
    return log.exists() and not shared.exists() and not os.access(path.parent, os.W_OK)


def copy_to_read(path: Path) -> tuple[TemporaryDirectory[str], Path]:
    """Copy a database and its WAL to a place where SQLite can read them."""
    folder = TemporaryDirectory(prefix="phoenix-journal-")
    for file in (path, path.with_name(f"{path.name}-wal")):
        shutil.copy(file, folder.name)
    return folder, Path(folder.name) / path.name


def identities(path: Path) -> Identities:
    """Return device and inode of the database and its WAL by name; None for a missing file."""
    found: Identities = {}
    for name in (path.name, f"{path.name}-wal"):
        try:
            status = os.stat(path.with_name(name))
            found[name] = (status.st_dev, status.st_ino)
        except OSError:
            found[name] = None
    return found
