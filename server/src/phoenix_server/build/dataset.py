"""The Parquet files of a build: find them, order them and record their identity.

The posts of a corpus are in the order of the files, and of the rows within each file.
"""

import hashlib
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeAlias
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from phoenix_server.build.columns import COLUMNS, check_alike, check_columns
from phoenix_server.errors import CorpusError

Place: TypeAlias = Path | str
"""A path on this machine, or a URI such as s3://bucket/folder."""

_READERS = 8  # files opened at once, to hide the latency of remote filesystems
_TAIL_BYTES = 8  # after the footer of a Parquet file: its length, and PAR1


@dataclass(frozen=True, kw_only=True)
class PostFile:
    """One Parquet file of posts.

    Attributes:
        name: Its name in messages.
        path: Its path on the filesystem.
        filesystem: Its filesystem.
        size_bytes: Its size.
        modified_ns: When it was last written, nanoseconds since 1970; None if unknown.
        footer_sha256: The SHA-256 of its footer, the description of the contents.
        group_rows: The number of posts in each row group.
    """

    name: Place
    path: str
    filesystem: pafs.FileSystem
    size_bytes: int
    modified_ns: int | None
    footer_sha256: str
    group_rows: tuple[int, ...]

    @cached_property
    def rows(self) -> int:
        """The number of posts in the file."""
        return sum(self.group_rows)

    @contextmanager
    def open(self) -> Generator[pq.ParquetFile, None, None]:
        """Open the file to read posts.

        Raises:
            CorpusError: The file has changed, or data read in the block are damaged.
        """
        with read_errors(self.name):
            info = self.filesystem.get_file_info(self.path)
            if (info.size, info.mtime_ns) != (self.size_bytes, self.modified_ns):
                raise CorpusError(self.name, "was changed while a corpus is built from it")
            with (
                self.filesystem.open_input_file(self.path) as source,
                pq.ParquetFile(
                    source,
                    pre_buffer=not isinstance(self.filesystem, pafs.LocalFileSystem),
                    page_checksum_verification=True,
                    coerce_int96_timestamp_unit="ms",  # in ns, times after 2262 wrap around
                ) as file,
            ):
                yield file


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The ordered Parquet files of a build.

    Attributes:
        name: Its name in messages.
        files: The files.
        columns: Which of `COLUMNS` the files have.
    """

    name: Place
    files: tuple[PostFile, ...]
    columns: tuple[str, ...]

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The number of posts before each file, and finally of all files."""
        return tuple(accumulate((file.rows for file in self.files), initial=0))

    @property
    def rows(self) -> int:
        """The number of posts in the files."""
        return self.starts[-1]

    @property
    def identity(self) -> dict[str, list[int | str | None]]:
        """The size in bytes, time of writing and SHA-256 of the footer of each file, by path."""
        names = (f"{file.filesystem.type_name}:{file.path}" for file in self.files)
        contents = ([file.size_bytes, file.modified_ns, file.footer_sha256] for file in self.files)
        return dict(zip(names, contents, strict=True))

    def locate(self, row: int) -> tuple[Place, int]:
        """Return the file that holds a row of the dataset, and the row within the file."""
        index = bisect_right(self.starts, row) - 1
        return self.files[index].name, row - self.starts[index]


class _Entry(NamedTuple):
    """A file found, before its footer is read."""

    name: Place
    info: pafs.FileInfo
    filesystem: pafs.FileSystem


def open_dataset(places: Sequence[Place], filesystem: pafs.FileSystem | None = None) -> Dataset:
    """Find Parquet files and read their footers.

    Args:
        places: Files, in this order, and directories, which stand for the files below them sorted
            by path. Below a directory, names that start with a dot or an underscore are skipped.
        filesystem: The filesystem of the files. Default: local, or that of the URI.

    Raises:
        CorpusError: A file is missing, damaged, given twice or has invalid columns; there are no
            posts; or a filesystem does not answer.
    """
    found = [file for place in places for file in _find(place, filesystem)]
    times = Counter((file.filesystem.type_name, file.info.path) for file in found)
    for file in found:
        if times[file.filesystem.type_name, file.info.path] > 1:
            raise CorpusError(file.name, "is given more than once")
    with ThreadPoolExecutor(_READERS) as pool:
        described = list(pool.map(_describe, found))
    name = _shown(places[0])
    if len(places) > 1:
        name = f"{name} and {len(places) - 1} more"
    if not sum(file.rows for file, _ in described):
        raise CorpusError(name, "holds no posts")
    check_alike([(file.name, schema) for file, schema in described])
    return Dataset(
        name=name,
        files=tuple(file for file, _ in described),
        columns=tuple(column for column in COLUMNS if column in described[0][1].names),
    )


