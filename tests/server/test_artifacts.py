import errno
import os
import stat
from pathlib import Path

import pytest

from phoenix_retrieval.v1.manifest_pb2 import File
from phoenix_server import artifacts
from phoenix_server.artifacts import (
    describe_error,
    describe_file,
    new_directory,
    sha256,
    verify_files,
    walk,
)
from phoenix_server.errors import CorpusError, StartupError


def test_a_described_file_verifies_until_it_changes(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    path = tmp_path / "below" / "file"
    path.write_bytes(b"abc")
    file = describe_file(tmp_path, path)
    assert file == File(
        path="below/file",
        size_bytes=3,
        sha256="ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    )
    verify_files(tmp_path, [file], CorpusError)
    path.write_bytes(b"abd")
    with pytest.raises(CorpusError, match=r"below/file: was changed"):
        verify_files(tmp_path, [file], CorpusError)


def test_a_file_that_cannot_be_read_is_an_error_of_its_kind(tmp_path: Path) -> None:
    name = "a" * 5000
    with pytest.raises(CorpusError, match=f"{name}: cannot be read: File name too long"):
        verify_files(tmp_path, [File(path=name, size_bytes=1)], CorpusError)


def test_a_file_that_vanishes_while_it_is_verified_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    file = describe_file(tmp_path, path)

    def vanish(path: Path) -> str:
        path.unlink()
        return sha256(path)

    monkeypatch.setattr(artifacts, "sha256", vanish)
    with pytest.raises(CorpusError) as caught:
        verify_files(tmp_path, [file], CorpusError)
    assert (caught.value.path, caught.value.reason) == (
        path,
        "cannot be read: No such file or directory",
    )


def test_others_may_read_a_directory_only_where_it_says_so(tmp_path: Path) -> None:
    for mode in (0o750, 0o755):
        with new_directory(tmp_path / str(mode), CorpusError, mode=mode):
            pass
        assert stat.S_IMODE((tmp_path / str(mode)).stat().st_mode) == mode
    with new_directory(tmp_path / "out", CorpusError):
        pass
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750


def test_a_directory_appears_when_it_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with new_directory(out, CorpusError) as staging:
        (staging / "below").mkdir()
        (staging / "below" / "file").write_text("text")
        assert not out.exists()
        assert staging.parent == tmp_path
    assert (out / "below" / "file").read_text() == "text"
    assert list(tmp_path.iterdir()) == [out]


def test_a_failed_write_names_the_directory(tmp_path: Path) -> None:
    def write() -> None:
        with new_directory(tmp_path / "out", CorpusError):
            raise OSError(28, "No space left on device")

    with pytest.raises(CorpusError, match=r"out: cannot be written: No space left on device"):
        write()
    assert not list(tmp_path.iterdir())


def test_a_directory_written_by_another_process_meanwhile_is_not_overwritten(
    tmp_path: Path,
) -> None:
    def write() -> None:
        with new_directory(tmp_path / "out", CorpusError):
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "file").write_text("theirs")

    with pytest.raises(CorpusError, match=r"out: cannot be written: "):
        write()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "file"]


@pytest.mark.parametrize(
    ("exc", "text"),
    [
        (StartupError("too few devices"), "too few devices"),
        (CorpusError(Path("corpus"), "is odd:\n  very\n\n"), "corpus: is odd: very "),
        (PermissionError(13, "Permission denied", "file"), "file: Permission denied"),
        (OSError("strange"), "OSError: strange"),
        (ValueError("two\nlines"), "ValueError: two lines"),
        (CorpusError(Path("a\x1b[8m"), "has \x9b\r\x07"), "a\\x1b[8m: has \\x9b \\x07"),
    ],
)
def test_an_error_is_described_in_one_line(exc: Exception, text: str) -> None:
    assert describe_error(exc) == text


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_filesystem_that_does_not_flush_directories_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with new_directory(tmp_path / "out", CorpusError) as staging:
        (staging / "file").write_text("text")
    assert (tmp_path / "out" / "file").read_text() == "text"


def test_a_file_that_cannot_be_flushed_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", fsync)
    with (
        pytest.raises(CorpusError, match="cannot be written: Invalid argument"),
        new_directory(tmp_path / "out", CorpusError) as staging,
    ):
        (staging / "file").write_text("text")
    assert not (tmp_path / "out").exists()


def test_a_walk_follows_links_and_enters_each_directory_once(tmp_path: Path) -> None:
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    (inside / "below").mkdir(parents=True)
    (inside / "below" / "up").symlink_to(inside)
    outside.mkdir()
    (outside / "file").touch()
    (outside / "nowhere").symlink_to(tmp_path / "none")
    (inside / "link").symlink_to(outside)
    found = [path.relative_to(inside).as_posix() for path in walk(inside)]
    assert sorted(found) == ["below", "below/up", "link", "link/file", "link/nowhere"]
    assert found.index("link") < found.index("link/file")
    (inside / "twin").symlink_to(outside)
    assert len(list(walk(inside))) == 6


def test_a_walk_tells_which_directories_it_cannot_list(tmp_path: Path) -> None:
    errors: list[OSError] = []
    assert not list(walk(tmp_path / "none"))
    assert not list(walk(tmp_path / "none", errors.append))
    assert [error.filename for error in errors] == [str(tmp_path / "none")]
