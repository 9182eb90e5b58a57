"""Read vectors from a file of JSON lines: one array of numbers per line.

    [0.6, 0, -0.8]

All vectors have the same length. Empty lines are ignored.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from phoenix_client.errors import VectorsFileError
from phoenix_client.files.json_value import JsonValue


def load_vectors(path: str | Path) -> list[tuple[float, ...]]:
    """Read a file.

    Raises:
        VectorsFileError: It cannot be read, or does not hold vectors of one length.
    """
    try:
        with Path(path).open("rb") as lines:
            return parse_vectors(lines, name=str(path))
    except OSError as error:
        raise VectorsFileError(str(path), "", error.strerror or str(error)) from error


def parse_vectors(
    lines: Iterable[str | bytes], *, name: str = "<lines>"
) -> list[tuple[float, ...]]:
    """Read lines; errors call the file `name`.

    Raises:
        VectorsFileError: They do not hold vectors of one length.
    """
    vectors: list[tuple[float, ...]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        entry = JsonValue.parse(line, VectorsFileError, name, f"line {number}")
        vectors.append(vector := entry.floats())
        if len(vector) != len(vectors[0]):
            raise entry.error(f"has {len(vector)} numbers, the first vector has {len(vectors[0])}")
    if not vectors:
        raise VectorsFileError(name, "", "holds no vectors")
    return vectors