@contextmanager
def read_errors(name: Place) -> Generator[None, None, None]:
    """Attribute errors of pyarrow in the block to the file.

    Raises:
        CorpusError: The data are not Parquet, or are damaged.
    """
    try:
        yield
    except FileNotFoundError:
        raise CorpusError(name, "no such file") from None
    except (pa.ArrowException, OSError) as exc:  # OSError: damaged compressed data
        raise CorpusError(name, f"is not a readable Parquet file: {exc}") from exc


def _find(place: Place, filesystem: pafs.FileSystem | None) -> list[_Entry]:
    """Return the file at a place, or the files below it, sorted by path."""
    shown = _shown(place)
    try:
        on, path = _resolve(place, filesystem)
        info = on.get_file_info(path)
        if info.type == pafs.FileType.NotFound:
            raise CorpusError(shown, "no such file")
        if info.type == pafs.FileType.File:
            return [_Entry(shown, info, on)]
        below = on.get_file_info(pafs.FileSelector(path, recursive=True))
    except (pa.ArrowException, OSError) as exc:
        reason = str(exc).replace(str(place), str(shown))  # a URI may contain a password
        raise CorpusError(shown, f"cannot be listed: {reason}") from exc
    files: list[_Entry] = []
    for entry in sorted(below, key=lambda entry: entry.path):
        inside = PurePosixPath(entry.path.removeprefix(path).lstrip("/"))
        if entry.type != pafs.FileType.File or any(p.startswith((".", "_")) for p in inside.parts):
            continue
        name = shown / inside if isinstance(shown, Path) else f"{shown.rstrip('/')}/{inside}"
        _check_folders(name, inside.parts[:-1])
        files.append(_Entry(name, entry, on))
    return files


def _resolve(place: Place, filesystem: pafs.FileSystem | None) -> tuple[pafs.FileSystem, str]:
    if filesystem is not None:
        return filesystem, str(place)
    if _is_uri(place):
        return pafs.FileSystem.from_uri(place)
    return pafs.LocalFileSystem(), os.path.abspath(place)


def _is_uri(place: Place) -> bool:
    return isinstance(place, str) and "://" in place


def _shown(place: Place) -> Place:
    """Return the name of a place in messages, without the password that a URI may contain."""
    if not _is_uri(place):
        return Path(place)
    uri = urlsplit(str(place))
    return f"{uri.scheme}://{uri.netloc.rpartition('@')[2]}{uri.path}"


def _check_folders(name: Place, folders: Sequence[str]) -> None:
    """Check that no column is a Hive partition (a directory name), which is not read."""
    for folder in folders:
        column = folder.partition("=")[0]
        if "=" in folder and column in COLUMNS:
            what = f"{column} is in the name of a directory; only columns in files are read"
            raise CorpusError(name, what)


def _describe(found: _Entry) -> tuple[PostFile, pa.Schema]:
    """Read a file's footer and check its columns."""
    name, info, filesystem = found
    with read_errors(name), filesystem.open_input_file(info.path) as source:
        with pq.ParquetFile(source) as file:
            schema, metadata = file.schema_arrow, file.metadata
        source.seek(info.size - _TAIL_BYTES - metadata.serialized_size)
        footer = source.read(metadata.serialized_size)
    check_columns(name, schema)
    groups = (metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
    described = PostFile(
        name=name,
        path=info.path,
        filesystem=filesystem,
        size_bytes=info.size,
        modified_ns=info.mtime_ns,
        footer_sha256=hashlib.sha256(footer).hexdigest(),
        group_rows=tuple(groups),
    )
    return described, schema
