"""What is kept of a corpus while it is built, so that an interrupted build goes on where it was.

    OUT.partial/work.json         what is being built, of what; written when all posts were checked
    OUT.partial/dropped.npy       the posts that are left out, as `check_posts` returns them
    OUT.partial/encoder.txt       what encodes: vectors of two kinds of devices do not mix
    OUT.partial/parts/NUMBER/     posts NUMBER * part_rows and on, a corpus in itself
    OUT.partial/corpus/           all parts put together, before it becomes OUT
    OUT.partial/lock              held by the one who builds

A part appears under its name when it is whole, and carries its checksum.
"""

import json
import logging
import os
import shutil
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from phoenix_server.artifacts import flush, sha256
from phoenix_server.build.dataset import Dataset
from phoenix_server.corpus.disk.snapshot import Snapshot, open_snapshot, verify
from phoenix_server.errors import CorpusError

_log = logging.getLogger(__name__)

_FORMAT_VERSION = 1
_WORK, _DROPPED, _ENCODER, _PARTS = "work.json", "dropped.npy", "encoder.txt", "parts"
_NAMED = 3  # differences that an error lists


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be built.

    Attributes:
        tower_fingerprint: Of the towers that encode.
        files: Each file's path, size in bytes, time of writing and SHA-256 of its footer.
        rows: How many posts the files hold.
        drop_duplicates: Whether posts that repeat an earlier one are left out.
        part_rows: How many posts of the files make a part.
        batch_rows: How many of them are encoded at once.
        format_version: Of the directory.
    """

    tower_fingerprint: str
    files: dict[str, list[Any]]
    rows: int
    drop_duplicates: bool
    part_rows: int
    batch_rows: int
    format_version: int = _FORMAT_VERSION

    def differences(self, other: "Work") -> list[str]:
        """Return what another work does otherwise, in words; nothing if it is the same."""
        ours, theirs = asdict(self), asdict(other)
        files, other_files = ours.pop("files"), theirs.pop("files")
        ours.pop("rows")  # the files tell
        found = [
            f"{name} was {value}, is {theirs[name]}"
            for name, value in ours.items()
            if theirs[name] != value
        ]
        found += [f"{path} was not there" for path in other_files if path not in files]
        found += [f"{path} is not given any more" for path in files if path not in other_files]
        found += [
            f"{path} was changed"
            for path, what in files.items()
            if path in other_files and other_files[path] != what
        ]
        if not found and list(files) != list(other_files):
            found.append("the files come in another order")
        return found


def describe_work(
    dataset: Dataset,
    tower_fingerprint: str,
    *,
    drop_duplicates: bool,
    part_rows: int,
    batch_rows: int,
) -> Work:
    """Return what is to be built of a dataset."""
    return Work(
        tower_fingerprint=tower_fingerprint,
        files={
            f"{file.filesystem.type_name}:{file.path}": [
                file.size_bytes,
                file.modified_ns,
                file.footer_sha256,
            ]
            for file in dataset.files
        },
        rows=dataset.rows,
        drop_duplicates=drop_duplicates,
        part_rows=part_rows,
        batch_rows=batch_rows,
    )


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of one build.

    Attributes:
        path: The directory beside the corpus.
        work: What is built.
        dropped: [R] i64, the posts that are left out, ascending.
    """

    path: Path
    work: Work
    dropped: npt.NDArray[np.int64]

    @cached_property
    def count(self) -> int:
        """How many parts there are to be."""
        return -(-self.work.rows // self.work.part_rows)

    @property
    def posts(self) -> int:
        """How many posts the corpus will hold."""
        return self.work.rows - len(self.dropped)

    def rows(self, part: int) -> range:
        """Return the posts of a part, those left out among them."""
        start = part * self.work.part_rows
        return range(start, min(start + self.work.part_rows, self.work.rows))

    def kept(self, rows: range) -> npt.NDArray[np.bool_]:
        """Return which of some posts are not left out."""
        keep = np.ones(len(rows), np.bool_)
        first, last = np.searchsorted(self.dropped, [rows.start, rows.stop])
        keep[self.dropped[first:last] - rows.start] = False
        return keep

    def part_posts(self, part: int) -> int:
        """Return how many posts of a part the corpus will hold."""
        rows = self.rows(part)
        first, last = np.searchsorted(self.dropped, [rows.start, rows.stop])
        return len(rows) - int(last - first)

    def part_path(self, part: int) -> Path:
        """Return where a part is, or will be."""
        return self.path / _PARTS / f"{part:08}"

    def open_part(self, part: int) -> Snapshot:
        """Open a part that should be there, and check its contents.

        Raises:
            CorpusError: It is not there, damaged, or another build's.
        """
        snapshot = open_snapshot(self.part_path(part))
        verify(snapshot)
        rows, fingerprint = snapshot.manifest.rows, snapshot.manifest.tower_fingerprint
        if (rows, fingerprint) != (self.part_posts(part), self.work.tower_fingerprint):
            raise CorpusError(snapshot.path, "is a part of another corpus")
        return snapshot

    def find(self) -> list[int]:
        """Return the parts that are there and whole, ascending; throw the rest away."""
        numbers = [part for part in range(self.count) if self.part_posts(part)]
        there = {self.part_path(part).name: part for part in numbers}
        entries = list((self.path / _PARTS).iterdir())
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            whole = list(pool.map(lambda entry: self._is_whole(there.get(entry.name)), entries))
        for entry, keep in zip(entries, whole, strict=True):
            if not keep:
                shutil.rmtree(entry)
        return sorted(there[e.name] for e, keep in zip(entries, whole, strict=True) if keep)

    def _is_whole(self, part: int | None) -> bool:
        if part is None:
            return False  # what was being written
        try:
            self.open_part(part)
        except CorpusError as exc:
            _log.warning("encoding a part again: %s", exc)
            return False
        return True

    def claim(self, encoder: str) -> None:
        """Say what encodes; it must be the same for all parts.

        Raises:
            CorpusError: Other parts were encoded by something else.
        """
        path = self.path / _ENCODER
        own = path.with_name(f".{_ENCODER}.{uuid.uuid4().hex}")
        own.write_text(encoder)
        try:
            os.link(own, path)  # as one step, and never over another's
        except FileExistsError:
            if (other := path.read_text()) != encoder:
                raise CorpusError(
                    self.path,
                    f"holds parts encoded by {other}, here encodes {encoder}, and the vectors may "
                    "differ in their last bits; go on there, or start over with --restart",
                ) from None
        finally:
            own.unlink()


def keep_work(path: Path, work: Work, dropped: npt.NDArray[np.int64]) -> Parts:
    """Write down what is to be built."""
    (path / _PARTS).mkdir(exist_ok=True)
    np.save(path / _DROPPED, dropped)
    text = {"dropped_sha256": sha256(path / _DROPPED), **asdict(work)}
    new = path / f".{_WORK}"
    new.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
    for written in (path / _DROPPED, new):
        flush(written)
    new.rename(path / _WORK)
    return Parts(path=path, work=work, dropped=dropped)


def find_work(path: Path, work: Work) -> Parts | None:
    """Read what was being built; None if it did not come to that.

    Raises:
        CorpusError: It was something else, or cannot be read.
    """
    try:
        text: dict[str, Any] = json.loads((path / _WORK).read_text(encoding="utf-8"))
        dropped_sha256 = text.pop("dropped_sha256")
        if dropped_sha256 != sha256(path / _DROPPED):
            raise ValueError(f"{_DROPPED} was changed")
        dropped = np.load(path / _DROPPED, allow_pickle=False)
        earlier = Work(**text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as exc:
        raise CorpusError(
            path, f"cannot be gone on with ({exc}); --restart throws it away and starts over"
        ) from exc
    if found := earlier.differences(work):
        raise CorpusError(
            path,
            f"holds parts of another build: {_listed(found)}; undo that, or "
            "throw them away and start over with --restart",
        )
    return Parts(path=path, work=work, dropped=dropped)


def _listed(texts: Sequence[str]) -> str:
    more = f", and {len(texts) - _NAMED} more differences" if len(texts) > _NAMED else ""
    return ", ".join(texts[:_NAMED]) + more
