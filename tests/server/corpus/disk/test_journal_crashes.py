"""What a journal holds after a crash, or on a full disk: whole groups of changes."""

import os
import shutil
from pathlib import Path
from typing import Any

import apsw
import numpy as np
import pytest

from phoenix_server.corpus.changes import Change
from phoenix_server.errors import StorageError
from server.corpus.change_cases import id_array, posts_of
from server.corpus.disk.journal_cases import LARGE, SMALL, append, assert_holds, opened, read


def test_a_full_disk_fails_all_changes_of_a_group_and_none_of_the_next(
    path: Path, connections: list[apsw.Connection]
) -> None:
    with opened(path) as journal:
        journal.append(1, SMALL)
        pages: Any = connections[0].execute("PRAGMA page_count").get
        connections[0].execute(f"PRAGMA max_page_count = {pages + 2}")
        for _ in range(2):
            with pytest.raises(StorageError, match=r"^journal.sqlite: .* disk is full"):
                journal.append(4, [SMALL[0], LARGE, SMALL[1]])
            assert journal.last() == 3
        journal.append(4, [SMALL[0]])
        connections[0].execute("PRAGMA max_page_count = 1000000")
        journal.append(5, [LARGE, SMALL[1]])
    assert_holds(path, [*SMALL, SMALL[0], LARGE, SMALL[1]])


@pytest.mark.parametrize("read_only", [False, True])
def test_a_crash_loses_only_uncommitted_changes(
    path: Path, connections: list[apsw.Connection], read_only: bool
) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(path.parent, path.parent.parent / f"{path.parent.name} {name}"))

    copies: list[Path] = []

    def crash(cursor: apsw.Cursor, statement: str, bindings: object) -> bool:
        if statement == "COMMIT":
            copies.append(copy("crashed"))
        return True

    with opened(path) as journal:
        journal.append(1, SMALL)
        log = path.with_name(f"{path.name}-wal")
        committed = log.stat().st_size
        connections[0].set_exec_trace(crash)
        journal.append(4, [SMALL[0], LARGE])
        connections[0].set_exec_trace(None)
        whole = copy("whole")
    (crashed,) = copies
    # Most of the transaction was in the WAL already.
    assert (crashed / log.name).stat().st_size > committed + LARGE.vectors.nbytes / 2
    assert read(crashed / path.name, read_only=read_only).changes == 3
    assert read(whole / path.name, read_only=read_only).changes == 5
    append(crashed / path.name, [id_array(7)], first=4)
    assert_holds(crashed / path.name, [*SMALL, id_array(7)])
    assert_holds(whole / path.name, [*SMALL, SMALL[0], LARGE])


def test_a_crashed_journal_is_read_where_nothing_can_be_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(path) as journal:
        journal.append(1, SMALL)
        crashed = Path(shutil.copytree(path.parent, path.parent.with_name("crashed")))
    (crashed / f"{path.name}-shm").unlink()
    before = {file.name: file.read_bytes() for file in crashed.iterdir()}
    monkeypatch.setattr(os, "access", lambda *_: False)  # as on a filesystem mounted read-only
    history = read(crashed / path.name, read_only=True)
    assert history.changes == len(SMALL)
    assert {file.name: file.read_bytes() for file in crashed.iterdir()} == before


def test_a_truncated_wal_holds_complete_groups(
    path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    groups: list[list[Change]] = [SMALL, [posts_of(range(1, 900))], [id_array(1)] * 7, SMALL]
    ends = np.cumsum([0, *map(len, groups)]).tolist()
    with opened(path) as journal:
        for start, group in zip(ends, groups, strict=False):
            journal.append(start + 1, group)
        database, log = path.read_bytes(), path.with_name(f"{path.name}-wal").read_bytes()
    lasts: list[int] = []
    for size in np.linspace(0, len(log), 40, dtype=int):
        torn = tmp_path_factory.mktemp("torn") / path.name
        torn.write_bytes(database)
        torn.with_name(f"{path.name}-wal").write_bytes(log[:size])
        with opened(torn) as journal:
            lasts.append(journal.last() or 0)
            assert journal.read_history(0).changes == lasts[-1]
    assert lasts == sorted(lasts)
    assert sorted(set(lasts)) == ends
