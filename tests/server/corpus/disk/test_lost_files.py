"""A file of a corpus that is removed, cut, damaged or replaced: refused by name, or nothing lost.

Each file of a directory in each state: a server has stopped, was killed, or is running. A corpus
that opens has every change that was acknowledged, under the same numbers.
"""

from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from phoenix_server.corpus.disk.snapshot import verify
from phoenix_server.corpus.disk.store import Store
from phoenix_server.errors import CorpusError, StorageError
from server.corpus.change_cases import id_array
from server.corpus.disk.lost_file_cases import (
    DIRECTORIES,
    FAULTS,
    FILES,
    LAST,
    Served,
    empty,
    halve,
    remove,
)


def _last_change(path: Path) -> int:
    """Open a corpus and read all of it; return the number of its last change."""
    with closing(Store(path)) as store:
        verify(store.built)
        verify(store.snapshot)
        start = store.snapshot.manifest.sequence
        return start + store.read_history(start).changes


CASES = [
    (file, fault)
    for file in FILES
    for fault in FAULTS
    if file not in DIRECTORIES or fault is remove
]
# The index of the WAL is mapped into memory: the process would end, and not acknowledge.
CASES_OF_A_RUNNING_SERVER = [
    (file, fault)
    for file, fault in CASES
    if not (file.endswith("-shm") and fault in (empty, halve))
]


def _check_nothing_is_lost(path: Path, file: str) -> None:
    """Check that a corpus is refused by the name of a file, or has all changes."""
    log = path / "journal.sqlite-wal"
    before = log.read_bytes() if log.exists() else None
    try:
        assert _last_change(path) == LAST
    except CorpusError as exc:
        stem = file.partition("-")[0].partition("/")[0].partition(".")[0]
        assert stem in str(exc).removeprefix(str(path))
        if stem == "journal" and before is not None:
            assert log.read_bytes() == before  # what can still be read of it stays


@pytest.mark.parametrize("state", [Served.stopped, Served.killed])
@pytest.mark.parametrize(("file", "fault"), CASES)
def test_a_file_that_is_lost_is_missed_at_the_next_start(
    tmp_path: Path, file: str, fault: Callable[[Path, Path], None], state: Callable[[Served], Path]
) -> None:
    served = Served(tmp_path)
    path = state(served)
    if state is Served.stopped and file.endswith(("-wal", "-shm")):
        assert not (path / file).exists()  # SQLite removes them when a journal is closed
        return
    fault(path / file, served.older / file)
    _check_nothing_is_lost(path, file)


@pytest.mark.parametrize(("file", "fault"), CASES_OF_A_RUNNING_SERVER)
def test_a_file_that_is_lost_while_a_server_runs_is_missed(
    tmp_path: Path, file: str, fault: Callable[[Path, Path], None]
) -> None:
    served = Served(tmp_path)
    fault(served.path / file, served.older / file)
    acknowledged = LAST
    try:
        served.store.append(LAST + 1, [id_array(7)])
        acknowledged += 1
    except StorageError as exc:
        assert str(exc).partition(":")[0] in (*Path(file).parts, "3")
    with suppress(CorpusError, StorageError):
        served.store.close()
    try:
        assert _last_change(served.path) >= acknowledged
    except CorpusError as exc:
        assert str(exc.path).startswith(str(served.path))


def test_a_whole_corpus_opens_in_each_state(tmp_path: Path) -> None:
    for name, state in (("a", Served.stopped), ("b", Served.killed)):
        (tmp_path / name).mkdir()
        assert _last_change(state(Served(tmp_path / name))) == LAST


def test_a_second_writer_does_not_start_though_the_lock_is_removed(tmp_path: Path) -> None:
    served = Served(tmp_path)
    (served.path / "lock").unlink()
    with pytest.raises(CorpusError, match="another server writes its changes"):
        Store(served.path)
    served.store.close()
