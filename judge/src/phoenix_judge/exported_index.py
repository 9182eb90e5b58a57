"""Read what `phoenix-judge export` writes.

Shapes:
    N  posts        D  width of a vector        n  rows or posts of a call
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from phoenix_client.errors import FileError
from phoenix_client.files.json_value import JsonValue
from phoenix_judge.searchers import FaissSearcher, ScannSearcher, Searcher

MANIFEST = "index.json"
VECTORS = "vectors.npy"
POST_IDS = "post_ids.npy"
FORMAT_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of an exported index, in its `index.json`.

    Attributes:
        format: "faiss" or "scann".
        made_as: How it was built: FAISS's factory string, or ScaNN's sizes.
        tower_fingerprint: Of the towers that encoded the vectors.
        sequence: Number of the last change of the corpus that it includes.
        rows: N.
        embedding_size: D.
        leaves: Number of leaves of a ScaNN tree; else 0.
        reorder: Number of results that ScaNN scores exactly; else 0.
    """

    format: str
    made_as: str
    tower_fingerprint: str
    sequence: int
    rows: int
    embedding_size: int
    leaves: int = 0
    reorder: int = 0


class ExportedIndex:
    """An index, with the ids and vectors of its posts.

    Attributes:
        path: Its directory.
        manifest: Its description.
        searcher: Searches it.
    """

    def __init__(self, path: Path) -> None:
        """Read an index.

        Raises:
            FileError: A file is missing, damaged, or does not fit the others.
            ModuleNotFoundError: Its library is not installed.
        """
        self.path = path
        self.manifest = manifest = read_manifest(path / MANIFEST)
        shape = (manifest.rows, manifest.embedding_size)
        self._vectors = _array(path / VECTORS, "<f4", shape)  # [N, D]
        self._post_ids = _array(path / POST_IDS, "<u8", shape[:1])  # [N]
        self._order = np.argsort(self._post_ids)
        if manifest.format == "faiss":
            self.searcher: Searcher = FaissSearcher(path)
        else:
            sizes = {"leaves": manifest.leaves, "reorder": manifest.reorder}
            self.searcher = ScannSearcher(path, **sizes, width=manifest.embedding_size)
        found = (self.searcher.rows, self.searcher.width)
        if found != shape:
            raise FileError(str(path), "", f"its index has shape {found}, its vectors {shape}")

    def post_ids(self, rows: Sequence[int]) -> list[int]:
        """Return the posts at rows [n]."""
        return self._post_ids[np.array(rows, np.intp)].tolist()

    def rows_of(self, post_ids: Sequence[int]) -> list[int | None]:
        """Return the rows of posts [n]; None for a post that it does not hold."""
        wanted = np.array(post_ids, np.uint64)
        places = np.searchsorted(self._post_ids, wanted, sorter=self._order)
        rows = self._order[np.minimum(places, len(self._order) - 1)]
        held = self._post_ids[rows] == wanted
        return [row if there else None for row, there in zip(rows.tolist(), held, strict=True)]

    def scores(self, query: npt.NDArray[np.float32], rows: Sequence[int]) -> list[float]:
        """Return the scores of posts at rows [n] for a query [D].

        The products are summed in float64 and the sum is rounded to float32: equal vectors have
        equal scores, and others differ as far as float32 can tell.
        """
        vectors = np.asarray(self._vectors[np.array(rows, np.intp)], np.float64)  # [n, D]
        return (vectors * query.astype(np.float64)).sum(axis=1).astype(np.float32).tolist()


def read_manifest(path: Path) -> Manifest:
    """Read an `index.json`.

    Raises:
        FileError: It is not one, or it describes vectors without an index.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        hint = "write one with phoenix-judge export"
        raise FileError(str(path), "", f"{error.strerror}; {hint}") from error
    document = JsonValue.parse(text, FileError, str(path))
    version, form = document.member("format_version"), document.member("format")
    if version.uint() != FORMAT_VERSION:
        raise version.misfit(f"must be {FORMAT_VERSION}")
    leaves = reorder = 0
    match form.text():
        case "faiss":
            made_as = document.member("factory").text()
        case "scann":
            leaves, reorder = (
                document.member(key).uint(minimum=1) for key in ("leaves", "reorder")
            )
            made_as = f"ScaNN, {leaves} leaves, reorder {reorder}"
        case "npy":
            raise form.error("is npy: vectors without an index, nothing to search")
        case _:
            raise form.misfit("must be faiss or scann")
    return Manifest(
        format=form.text(),
        made_as=made_as,
        tower_fingerprint=document.member("tower_fingerprint").text(),
        sequence=document.member("sequence").uint(),
        rows=document.member("rows").uint(minimum=1),
        embedding_size=document.member("embedding_size").uint(minimum=1),
        leaves=leaves,
        reorder=reorder,
    )


def _array(path: Path, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Map an array into memory.

    Raises:
        FileError: It is not an array of this type and shape.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise FileError(str(path), "", error.strerror or str(error)) from error
    except (ValueError, EOFError) as error:
        raise FileError(str(path), "", f"is not an array of numpy: {error}") from error
    if not isinstance(array, np.ndarray) or (array.dtype, array.shape) != (np.dtype(dtype), shape):
        raise FileError(str(path), "", f"should be of {dtype} {shape}")
    return array
