import errno
import os
from pathlib import Path

import pytest

from phoenix_server.corpus.disk.lock import lock, locked_directory, note_written, was_written
from phoenix_server.errors import CorpusError

_TAKEN = "another server writes its changes; --read-only serves it without"


def _refusal(path: Path) -> str:
    with pytest.raises(CorpusError) as caught:
        lock(path)
    assert caught.value.path == path
    return caught.value.reason


def test_a_directory_is_locked_once_until_it_is_released(tmp_path: Path) -> None:
    with locked_directory(tmp_path):
        assert _refusal(tmp_path) == _TAKEN
    with locked_directory(tmp_path):
        pass


def test_a_lock_whose_file_was_removed_or_replaced_is_held(tmp_path: Path) -> None:
    with locked_directory(tmp_path):
        (tmp_path / "lock").unlink()
        assert _refusal(tmp_path) == _TAKEN
        (tmp_path / "lock").unlink()
        (tmp_path / "lock").touch()
        assert _refusal(tmp_path) == _TAKEN


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_filesystem_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    reason = f"cannot be locked ({os.strerror(number)}); --read-only serves it without"
    assert _refusal(tmp_path) == reason


def test_it_is_noted_that_there_is_a_journal(tmp_path: Path) -> None:
    with locked_directory(tmp_path):
        assert not was_written(tmp_path)
        note_written(tmp_path)
    assert was_written(tmp_path)
