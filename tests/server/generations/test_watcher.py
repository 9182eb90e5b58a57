"""Which bundle of a watched directory is the newest."""

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from phoenix_server.artifacts import walk
from phoenix_server.errors import BundleError, BusyError, NoMemoryError, StartupError
from phoenix_server.generations import watcher
from phoenix_server.generations.watcher import first_bundle, newest, watch


def bundle(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "manifest.json").touch()
    return path


def test_numbers_count_and_not_their_spelling(tmp_path: Path) -> None:
    for name in ("9", "10", "2"):
        bundle(tmp_path / name)
    assert newest(tmp_path) == tmp_path / "10"


def test_a_number_with_zeros_before_it_is_found_where_it_is(tmp_path: Path) -> None:
    bundle(tmp_path / "2")
    assert newest(tmp_path) == tmp_path / "2"
    bundle(tmp_path / "00003")
    assert newest(tmp_path) == tmp_path / "00003"


def test_what_is_no_bundle_is_passed_over(tmp_path: Path) -> None:
    first = bundle(tmp_path / "1")
    bundle(tmp_path / "latest")
    bundle(tmp_path / "-5")
    bundle(tmp_path / "3.tmp")
    (tmp_path / "7").mkdir()  # it is being copied: its manifest comes last
    (tmp_path / "8").touch()
    assert newest(tmp_path) == first == first_bundle(tmp_path)


def test_one_that_cannot_be_looked_into_stops_only_itself(tmp_path: Path) -> None:
    class Locked(type(tmp_path)):
        def is_file(self) -> bool:
            if self.parent.name == "2":
                raise PermissionError(13, "Permission denied", str(self))
            return super().is_file()

    for name in "12":
        bundle(tmp_path / name)
    assert newest(Locked(tmp_path)) == tmp_path / "2"  # loading it says why it cannot be read
    bundle(tmp_path / "3")
    assert newest(Locked(tmp_path)) == tmp_path / "3"


def test_a_server_needs_one_to_begin_with(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="holds no bundle in a directory named by a number"):
        first_bundle(tmp_path)
    with pytest.raises(StartupError, match=r"--watch .*none: No such file or directory"):
        first_bundle(tmp_path / "none")


def test_where_there_is_no_memory_it_waits_longer_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle(tmp_path / "2")
    full = NoMemoryError("it does not fit")
    outcomes: list[Exception | None] = [*[full] * 7, BusyError("another"), full, None]
    pauses: list[float] = []

    async def load(*_: object, activate: bool) -> None:
        outcome = outcomes.pop(0)
        if outcome is not None:
            raise outcome

    async def sleep(pause_s: float) -> None:
        pauses.append(pause_s)
        if len(pauses) == 12:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    served = SimpleNamespace(bundle=tmp_path / "1")
    manager: Any = SimpleNamespace(active=served, load=load)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(watch(manager, tmp_path, 2.0))
    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60, 2, 4, 2, 2]
    assert not outcomes


def write(path: Path, text: str, at_s: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (at_s, at_s))


def watched(
    directory: Path,
    changes: Sequence[Callable[[], object]],
    monkeypatch: Any,
    *,
    loadable: bool = False,
) -> list[str]:
    """Watch while changes are made, one before each look; return the bundles that were tried.

    All of them can be loaded, or none.
    """
    tried: list[str] = []

    async def load(path: Path, *_: object, activate: bool) -> None:
        tried.append(path.name)
        if not loadable:
            raise BundleError(path, "is truncated")

    left = list(changes)

    async def sleep(_: float) -> None:
        if not left:
            raise asyncio.CancelledError
        left.pop(0)()

    monkeypatch.setattr(asyncio, "sleep", sleep)
    manager: Any = SimpleNamespace(active=SimpleNamespace(bundle=directory / "1"), load=load)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(watch(manager, directory, 2.0))
    return tried


