"""Read and write directories with a manifest that lists the size and SHA-256 of each file.

Bundles and corpora are such directories. One is written under a temporary name, flushed to the disk
and renamed, so that a directory with the final name is always complete.
"""

import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from phoenix_retrieval.v1.manifest_pb2 import BundleManifest, CorpusManifest, File
from phoenix_server.errors import ArtifactError, PhoenixServerError, escape_controls

MANIFEST = "manifest.json"
COMPILED = "compiled"
"""The directory in a bundle for programs compiled ahead."""
MAX_FILES = 10_000
"""Files and directories of a bundle or a corpus that are looked at one by one."""
_MAX_MANIFEST = 64 << 20
_PRIVATE = 0o750  # posts are the owner's and the group's

M = TypeVar("M", BundleManifest, CorpusManifest)
ErrorType = Callable[[Path, str], ArtifactError]


def read_manifest(
    directory: Path,
    manifest: M,
    error: ErrorType,
    *,
    version: int,
    check: Callable[[bytes], None] = lambda contents: None,
) -> M:
    """Read a directory's `manifest.json` into `manifest`, and return it.

    Args:
        directory: The directory.
        manifest: An empty message.
        error: Type of the error to raise.
        version: The format version that this server reads.
        check: Called with the file's contents, before anything in them is believed.

    Raises:
        ArtifactError: Of the given kind; it is missing, not such a manifest, or not of the format
            version that this server reads.
    """
    path = directory / MANIFEST
    if not directory.is_dir():
        raise error(directory, "no such directory" if not directory.exists() else "not a directory")
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_MANIFEST:
            raise error(path, f"is not a file of at most {_MAX_MANIFEST >> 20} MiB")
        contents = path.read_bytes()
        text = contents.decode()
    except FileNotFoundError:
        raise error(path, "missing; this directory is not whole") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise error(path, f"cannot be read: {exc}") from exc
    check(contents)
    try:
        json_format.Parse(text, manifest)
    except json_format.ParseError as exc:
        raise error(path, f"is not a {type(manifest).__name__}: {exc}") from exc
    if (found := manifest.format_version) != version:
        raise error(directory, f"has format version {found}, this server reads {version}")
    return manifest


def write_manifest(directory: Path, manifest: Message) -> None:
    """Write `manifest.json`."""
    text = json_format.MessageToJson(manifest, preserving_proto_field_name=True, indent=1)
    (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """Return a file's SHA-256 in lower-case hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_files(directory: Path, files: Iterable[File], error: ErrorType) -> None:
    """Check that files exist and have the sizes and the SHA-256 sums that a manifest lists.

    Raises:
        ArtifactError: Of the given kind, for the first file that does not.
    """
    files = list(files)
    try:
        for file in files:
            _check_size(directory, file, error)
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:  # hashing releases the GIL
            sums = pool.map(lambda file: sha256(directory / file.path), files)
            for file, actual in zip(files, sums, strict=True):
                if actual != file.sha256:
                    what = f"was changed: its SHA-256 is {actual}, the manifest says {file.sha256}"
                    raise error(directory / file.path, what)
    except OSError as exc:
        raise error(Path(exc.filename or directory), f"cannot be read: {exc.strerror}") from exc


def _check_size(directory: Path, file: File, error: ErrorType) -> None:
    path = directory / file.path
    inside = PurePosixPath(file.path)  # what a link points to is the operator's business
    if inside.is_absolute() or ".." in inside.parts:
        raise error(path, "lies outside the directory that lists it")
    if not path.is_file():
        raise error(path, "missing")
    if (size := path.stat().st_size) != file.size_bytes:
        raise error(path, f"was truncated or changed: has {size} bytes, not {file.size_bytes}")


@contextmanager
def new_directory(
    out: Path, error: ErrorType, *, durable: bool = True, mode: int = _PRIVATE
) -> Generator[Path, None, None]:
    """Yield a temporary directory, which is renamed to `out` if the block succeeds.

    Args:
        out: The final directory; must not exist.
        error: Type of the error to raise.
        durable: Flush it to the disk before it is renamed, so that it is complete after a power
            failure, too.
        mode: Its permissions.

    Raises:
        ArtifactError: Of the given kind; `out` exists or cannot be written.
    """
    if os.path.lexists(out):
        raise error(out, "exists; choose another place or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as exc:
        raise error(out, f"cannot be written: {exc.strerror}") from exc
    try:
        yield staging
        staging.chmod(mode)
        if durable:
            for path in (*staging.rglob("*"), staging):
                flush(path)
        staging.rename(out)
        if durable:
            flush(out.parent)
    except OSError as exc:
        raise error(out, f"cannot be written: {exc.strerror or exc}") from exc
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def walk(directory: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """Yield what a directory holds, at any depth, also behind links; each directory once.

    A link comes before what is behind it.

    Args:
        directory: The directory; itself not yielded.
        on_error: Called for each directory that cannot be listed. Default: it is passed over.
    """
    seen = {directory.resolve()}  # links may lead in a circle
    for top, folders, names in os.walk(directory, onerror=on_error, followlinks=True):
        paths = [Path(top, name) for name in (*folders, *names)]
        yield from paths
        new: list[str] = []
        for path in paths[: len(folders)]:
            if (target := path.resolve()) not in seen:
                seen.add(target)
                new.append(path.name)
        folders[:] = new


def describe_file(directory: Path, path: Path) -> File:
    """Return the manifest entry of a file."""
    return File(
        path=path.relative_to(directory).as_posix(),
        size_bytes=path.stat().st_size,
        sha256=sha256(path),
    )


def flush(path: Path) -> None:
    """Flush a file, or the entries of a directory, to the disk.

    Some network filesystems refuse to flush directories; they write entries at once.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in one step, in place of any that is there, and flush it to the disk."""
    fresh = path.with_name(f".{path.name}.new")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    flush(path.parent)


def describe_error(exc: Exception) -> str:
    """Return an error as one line for people; control characters in it are escaped."""
    if isinstance(exc, PhoenixServerError):
        text = str(exc)
    elif isinstance(exc, OSError) and exc.filename:
        text = f"{exc.filename}: {exc.strerror}"
    else:
        text = f"{type(exc).__name__}: {exc}"
    # JAX and protobuf use several lines.
    return escape_controls(" ".join(map(str.strip, text.splitlines())))
