"""When the program starts again with huge pages, and with which environment."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import pytest

from phoenix_server.runtime import huge_pages
from phoenix_server.runtime.huge_pages import restart_with_huge_pages

_ON = "glibc.malloc.hugetlb=1"


class _Started(Exception):
    """A program was started in place of this one."""


def _start(program: str, arguments: list[str]) -> None:
    assert program == arguments[0] == sys.executable
    assert arguments[1:] == ["-m", "phoenix_server", "serve", "--corpus", "a b"]
    raise _Started


@pytest.fixture(autouse=True)
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the kernel's setting: huge pages on request."""
    path = tmp_path / "enabled"
    path.write_text("always [madvise] never\n")
    monkeypatch.setattr(huge_pages, "_KERNEL", path)
    monkeypatch.setattr(os, "execv", _start)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.35"))
    arguments = ["-m", "phoenix_server", "serve", "--corpus", "a b"]
    monkeypatch.setattr(sys, "orig_argv", ["python", *arguments])
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    return path


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, _ON),
        ("", _ON),
        ("glibc.malloc.arena_max=1", f"glibc.malloc.arena_max=1:{_ON}"),
    ],
)
def test_where_they_are_given_on_request_the_program_starts_again(
    monkeypatch: pytest.MonkeyPatch, given: str | None, expected: str
) -> None:
    if given is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", given)
    with pytest.raises(_Started):
        restart_with_huge_pages()
    assert os.environ["GLIBC_TUNABLES"] == expected
    restart_with_huge_pages()  # in the program that was started


@pytest.mark.parametrize("given", ["glibc.malloc.hugetlb=0", f"{_ON}:glibc.rtld.nns=2"])
def test_an_environment_that_says_something_about_them_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", given)
    restart_with_huge_pages()
    assert os.environ["GLIBC_TUNABLES"] == given


@pytest.mark.parametrize("setting", ["[always] madvise never", "always madvise [never]", None])
def test_where_all_or_none_get_them_nothing_happens(kernel: Path, setting: str | None) -> None:
    if setting is None:
        kernel.unlink()
    else:
        kernel.write_text(f"{setting}\n")
    restart_with_huge_pages()
    assert "GLIBC_TUNABLES" not in os.environ


@pytest.mark.parametrize("library", [("glibc", "2.34"), ("", ""), ("libc", "6")])
def test_other_c_libraries_cannot_ask(
    monkeypatch: pytest.MonkeyPatch, library: tuple[str, str]
) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: library)
    restart_with_huge_pages()
    assert "GLIBC_TUNABLES" not in os.environ


def test_without_the_interpreter_the_program_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(program: str, arguments: list[str]) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "execv", refuse)
    restart_with_huge_pages()
    (record,) = caplog.records
    assert record.getMessage() == (
        f"there are no huge pages: {sys.executable}: No such file or directory"
    )
