import errno
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from phoenix_server.artifacts import sha256
from phoenix_server.corpus.disk import seal as seal_module
from phoenix_server.corpus.disk.compaction import write_snapshot
from phoenix_server.corpus.disk.journal import JOURNAL
from phoenix_server.corpus.disk.seal import SEAL, Seal
from phoenix_server.corpus.disk.snapshot import SNAPSHOTS, SnapshotName
from phoenix_server.corpus.disk.store import MAX_ATTEMPTS, Store, read_with_retries
from phoenix_server.errors import CorpusError, StorageError
from server.cases import copied, edit_manifest
from server.corpus.change_cases import (
    OwnTowers,
    assert_same_change,
    id_array,
    posts_of,
    written_corpus,
)
from server.corpus.disk.interruptions import interrupted_at_each_step


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    written_corpus(tmp_path / "corpus", 5)
    return tmp_path / "corpus"


@contextmanager
def _opened(path: Path, *, read_only: bool = False) -> Generator[Store, None, None]:
    with closing(Store(path, read_only=read_only)) as store:
        yield store


def _refused(action: Callable[[], object]) -> CorpusError:
    with pytest.raises(CorpusError) as caught:
        action()
    return caught.value


def _changes(store: Store) -> range:
    """Return the numbers of the changes since the snapshot."""
    last = store.snapshot.manifest.sequence
    return range(last + 1, last + 1 + store.read_history(last).changes)


def _snapshot(corpus: Path, sequence: int, built_as: str | None = None) -> Path:
    """Write a newer snapshot: a copy of the corpus as built."""
    path = corpus / SNAPSHOTS / str(sequence)
    path.mkdir(parents=True)
    for name in ("manifest.json", "posts.arrow"):
        (path / name).write_bytes((corpus / name).read_bytes())
    built_as = built_as or sha256(corpus / "manifest.json")
    changes = {"sequence": str(sequence), "built_as": built_as}
    edit_manifest(path, lambda manifest: manifest.update(changes))
    return path


def test_a_corpus_as_built_has_no_changes(corpus: Path) -> None:
    with _opened(corpus) as store:
        assert store.snapshot.path == corpus
        assert _changes(store) == range(1, 1)
        assert store.journal_posts() == 0


def test_a_store_opens_the_newest_snapshot_and_the_changes_since(corpus: Path) -> None:
    changes = [posts_of([5 + n]) for n in range(11)]
    with _opened(corpus) as store:
        store.append(1, changes)
        assert _changes(store) == range(1, 12)
    for sequence in (2, 10, 9):  # of which "9" is the last by name
        _snapshot(corpus, sequence)
    (corpus / SNAPSHOTS / ".11.half").mkdir()
    (corpus / SNAPSHOTS / "notes").mkdir()
    for read_only in (False, True):
        with _opened(corpus, read_only=read_only) as store:
            assert store.snapshot.path == corpus / SNAPSHOTS / "10"
            assert _changes(store) == range(11, 12)
            (change,) = store.read_history(10).writes
            assert_same_change(change, changes[10])
    with _opened(corpus) as store:
        assert store.journal_posts() == 1


def test_a_trimmed_journal_continues_after_the_snapshot(corpus: Path) -> None:
    _snapshot(corpus, 7)
    with _opened(corpus) as store:
        store.append(8, [id_array(3)])
        store.journal.trim(7)
    with _opened(corpus) as store:
        assert _changes(store) == range(8, 9)


def test_changes_missing_from_snapshot_and_journal_are_reported(corpus: Path) -> None:
    with _opened(corpus) as store:
        store.append(3, [id_array(3)])
        error = _refused(lambda: _changes(store))
    assert (error.path, error.reason) == (corpus / JOURNAL, "lacks the changes 1 to 2")


