"""The files of a build, from which an interrupted build continues.

    OUT.partial/work.json         inputs, options and start; written when all posts are checked
    OUT.partial/dropped.npy       the posts to leave out, as `check_posts` returns them
    OUT.partial/encoder.txt       the encoder: vectors of two kinds of devices must not be mixed
    OUT.partial/parts/NUMBER/     posts from NUMBER * part_rows on, as a corpus
    OUT.partial/corpus/           all parts joined, before it becomes OUT
    OUT.partial/lock              held by the process that builds

A part gets its name when it is complete, and has a checksum.

Shapes:
    n  posts that are left out, or posts of a call
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
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from phoenix_server.artifacts import flush, sha256
from phoenix_server.corpus.disk.snapshot import Snapshot, open_snapshot, verify
from phoenix_server.errors import CorpusError
from phoenix_server.runtime.arrays import I64, Bools

_log = logging.getLogger(__name__)

_FORMAT_VERSION = 2
_WORK, _DROPPED, _ENCODER, _PARTS = "work.json", "dropped.npy", "encoder.txt", "parts"
_MAX_LISTED = 3  # differences in an error message


@dataclass(frozen=True, kw_only=True)
class Work:
    """The inputs and options of a build.

    Attributes:
        tower_fingerprint: The fingerprint of the towers that encode.
        files: The identity of the files; see `Dataset`.
        rows: The number of posts in the files.
        drop_duplicates: Whether posts that repeat an earlier one are left out.
        part_rows: The number of posts of the files per part.
        batch_rows: The number of posts that are encoded at once.
        format_version: The format of the directory.
    """

    tower_fingerprint: str
    files: dict[str, list[int | str | None]]
    rows: int
    drop_duplicates: bool
    part_rows: int
    batch_rows: int
    format_version: int = _FORMAT_VERSION

    def differences(self, other: "Work") -> list[str]:
        """Describe how another build differs; empty if it does not."""
        ours, theirs = asdict(self), asdict(other)
        files, other_files = ours.pop("files"), theirs.pop("files")
        ours.pop("rows")  # follows from the files
        found = [
            f"{name} was {value}, is {theirs[name]}"
            for name, value in ours.items()
            if theirs[name] != value
        ]
        found += [f"{path} is a new input" for path in other_files if path not in files]
        found += [f"{path} is no longer an input" for path in files if path not in other_files]
        both = (path for path in files if path in other_files)
        found += [f"{path} was changed" for path in both if files[path] != other_files[path]]
        if not found and list(files) != list(other_files):
            found.append("the files are in another order")
        return found


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of one build.

    Attributes:
        path: The directory of the build.
        work: The inputs and options.
        dropped: [n] i64, the posts that are left out, ascending.
        now_ms: The time at which the build began, in milliseconds since 1970 UTC: which times of
            posts are in the future must not depend on interruptions.
    """

    path: Path
    work: Work
    dropped: I64
    now_ms: int

    @cached_property
    def count(self) -> int:
        """The number of parts."""
        return -(-self.work.rows // self.work.part_rows)

    @property
    def posts(self) -> int:
        """The number of posts in the corpus."""
        return self.work.rows - len(self.dropped)

    def rows(self, part: int) -> range:
        """Return the rows of a part, including posts that are left out."""
        start = part * self.work.part_rows
        return range(start, min(start + self.work.part_rows, self.work.rows))

    def kept(self, rows: range) -> Bools:
        """Return which of [n] rows are not left out, [n] bool."""
        keep = np.ones(len(rows), np.bool_)
        first, last = np.searchsorted(self.dropped, [rows.start, rows.stop])
        keep[self.dropped[first:last] - rows.start] = False
        return keep

    def part_posts(self, part: int) -> int:
        """Return the number of posts of a part that are not left out."""
        return int(np.count_nonzero(self.kept(self.rows(part))))

    def part_path(self, part: int) -> Path:
        """Return the path of a part."""
        return self.path / _PARTS / f"{part:08}"

    def open_part(self, part: int) -> Snapshot:
        """Open a part and verify its contents.

        Raises:
            CorpusError: It is missing, damaged, or of another build.
        """
        snapshot = open_snapshot(self.part_path(part))
        verify(snapshot)
        rows, fingerprint = snapshot.manifest.rows, snapshot.manifest.tower_fingerprint
        if (rows, fingerprint) != (self.part_posts(part), self.work.tower_fingerprint):
            raise CorpusError(snapshot.path, "is a part of another corpus")
        return snapshot

    def find(self) -> list[int]:
        """Return the complete parts, ascending, and remove incomplete ones."""
        numbers = {self.part_path(part): part for part in range(self.count)}

        def keep_whole(entry: Path) -> list[int]:
            part = numbers.get(entry)  # None: it was being written
            try:
                if part is not None and self.part_posts(part):
                    self.open_part(part)
                    return [part]
            except CorpusError as exc:
                _log.warning("encoding a part again: %s", exc)
            shutil.rmtree(entry)
            return []

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return sorted(chain(*pool.map(keep_whole, (self.path / _PARTS).iterdir())))

    def claim(self, encoder: str) -> None:
        """Record the encoder, which must be the same for all parts.

        Raises:
            CorpusError: Other parts were made by another encoder.
        """
        path = self.path / _ENCODER
        own = path.with_name(f".{_ENCODER}.{uuid.uuid4().hex}")
        own.write_text(encoder)
        try:
            os.link(own, path)  # atomic, and never replaces an existing file
        except FileExistsError:
            if (other := path.read_text()) != encoder:
                raise CorpusError(
                    self.path,
                    f"holds parts encoded by {other}, this is {encoder}, and vectors may differ in "
                    "their last bits; continue there, or start over with --restart",
                ) from None
        finally:
            own.unlink()


def save_work(path: Path, work: Work, dropped: I64, now_ms: int) -> Parts:
    """Store the inputs, options and start of a build, and create its parts."""
    (path / _PARTS).mkdir(exist_ok=True)
    np.save(path / _DROPPED, dropped)
    text = {"dropped_sha256": sha256(path / _DROPPED), "now_ms": now_ms, **asdict(work)}
    new = path / f".{_WORK}"
    new.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
    for written in (path / _DROPPED, new):
        flush(written)
    new.rename(path / _WORK)
    return Parts(path=path, work=work, dropped=dropped, now_ms=now_ms)


def load_work(path: Path, work: Work) -> Parts | None:
    """Return the parts of an interrupted build, None if there is none.

    Raises:
        CorpusError: The build differs from `work`, or cannot be read.
    """
    try:
        text: dict[str, Any] = json.loads((path / _WORK).read_text(encoding="utf-8"))
        dropped_sha256, now_ms = text.pop("dropped_sha256"), int(text.pop("now_ms"))
        if dropped_sha256 != sha256(path / _DROPPED):
            raise ValueError(f"{_DROPPED} was changed")
        dropped = np.load(path / _DROPPED, allow_pickle=False)
        earlier = Work(**text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as exc:
        what = f"cannot be continued ({exc}); --restart discards it and starts over"
        raise CorpusError(path, what) from exc
    if found := earlier.differences(work):
        raise CorpusError(
            path,
            f"holds parts of another build: {_listed(found)}; undo that, or "
            "discard them and start over with --restart",
        )
    return Parts(path=path, work=work, dropped=dropped, now_ms=now_ms)


def _listed(texts: Sequence[str]) -> str:
    more = f", and {len(texts) - _MAX_LISTED} more differences" if len(texts) > _MAX_LISTED else ""
    return ", ".join(texts[:_MAX_LISTED]) + more
