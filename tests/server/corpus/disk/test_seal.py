import errno
import json
import os
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from phoenix_server.corpus.disk.seal import Seal, SealFile, read_seal, replace_seal
from phoenix_server.errors import CorpusError, StorageError

FIRST = Seal("a", 1, 4, "chain", clean=False)


def test_the_newest_seal_is_read(tmp_path: Path) -> None:
    path = tmp_path / "seal"
    assert read_seal(path) is None
    with closing(SealFile(path, FIRST)) as file:
        for last in range(5, 9):
            file.write(FIRST._replace(last=last))
            assert read_seal(path) == FIRST._replace(last=last)
    replace_seal(path, FIRST)
    assert read_seal(path) == FIRST


def test_a_seal_that_cannot_be_written_leaves_the_last_one_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_half(file: int, content: bytes, offset: int) -> int:
        pwrite(file, b"torn", offset)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path, pwrite = tmp_path / "seal", os.pwrite
    with closing(SealFile(path, FIRST)) as file:
        file.write(FIRST._replace(last=5))
        monkeypatch.setattr(os, "pwrite", write_half)
        for _ in range(3):
            with pytest.raises(StorageError, match="cannot be written: Input/output error"):
                file.write(FIRST._replace(last=6))
            assert read_seal(path) == FIRST._replace(last=5)


def test_no_file_is_left_by_a_disk_without_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "seal"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(StorageError, match="No space left"):
            SealFile(path, FIRST)
    assert read_seal(path) is None
    SealFile(path, FIRST).close()


@pytest.mark.parametrize("content", [b"", b"\0", None, 7, [], [1], ["x", *FIRST], [[], *FIRST]])
def test_a_file_without_a_whole_seal_is_damaged(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "seal"
    if not isinstance(content, bytes):
        text = json.dumps(content).encode()
        content = f"{zlib.crc32(text):08x} ".encode() + text
    path.write_bytes(content)
    with pytest.raises(CorpusError, match="is damaged"):
        read_seal(path)
