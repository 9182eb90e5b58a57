"""Find out what is whole of a corpus that is refused, and go on from there.

A repair first copies what it gives up to CORPUS/lost/EPOCH, and prepares a journal. Then it writes
CORPUS/repair.json, which says what is left to do: a repair that is interrupted after that is
finished by the next one, and servers refuse the corpus until then.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from phoenix_server.artifacts import MANIFEST, flush, replace_file, sha256
from phoenix_server.corpus.disk import snapshot as snapshots
from phoenix_server.corpus.disk.acknowledged import REPAIR, REPAIR_PLAN
from phoenix_server.corpus.disk.journal import JOURNAL, Journal
from phoenix_server.corpus.disk.journal_files import (
    database_files,
    remove_database,
    replace_database,
)
from phoenix_server.corpus.disk.lock import locked_directory, note_written
from phoenix_server.corpus.disk.seal import SEAL, Seal, read_seal, replace_seal
from phoenix_server.corpus.disk.snapshot import (
    SNAPSHOTS,
    Snapshot,
    list_snapshot_names,
    open_snapshot,
)
from phoenix_server.corpus.disk.store import Store
from phoenix_server.errors import CorpusError

LOST = "lost"
"""The directory that keeps what is given up."""
_PREPARED = ".journal.sqlite.repaired"


class Findings(NamedTuple):
    """What is there of a corpus.

    Attributes:
        built: The corpus as built.
        snapshots: The snapshots that are whole, oldest first; the corpus as built is one of them.
        snapshot: The one of them from which most changes can be had.
        last: The number of the last change up to which nothing is missing.
        seal: What was acknowledged, as far as it is known.
        problems: What is damaged or missing, a line each.
    """

    built: Snapshot
    snapshots: tuple[Snapshot, ...]
    snapshot: Snapshot
    last: int
    seal: Seal | None
    problems: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether all files are whole, and a server takes the corpus as it is."""
        return not self.problems


class _Plan(NamedTuple):
    """What is left of a repair.

    Attributes:
        kept: The names of the snapshots that stay.
        seal: The fields of the new seal.
    """

    kept: list[str]
    seal: list[str | int | bool]


def examine(path: Path) -> Findings:
    """Read all files of a corpus that no server writes meanwhile.

    Raises:
        CorpusError: It is not a corpus, or the corpus as built is damaged: nothing goes on then.
    """
    built = open_snapshot(path)
    snapshots.verify(built)
    identity = sha256(path / MANIFEST)
    problems: list[str] = []
    seal: Seal | None = None
    try:
        seal = read_seal(path / SEAL)
    except CorpusError as exc:
        problems.append(str(exc))
    whole = [built]
    for _, name in list_snapshot_names(path):
        try:
            found = open_snapshot(path / SNAPSHOTS / name)
            snapshots.verify(found)
        except CorpusError as exc:
            problems.append(str(exc))
            continue
        if found.manifest.built_as == identity:
            whole.append(found)
        else:
            problems.append(f"{found.path}: is not a later state of {path}")
    states = [(each, *_through(path, identity, each.manifest.sequence)) for each in whole]
    snapshot, last, why = max(states, key=lambda state: (state[1], state[0].manifest.sequence))
    if why:
        problems.append(why)
    if seal is not None and last < seal.last:
        problems.append(
            f"the changes {last + 1} to {seal.last} were acknowledged, and are missing or damaged"
        )
    if not problems and (refusal := _refusal(path, seal)):
        problems.append(refusal)
    return Findings(built, tuple(whole), snapshot, last, seal, tuple(problems))


def accept_loss(path: Path, after: int) -> Findings:
    """Go on from the state after a change, and give up what came later, under a new epoch.

    What is given up is kept in CORPUS/lost/EPOCH. A repair that was interrupted is finished first.

    Args:
        path: The corpus.
        after: The number of the last change to keep.

    Returns:
        What was found before; what is there now, if a repair to the same change was interrupted.

    Raises:
        CorpusError: It is not a corpus, a server writes it, or it is not whole up to that change.
        StorageError: Writing fails.
    """
    with locked_directory(path):
        finished = _finish(path)
        found = examine(path)
        if finished == after and found.is_whole:
            return found
        first = found.snapshot.manifest.sequence
        if not first <= after <= found.last:
            what = f"is whole up to change {found.last}, not to {after}"
            if after < first:
                what = f"has no state after change {after}: the newest snapshot is of {first}"
            raise CorpusError(path, what)
        plan = _prepare(path, found, after)
        replace_file(path / REPAIR_PLAN, json.dumps(plan).encode())
        _finish(path)
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


def _prepare(path: Path, found: Findings, after: int) -> _Plan:
    """Copy what is given up, and write the journal that takes its place."""
    lost = path / LOST
    epochs = [int(entry.name) for entry in lost.glob("*") if entry.name.isdecimal()]
    epoch = 1 + max([found.seal.epoch if found.seal is not None else 1, *epochs])
    aside = lost / str(epoch)
    aside.mkdir(parents=True)
    for file in (*database_files(path / JOURNAL), path / SEAL):
        if file.exists():
            shutil.copy2(file, aside)
            flush(aside / file.name)
    for directory in (aside, lost, path):
        flush(directory)
    remove_database(path / _PREPARED)
    identity = {"corpus": sha256(path / MANIFEST)}
    first = found.snapshot.manifest.sequence
    with closing(Journal(path / _PREPARED, identity)) as journal:
        chain = journal.copy_from(path / JOURNAL, identity, after=first, through=after)
        seal = Seal(journal.id, epoch, after, chain or f"epoch {epoch}", clean=True)
    kept = [each.path.name for each in found.snapshots if each.manifest.sequence <= after]
    return _Plan(kept, list(seal))


def _finish(path: Path) -> int | None:
    """Do what a plan says, if there is one; return the number of the last change that is kept."""
    try:
        plan = _Plan(*json.loads((path / REPAIR_PLAN).read_text(encoding="utf-8")))
        seal = Seal(*plan.seal)  # type: ignore[arg-type]
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as exc:
        raise CorpusError(path / REPAIR_PLAN, "is damaged") from exc
    aside = path / LOST / str(seal.epoch)
    for _, name in list_snapshot_names(path):
        if name not in plan.kept:
            (path / SNAPSHOTS / name).rename(aside / name)
            flush(path / SNAPSHOTS)
            flush(aside)
    if (path / _PREPARED).exists():
        replace_database(path / JOURNAL, path / _PREPARED)
    replace_seal(path / SEAL, seal)
    note_written(path)
    (path / REPAIR_PLAN).unlink()
    flush(path)
    return seal.last


def _through(path: Path, identity: str, after: int) -> tuple[int, str]:
    """Return the last change up to which the journal is whole after some change, and why."""
    journal = path / JOURNAL
    if not journal.exists() or not journal.stat().st_size:
        return after, ""
    try:
        with closing(Journal(journal, {"corpus": identity}, read_only=True)) as opened:
            return opened.whole_through(after)
    except CorpusError as exc:
        return after, str(exc)


def _refusal(path: Path, seal: Seal | None) -> str:
    """Return why a server refuses the corpus; empty if it takes it."""
    try:
        with closing(Store(path, read_only=True)) as store:
            store.check(seal)
    except CorpusError as exc:
        return str(exc).removesuffix(f"; {REPAIR}")
    return ""