def test_an_incomplete_newest_snapshot_is_refused(corpus: Path) -> None:
    _snapshot(corpus, 3)
    path = _snapshot(corpus, 12)
    (path / "manifest.json").unlink()
    assert _refused(lambda: Store(corpus)).path == path / "manifest.json"
    path = _snapshot(corpus, 13, built_as="another")
    error = _refused(lambda: Store(corpus))
    assert (error.path, error.reason) == (path, f"is not a later state of {corpus}")
    _snapshot(corpus, 14)
    with _opened(corpus):  # the failed attempts released the lock
        pass


def test_journal_and_snapshots_belong_to_the_corpus_as_built(corpus: Path) -> None:
    with _opened(corpus) as store:
        built = store.identity
        store.append(1, [id_array(3)])
    path = _snapshot(corpus, 1)
    with _opened(corpus) as store:
        assert store.identity == built
    edit_manifest(corpus, lambda manifest: manifest.update(created_at="2020-01-01T00:00:00Z"))
    error = _refused(lambda: Store(corpus))
    assert error.path == corpus / JOURNAL
    assert error.reason.startswith(f"belongs to another corpus: its corpus is {built}, not ")
    for name in (JOURNAL, SEAL, "lock"):
        (corpus / name).unlink()
    assert _refused(lambda: Store(corpus)).path == path


def test_one_process_writes_and_others_only_read(corpus: Path) -> None:
    with _opened(corpus) as store:
        error = _refused(lambda: Store(corpus))
        assert error.path == corpus
        assert error.reason == ("another server writes its changes; --read-only serves it without")
        store.append(1, [id_array(3)])
        with _opened(corpus, read_only=True) as reader, _opened(corpus, read_only=True) as other:
            assert _changes(reader) == _changes(other) == range(1, 2)
    with _opened(corpus, read_only=True), _opened(corpus) as store:
        store.append(2, [id_array(4)])


def test_a_read_only_store_creates_nothing(corpus: Path) -> None:
    before = sorted(corpus.iterdir())
    with _opened(corpus, read_only=True) as store:
        assert store.read_only
        assert _changes(store) == range(1, 1)
    assert sorted(corpus.iterdir()) == before


def test_an_unwritable_directory_can_be_opened_read_only(corpus: Path) -> None:
    (corpus / "lock").mkdir()  # for example
    error = _refused(lambda: Store(corpus))
    assert error.path == corpus
    assert error.reason == (
        "changes cannot be written (Is a directory); --read-only serves it without"
    )
    assert not (corpus / JOURNAL).exists()
    with _opened(corpus, read_only=True) as store:
        assert store.snapshot.path == corpus


def test_a_damaged_journal_releases_the_lock(corpus: Path) -> None:
    with _opened(corpus) as store:
        store.append(1, [id_array(3)])
    whole = (corpus / JOURNAL).read_bytes()
    (corpus / JOURNAL).write_bytes(b"no database")
    assert _refused(lambda: Store(corpus)).path == corpus / JOURNAL
    assert _refused(lambda: Store(corpus, read_only=True)).path == corpus / JOURNAL
    (corpus / JOURNAL).write_bytes(whole)
    with _opened(corpus) as store:
        assert _changes(store) == range(1, 2)


