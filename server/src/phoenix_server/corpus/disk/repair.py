"""Find out what is whole of a corpus that is refused, and go on from there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from phoenix_server.artifacts import MANIFEST, flush, sha256
from phoenix_server.corpus.disk import snapshot as snapshots
from phoenix_server.corpus.disk.journal import JOURNAL, Journal
from phoenix_server.corpus.disk.lock import locked_directory, note_written
from phoenix_server.corpus.disk.seal import SEAL, Seal, SealFile, read_seal
from phoenix_server.corpus.disk.snapshot import (
    SNAPSHOTS,
    Snapshot,
    list_snapshot_names,
    open_snapshot,
)
from phoenix_server.errors import CorpusError

LOST = "lost"
"""The directory to which files are moved that are given up."""


class Findings(NamedTuple):
    """What is there of a corpus.

    Attributes:
        built: The corpus as built.
        snapshot: The newest snapshot that is whole, from which the next two go on.
        last: The number of the last change up to which nothing is missing.
        seal: What was acknowledged, as far as it is known.
        problems: What is damaged or missing, a line each.
    """

    built: Snapshot
    snapshot: Snapshot
    last: int
    seal: Seal | None
    problems: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether a server would take the corpus as it is."""
        return not self.problems


def examine(path: Path) -> Findings:
    """Read all files of a corpus that no server writes meanwhile.

    Raises:
        CorpusError: It is not a corpus, or the corpus as built is damaged: nothing goes on then.
    """
    built = open_snapshot(path)
    snapshots.verify(built)
    problems: list[str] = []
    seal: Seal | None = None
    try:
        seal = read_seal(path / SEAL)
    except CorpusError as exc:
        problems.append(str(exc))
    states = [(built, *_through(path, built.manifest.sequence))]
    for _, name in list_snapshot_names(path):
        try:
            found = open_snapshot(path / SNAPSHOTS / name)
            snapshots.verify(found)
        except CorpusError as exc:
            problems.append(str(exc))
            continue
        states.append((found, *_through(path, found.manifest.sequence)))
    snapshot, last, why = max(states, key=lambda state: (state[1], state[0].manifest.sequence))
    if why:
        problems.append(why)
    if seal is not None and last < seal.last:
        problems.append(
            f"the changes {last + 1} to {seal.last} were acknowledged, and are missing or damaged"
        )
    if seal is None and (path / JOURNAL).exists():
        problems.append(f"{path / SEAL}: missing: nothing says which changes were acknowledged")
    return Findings(built, snapshot, last, seal, tuple(problems))


def accept_loss(path: Path, after: int) -> Findings:
    """Go on from the state after a change, and give up what came later, under a new epoch.

    Files that are given up are moved to CORPUS/lost/EPOCH.

    Args:
        path: The corpus.
        after: The number of the last change to keep.

    Returns:
        What was found before.

    Raises:
        CorpusError: It is not a corpus, a server writes it, or it is not whole up to that change.
    """
    with locked_directory(path):
        found = examine(path)
        first = found.snapshot.manifest.sequence
        if not first <= after <= found.last:
            what = f"is whole up to change {found.last}, not to {after}"
            if after < first:
                what = f"has no state after change {after}: the newest snapshot is of {first}"
            raise CorpusError(path, what)
        epoch = 1 + (found.seal.epoch if found.seal is not None else 1)
        aside = path / LOST / str(epoch)
        aside.mkdir(parents=True)
        fresh = path / f".{JOURNAL}.{epoch}"
        identity = {"corpus": sha256(path / MANIFEST)}
        chain = ""
        with closing(Journal(fresh, identity)) as journal:
            chain = journal.copy_from(path / JOURNAL, identity, after=first, through=after)
            name = journal.id
        for file in (JOURNAL, f"{JOURNAL}-wal", f"{JOURNAL}-shm", SEAL):
            if (path / file).exists():
                shutil.move(path / file, aside / file)
        for _, snapshot in list_snapshot_names(path):
            folder = path / SNAPSHOTS / snapshot
            if folder != found.snapshot.path and not _is_usable(folder, after):
                shutil.move(folder, aside / snapshot)
        os.rename(fresh, path / JOURNAL)
        with closing(
            SealFile(path / SEAL, Seal(name, epoch, after, chain or f"epoch {epoch}", clean=True))
        ):
            note_written(path)
        for directory in (aside, path):
            flush(directory)
    return found


def describe(path: Path, found: Findings) -> Iterator[str]:
    """Yield what was found, line by line."""
    inside = found.snapshot.path.relative_to(path).as_posix()
    start = found.snapshot.manifest.sequence
    yield f"{path} is a corpus of {found.built.manifest.rows:,} posts as built"
    yield f"  snapshot      through change {start:,}, in {inside}"
    yield f"  journal       whole through change {found.last:,}"
    if found.seal is not None:
        closed = "closed" if found.seal.clean else "not closed"
        yield (
            f"  acknowledged  through change {found.seal.last:,}, epoch {found.seal.epoch}; the "
            f"last writer has {closed} it"
        )
    for problem in found.problems:
        yield f"  problem       {problem}"


def _through(path: Path, after: int) -> tuple[int, str]:
    """Return the last change up to which the journal is whole after some change, and why."""
    journal_path = path / JOURNAL
    if not journal_path.exists():
        return after, ""
    try:
        identity = {"corpus": sha256(path / MANIFEST)}
        with closing(Journal(journal_path, identity, read_only=True)) as journal:
            return journal.whole_through(after)
    except CorpusError as exc:
        return after, str(exc)


def _is_usable(folder: Path, after: int) -> bool:
    try:
        return open_snapshot(folder).manifest.sequence <= after
    except CorpusError:
        return False
