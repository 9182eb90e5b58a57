"""Read arrays from `.npz` and write them as safetensors in pieces, without holding them whole.

`np.load` reads whole arrays and the safetensors library writes whole tensors; an embedding table of
the published checkpoint has half a gigabyte.
"""

import json
import lzma
import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt

from phoenix_export.errors import CheckpointError

_PIECE_BYTES = 8 << 20  # a multiple of 4, the size of a float32
_ALIGNMENT = 64  # lets a mapped file become a device array without a copy
# RuntimeError: a member is encrypted, or its compression is unknown to zipfile.
_BAD_FILE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError,
)  # fmt: skip
# NumPy parses a header as a Python literal, and then sorts its keys.
_BAD_HEADER = (SyntaxError, tokenize.TokenError, TypeError, MemoryError)


class ArrayHeader(NamedTuple):
    """Shape, element type and order of an array in an `.npz`."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran_order: bool


def npz_headers(path: Path) -> dict[str, ArrayHeader]:
    """Return the header of every array in an `.npz`.

    Raises:
        CheckpointError: The file is missing, truncated or not an `.npz`.
    """
    headers: dict[str, ArrayHeader] = {}
    with _opened(path) as archive:
        for member in archive.namelist():
            if member.endswith(".npy"):
                with archive.open(member) as file:
                    headers[member.removesuffix(".npy")] = _read_header(file)
    return headers


def npz_pieces(path: Path, name: str) -> Iterator[npt.NDArray[np.float32]]:
    """Yield a float32 array of an `.npz` in flat pieces of a few megabytes.

    Raises:
        CheckpointError: The file is damaged, or its size does not match the array's shape.
    """
    with _opened(path) as archive, archive.open(f"{name}.npy") as file:
        header = _read_header(file)
        rest = math.prod(header.shape) * header.dtype.itemsize
        while rest:
            size = min(rest, _PIECE_BYTES)
            piece = file.read(size)
            rest -= len(piece)
            if len(piece) < size:
                raise CheckpointError(path, f"{name}: truncated, {rest} bytes are missing")
            yield np.frombuffer(piece, np.float32)
        if file.read(1):  # at the end of the file, zipfile also verifies the checksum
            raise CheckpointError(path, f"{name}: holds more than its shape {header.shape} takes")


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    pieces: Callable[[str], Iterator[npt.NDArray[np.float32]]],
) -> None:
    """Write float32 tensors, given in flat pieces, as one safetensors file.

    Args:
        path: The file to write.
        shapes: The tensors' shapes by name.
        pieces: Yields the data of a tensor, by name.

    Raises:
        ValueError: The pieces of a tensor do not add up to its shape.
    """
    header: dict[str, dict[str, object]] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, shape in shapes.items():
            written = 0
            for piece in pieces(name):
                file.write(piece.astype("<f4", copy=False).data)
                written += piece.size
            if written != math.prod(shape):
                raise ValueError(f"{name}: {written} numbers do not make the shape {shape}")


def map_safetensor(path: Path, name: str) -> npt.NDArray[np.float32]:
    """Map one tensor of a file written by `write_safetensors` into memory, read-only."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entry = json.loads(file.read(length))[name]
    offset = 8 + length + entry["data_offsets"][0]
    return np.memmap(path, np.float32, mode="r", offset=offset, shape=tuple(entry["shape"]))


@contextmanager
def _opened(path: Path) -> Generator[zipfile.ZipFile, None, None]:
    if not path.is_file():
        raise CheckpointError(path, "missing")
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except OSError as exc:
        raise CheckpointError(path, f"cannot be read: {exc.strerror or exc}") from exc
    except _BAD_FILE as exc:
        reason = str(exc) or "it ends too early"
        raise CheckpointError(path, f"truncated, damaged or no .npz: {reason}") from exc


def _read_header(file: IO[bytes]) -> ArrayHeader:
    try:
        match np.lib.format.read_magic(file):
            case (1, 0):
                shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
            case (2, 0):
                shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(file)
            case version:
                raise ValueError(f"unknown .npy version {version}")
    except _BAD_HEADER as exc:
        raise ValueError("the header of an array cannot be parsed") from exc
    return ArrayHeader(shape, dtype, fortran_order)