def test_a_directory_that_is_not_a_corpus_is_refused_unchanged(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    error = _refused(lambda: Store(tmp_path / "empty"))
    assert error.path == tmp_path / "empty" / "manifest.json"
    assert not list((tmp_path / "empty").iterdir())


def test_a_moved_corpus_keeps_its_changes(corpus: Path) -> None:
    with _opened(corpus) as store:
        store.append(1, [posts_of([9])])
    with _opened(copied(corpus, corpus.with_name("copy"))) as store:
        (change,) = store.read_history(0).writes
        assert_same_change(change, posts_of([9]))


@pytest.mark.parametrize("kept", [0, 1])
def test_a_reader_detects_that_changes_were_removed(corpus: Path, kept: int) -> None:
    with _opened(corpus) as server:
        server.append(1, [id_array(3), id_array(4)])
        with _opened(corpus, read_only=True) as reader:
            assert not reader.is_overtaken
            _snapshot(corpus, 2)
            server.journal.trim(2 - kept)
            assert reader.is_overtaken
            missing = "lacks the changes 1 to 2" if not kept else "lacks the changes 1 to 1"
            assert _refused(lambda: _changes(reader)).reason == missing
        assert not server.is_overtaken
        with _opened(corpus, read_only=True) as reader:
            assert _changes(reader) == range(3, 3)


def test_reading_is_retried_when_a_server_writes_snapshots(corpus: Path) -> None:
    opened: list[Path] = []
    with _opened(corpus) as server:
        server.append(1, [id_array(n) for n in range(1, 10)])

        def read(store: Store) -> range:
            opened.append(store.snapshot.path)
            if len(opened) < MAX_ATTEMPTS:
                _snapshot(corpus, 2 * len(opened))
                server.journal.trim(2 * len(opened))
            return _changes(store)

        assert read_with_retries(corpus, read) == range(9, 10)
    assert [path.name for path in opened] == ["corpus", "2", "4", "6", "8"]


def test_reading_ends_after_the_maximum_number_of_attempts(corpus: Path) -> None:
    opened = 0
    with _opened(corpus) as server:
        server.append(1, [id_array(n) for n in range(1, 40)])

        def read(store: Store) -> range:
            nonlocal opened
            opened += 1
            _snapshot(corpus, 2 * opened)
            server.journal.trim(2 * opened)
            return _changes(store)

        error = _refused(lambda: read_with_retries(corpus, read))
    assert error.reason.startswith("lacks the changes")
    assert opened == MAX_ATTEMPTS


def test_a_snapshot_removed_while_opening_is_replaced_by_a_newer_one(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _snapshot(corpus, 2)
    listed, lists = Store.named_snapshots, 0

    def named_snapshots(store: Store) -> list[SnapshotName]:
        nonlocal lists
        lists += 1
        found = listed(store)
        if lists == 1:  # a server removes it after it is listed
            shutil.rmtree(_snapshot(corpus, 5).parent / "2")
        return found

    monkeypatch.setattr(Store, "named_snapshots", named_snapshots)
    with _opened(corpus, read_only=True) as store:
        assert store.snapshot.manifest.sequence == 5


def test_a_damaged_journal_is_not_read_again(corpus: Path) -> None:
    with _opened(corpus) as server:
        server.append(3, [id_array(3)])
    opened: list[Store] = []

    def read(store: Store) -> range:
        opened.append(store)
        return _changes(store)

    assert _refused(lambda: read_with_retries(corpus, read)).reason == "lacks the changes 1 to 2"
    assert len(opened) == 1


def test_a_first_start_that_is_interrupted_can_be_repeated(corpus: Path) -> None:
    for step, path in interrupted_at_each_step(corpus, Store):
        with _opened(path, read_only=True) as reader:
            assert _changes(reader) == range(1, 1), step
        with _opened(path) as store:
            store.append(1, [id_array(3)])
        with _opened(path) as store:
            assert _changes(store) == range(1, 2), step


def test_a_reader_waits_for_no_first_start(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0

    def read_seal(path: Path) -> Seal | None:
        nonlocal reads
        seal, reads = seal_module.read_seal(path), reads + 1
        if reads == 1:  # now another server starts
            with _opened(corpus) as store:
                store.append(1, [id_array(3)])
        return seal

    monkeypatch.setattr("phoenix_server.corpus.disk.acknowledged.read_seal", read_seal)
    with _opened(corpus, read_only=True) as reader:
        assert _changes(reader) == range(1, 2)


def test_after_a_change_that_may_be_kept_all_are_refused(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    why = r"^journal\.seal: cannot be written: Input/output error; a change may be kept .* restart"
    with _opened(corpus) as store:
        store.append(1, [id_array(3)])
        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", refuse)
            with pytest.raises(StorageError, match=why):
                store.append(2, [id_array(4)])
        for _ in range(2):
            with pytest.raises(StorageError, match=why):
                store.append(2, [id_array(5)])
        with pytest.raises(StorageError, match=why):
            write_snapshot(store, OwnTowers())
    with _opened(corpus) as store:
        assert _changes(store) == range(1, 3)
        store.append(3, [id_array(5)])