def test_a_bundle_that_fails_is_tried_again_when_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, table = tmp_path / "2" / "manifest.json", tmp_path / "2" / "tables" / "post.bin"
    changes: list[Callable[[], None]] = [
        lambda: write(manifest, "{}", at_s=9),
        lambda: write(table, "ha", at_s=5),  # older than the manifest, as rsync keeps times
        lambda: None,
        lambda: write(table, "half", at_s=5),
        lambda: write(table, "full", at_s=6),
        lambda: write(tmp_path / "2" / "compiled" / "program", "", at_s=7),
        lambda: write(manifest, "{}", at_s=8),  # its time need not grow
        lambda: None,
    ]
    assert watched(tmp_path, changes, monkeypatch) == ["2"] * 5


def test_a_new_signature_is_a_reason_to_load_only_what_could_not_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "1" / "manifest.json", "{}", at_s=1)
    write(tmp_path / "1" / "manifest.sig", "a", at_s=1)
    changes: list[Callable[[], object]] = [
        lambda: write(tmp_path / "1" / "manifest.sig", "b", at_s=2),
        lambda: write(tmp_path / "2" / "manifest.json", "{}", at_s=3),
        lambda: write(tmp_path / "2" / "manifest.sig", "a", at_s=4),
        lambda: write(tmp_path / "2" / "manifest.json", "{ }", at_s=5),
        lambda: write(tmp_path / "2" / "manifest.sig", "b", at_s=6),
    ]
    assert watched(tmp_path, changes, monkeypatch, loadable=True) == ["2", "2"]
    (tmp_path / "2").rename(tmp_path / "old")
    write(tmp_path / "1" / "manifest.sig", "a", at_s=1)
    assert watched(tmp_path, changes, monkeypatch) == ["2"] * 4


def test_a_smaller_number_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[Callable[[], object]] = [
        lambda: write(tmp_path / "3" / "manifest.json", "{}", at_s=1),
        lambda: (tmp_path / "3").rename(tmp_path / "old"),
        lambda: write(tmp_path / "2" / "manifest.json", "{}", at_s=2),
        lambda: write(tmp_path / "4" / "manifest.json", "{}", at_s=3),
    ]
    (tmp_path / "1").mkdir()
    assert watched(tmp_path, changes, monkeypatch) == ["3", "4"]


def test_a_bundle_with_a_link_that_leads_nowhere_is_tried_until_the_file_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blob, link = tmp_path / "blob", tmp_path / "2" / "post.bin"
    bundle(tmp_path / "2")
    changes: list[Callable[[], object]] = [
        lambda: link.symlink_to(blob),
        lambda: None,
        lambda: write(blob, "half", at_s=5),
        lambda: write(blob, "full", at_s=6),
        lambda: (tmp_path / "2" / "circle").symlink_to(tmp_path / "2" / "circle"),
        lambda: None,
    ]
    with caplog.at_level("WARNING"):
        assert watched(tmp_path, changes, monkeypatch) == ["2"] * 4
    assert {record.getMessage().split(": ")[-1] for record in caplog.records} == {"is truncated"}


def test_a_bundle_is_tried_again_when_a_file_behind_a_link_to_a_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "tables" / "post.bin"
    write(table, "half", at_s=5)
    (bundle(tmp_path / "2") / "tables").symlink_to(table.parent)
    changes: list[Callable[[], object]] = [
        lambda: None,
        lambda: None,
        lambda: write(table, "full", at_s=6),
    ]
    assert watched(tmp_path, changes, monkeypatch) == ["2"] * 2


def test_a_link_to_a_large_directory_is_looked_through_up_to_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        write(tmp_path / "large" / str(number), "", at_s=5)
    (bundle(tmp_path / "2") / "link").symlink_to(tmp_path / "large")
    looked: list[Path] = []

    def count(directory: Path) -> Iterator[Path]:
        for path in walk(directory):
            looked.append(path)
            yield path

    monkeypatch.setattr(watcher, "walk", count)
    monkeypatch.setattr(watcher, "MAX_FILES", 10)
    assert watched(tmp_path, [lambda: None], monkeypatch) == ["2"]
    assert len(looked) == 10
