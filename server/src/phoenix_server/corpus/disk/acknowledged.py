"""Check that a corpus still has all that was acknowledged, before anything is written to it."""

from collections.abc import Callable
from pathlib import Path

from phoenix_server.corpus.disk.journal import JOURNAL, Journal
from phoenix_server.corpus.disk.lock import was_written
from phoenix_server.corpus.disk.seal import SEAL, Seal, read_seal
from phoenix_server.corpus.disk.snapshot import SNAPSHOTS
from phoenix_server.errors import CorpusError

REPAIR_PLAN = "repair.json"
"""The file that says what is left of a repair."""
REPAIR = "restore it, or see `phoenix-server repair`"


def check_files(path: Path, has_changes: Callable[[], bool]) -> Seal | None:
    """Check that journal and seal of a corpus are there if there ever were any.

    Args:
        path: The corpus.
        has_changes: Returns whether the journal, which is there, holds any.

    Returns:
        The seal; None before the first server.

    Raises:
        CorpusError: One is missing, or damaged, or a repair was interrupted.
    """
    try:
        return _check_files(path, has_changes)
    except CorpusError:  # perhaps the first server was writing them meanwhile
        return _check_files(path, has_changes)


def _check_files(path: Path, has_changes: Callable[[], bool]) -> Seal | None:
    if (path / REPAIR_PLAN).exists():
        raise CorpusError(path, "its repair was interrupted; repeat it")
    journal = path / JOURNAL
    seal = read_seal(path / SEAL)
    has_journal = journal.exists() and journal.stat().st_size > 0
    if seal is None and has_journal:
        if not has_changes() and not was_written(path):
            return None  # a first start was killed
        what = f"missing, so that changes may be missing in {JOURNAL}, too; {REPAIR}"
        raise CorpusError(path / SEAL, what)
    if has_journal or (seal is not None and not seal.chain):
        return seal
    if seal is not None:
        what = f"missing or empty; the changes to number {seal.last} were acknowledged; {REPAIR}"
        raise CorpusError(journal, what)
    if was_written(path):
        what = f"missing, and so is {SEAL}; changes of this corpus were acknowledged; {REPAIR}"
        raise CorpusError(journal, what)
    return None


def check_journal(path: Path, journal: Journal, seal: Seal, start: int) -> None:
    """Check the journal of a corpus against its seal.

    Args:
        path: The corpus.
        journal: Its journal.
        seal: Its seal.
        start: The number of the last change in the snapshot that the changes follow.

    Raises:
        CorpusError: Changes that were acknowledged are missing, or others.
    """
    if (first := journal.first()) is not None and first > start + 1:
        what = f"holds no snapshot through change {first - 1}, after which {JOURNAL} begins"
        raise CorpusError(path / SNAPSHOTS, f"{what}; {REPAIR}")
    if seal.chain and journal.id != seal.journal:
        raise CorpusError(path / JOURNAL, f"is not the journal of {SEAL}; {REPAIR}")
    check_sealed(path, seal, max(journal.last() or 0, start))
    if seal.chain and journal.chain(seal.last) not in (None, seal.chain):
        what = f"has another change {seal.last} than was acknowledged; {REPAIR}"
        raise CorpusError(path / JOURNAL, what)


def check_sealed(path: Path, seal: Seal, last: int) -> None:
    """Check that the changes up to number `last`, which a corpus has, are all that are sealed.

    Raises:
        CorpusError: Some are missing.
    """
    if last < seal.last:
        what = (
            f"lacks the changes {last + 1} to {seal.last}, which were acknowledged, and no "
            f"snapshot in {SNAPSHOTS}/ holds them; {REPAIR}"
        )
        raise CorpusError(path / JOURNAL, what)
