"""A corpus that a server has written changes to, and faults of its files."""

import shutil
from collections.abc import Callable
from pathlib import Path

from phoenix_server.corpus.changes import Change
from phoenix_server.corpus.disk.compaction import write_snapshot
from phoenix_server.corpus.disk.store import Store
from server.corpus.change_cases import OwnTowers, id_array, unit_posts, written_corpus

GROUPS: list[list[Change]] = [
    [unit_posts([101, 102], 0), id_array(3)],
    [unit_posts([103], 1)],
    [id_array(101), unit_posts([104, 5], 2)],
    [unit_posts(range(200, 230), 3)],
]
SNAPSHOT_AFTER = 1  # of the groups
LAST = sum(map(len, GROUPS))
DIRECTORIES = ("snapshots/3", "snapshots")
FILES = (
    *("manifest.json", "posts.arrow", "lock"),
    *("journal.sqlite", "journal.sqlite-wal", "journal.sqlite-shm", "journal.seal"),
    *("snapshots/3/manifest.json", "snapshots/3/posts.arrow"),
    *DIRECTORIES,
)


def remove(path: Path, older: Path) -> None:
    """Remove a file or a directory."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def empty(path: Path, older: Path) -> None:
    """Leave an empty file."""
    path.write_bytes(b"")


def halve(path: Path, older: Path) -> None:
    """Cut a file in half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path, older: Path) -> None:
    """Flip a byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def replace(path: Path, older: Path) -> None:
    """Put an older copy there."""
    if older.is_file():
        path.unlink()
        shutil.copy(older, path)


FAULTS: list[Callable[[Path, Path], None]] = [remove, empty, halve, flip, replace]


class Served:
    """A corpus that a server has written changes to, and a copy of an earlier state.

    Attributes:
        path: The corpus.
        older: The copy, after the first group.
        store: The corpus while the server runs.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self.older = folder / "corpus", folder / "older"
        written_corpus(self.path, 20)
        self.store = Store(self.path)
        number = 1
        for index, group in enumerate(GROUPS):
            self.store.append(number, group)
            number += len(group)
            if index == 0:
                shutil.copytree(self.path, self.older)
            if index == SNAPSHOT_AFTER:
                self.store.snapshot = write_snapshot(self.store, OwnTowers())
                self.store.journal.trim(number - 1)

    def killed(self) -> Path:
        """Return the directory as a killed server leaves it."""
        left = self.path.with_name("killed")
        shutil.copytree(self.path, left)
        self.store.close()
        return left

    def stopped(self) -> Path:
        """Return the directory as a server leaves it that has stopped."""
        self.store.close()
        return self.path
