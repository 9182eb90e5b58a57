"""The seal of a journal: what the journal must hold, in a file of its own.

A journal that was removed, cut short or replaced by an older copy looks whole by itself. The seal
says which change was acknowledged last; it is written, and flushed, after each group of changes.

The file has two slots, which are written in turns, so that one is whole after a crash. A slot is
one line: the CRC-32 of the rest, and JSON.
"""

import errno
import json
import os
import zlib
from pathlib import Path
from typing import NamedTuple

from phoenix_server.artifacts import replace_file
from phoenix_server.errors import CorpusError, StorageError

SEAL = "journal.seal"
_SLOT_BYTES = 4096
_SLOTS = 2


class Seal(NamedTuple):
    """What a journal must hold.

    Attributes:
        journal: Identifies the journal.
        epoch: Counts the histories of the corpus, from 1: a new one begins where acknowledged
            changes were given up.
        last: The number of the last acknowledged change, or of the state as built.
        chain: The checksum over that change and all before; empty if the journal has had none.
        clean: Whether the last writer has ended as it should.
    """

    journal: str
    epoch: int
    last: int
    chain: str
    clean: bool


class SealFile:
    """The seal of a journal that is open for writing. Not thread-safe.

    Attributes:
        seal: What was written last.
    """

    def __init__(self, path: Path, seal: Seal) -> None:
        """Open the file, or create it, and write a seal.

        Raises:
            CorpusError: It is damaged.
            StorageError: The disk refuses.
        """
        found = _read_newest(path)
        if found is None:
            replace_seal(path, seal)
        self._path = path
        self._count = 1 if found is None else found[1]
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as exc:
            raise StorageError(path, f"cannot be written: {exc.strerror}") from exc
        try:
            self.write(seal)
        except BaseException:
            self.close()
            raise

    def write(self, seal: Seal) -> None:
        """Write a seal and flush it to the disk.

        Raises:
            StorageError: The disk refuses, or the file is no longer in its directory.
        """
        count = self._count + 1
        try:
            if not os.path.samestat(os.fstat(self._file), os.stat(self._path)):
                raise FileNotFoundError(errno.ENOENT, "it was replaced")
            os.pwrite(self._file, _slot(count, seal), count % _SLOTS * _SLOT_BYTES)
            os.fdatasync(self._file)
        except OSError as exc:
            raise StorageError(self._path, f"cannot be written: {exc.strerror}") from exc
        self.seal, self._count = seal, count  # the other slot is the whole one until now

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def replace_seal(path: Path, seal: Seal) -> None:
    """Write a file that holds one seal, in place of any that is there, in one step.

    Raises:
        StorageError: The disk refuses.
    """
    try:
        replace_file(path, b" " * _SLOT_BYTES + _slot(1, seal))
    except OSError as exc:
        raise StorageError(path, f"cannot be written: {exc.strerror}") from exc


def read_seal(path: Path) -> Seal | None:
    """Return the newest seal in a file; None if there is no file.

    Raises:
        CorpusError: The file is damaged.
    """
    found = _read_newest(path)
    return None if found is None else found[0]


def _read_newest(path: Path) -> tuple[Seal, int] | None:
    """Return the newest seal, and how many were written before."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise CorpusError(path, f"cannot be read: {exc.strerror}") from exc
    starts = range(0, _SLOTS * _SLOT_BYTES, _SLOT_BYTES)
    found = [_parse(content[start : start + _SLOT_BYTES]) for start in starts]
    whole = [each for each in found if each is not None]
    if not whole:
        raise CorpusError(path, "is damaged")
    return max(whole, key=lambda each: each[1])


def _parse(slot: bytes) -> tuple[Seal, int] | None:
    """Return the seal in a slot and its count; None if it is not whole."""
    checksum, _, content = slot.rstrip().partition(b" ")
    if f"{zlib.crc32(content):08x}".encode() != checksum:
        return None
    try:
        count, *fields = json.loads(content)
        return Seal(*fields), int(count)
    except (ValueError, TypeError):  # not one of ours
        return None


def _slot(count: int, seal: Seal) -> bytes:
    content = json.dumps([count, *seal])
    return f"{zlib.crc32(content.encode()):08x} {content}\n".encode().ljust(_SLOT_BYTES)
